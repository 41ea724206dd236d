"""Best of several: the model looks at its own pictures and says which show what was asked for. None is hidden."""

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
    page: PageContext, kept: list[SavedImage], index: int, selected: str | None, language: str
) -> Iterator[tuple[str, list[SavedImage] | None]]:
    """What to say and, once, the shelf with the pictures of the chosen one's prompt first, best first, with scores."""
    say = page.texts.say
    if not kept:
        yield message(say("token_none", language), "warning"), None
        return
    prompt = kept[min(index, len(kept) - 1)].record.prompt
    asked = [print_ for print_ in kept if print_.record.prompt == prompt]

    def job() -> Iterator[Event]:
        try:
            images = tuple(open_picture(print_.shown) for print_ in asked)
        except OSError:
            raise AppError("One of the pictures is no longer there. Draw again.") from None
        return page.job(selected, RankRequest(prompt, images))

    for frame in watch(job, page.texts, language):
        if frame.error:
            yield message(frame.error, "error"), None
        elif frame.finished is None or not frame.finished.scores:
            yield frame.status + messages(frame.notices), None
        else:
            scored = [replace(p, score=score) for p, score in zip(asked, frame.finished.scores, strict=True)]
            scored.sort(key=lambda print_: -(print_.score or 0.0))
            others = [print_ for print_ in kept if print_.record.prompt != prompt]
            line = say("ranked", language, count=len(scored), seed=scored[0].record.seed)
            yield message(line, "done") + messages(frame.notices), [*scored, *others]
