"""Best of several: the model says how well each picture shows its prompt. No picture is removed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from janus_app.errors import AppError
from janus_app.outputs.image_io import open_picture
from janus_app.types import Event, RankRequest
from janus_app.ui.common.html import message, messages
from janus_app.ui.common.jobs import watch
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import PageContext


def ranked(
    page: PageContext, items: list[SavedImage], index: int, selected: str | None, language: str
) -> Iterator[tuple[str, list[SavedImage] | None]]:
    """Rank the pictures that share the prompt of `items[index]`.

    Yields what to show as status and, once, the gallery's pictures in their new order: the ranked ones first, best
    first and with scores.
    """
    say = page.texts.say
    if not items:
        yield message(say("token_none", language), "warning"), None
        return
    prompt = items[min(index, len(items) - 1)].metadata.prompt
    candidates = [item for item in items if item.metadata.prompt == prompt]

    def job() -> Iterator[Event]:
        try:
            images = tuple(open_picture(item.shown) for item in candidates)
        except OSError:
            raise AppError("rank_picture_gone") from None
        return page.job(selected, RankRequest(prompt, images))

    for frame in watch(job, page.texts, language):
        if frame.error:
            yield message(frame.error, "error"), None
        elif frame.finished is None or not frame.finished.scores:
            yield frame.status + messages(frame.notices), None
        else:
            scores = frame.finished.scores
            scored = [replace(item, score=score) for item, score in zip(candidates, scores, strict=True)]
            scored.sort(key=lambda item: -(item.score or 0.0))
            others = [item for item in items if item.metadata.prompt != prompt]
            line = say("ranked", language, count=len(scored), seed=scored[0].metadata.seed)
            yield message(line, "done") + messages(frame.notices), [*scored, *others]
