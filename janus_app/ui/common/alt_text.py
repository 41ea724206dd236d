"""Alternative texts of pictures for people who cannot see them: the prompt, or a description by the loaded model.

A prompt says what was asked for, not what was drawn. So the user can have the model describe the picture, and the
description is saved beside it. It may be wrong, and the page says so.
"""

from __future__ import annotations

from collections.abc import Iterator

from janus_app.errors import AppError
from janus_app.outputs.descriptions import describe, description
from janus_app.outputs.image_io import open_picture
from janus_app.types import ChatRequest, Event, Turn
from janus_app.ui.common.html import message, messages
from janus_app.ui.common.jobs import watch
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import PageContext

MAX_DESCRIPTION_TOKENS = 120


def alt_of(image: SavedImage) -> str:
    """The picture's alternative text."""
    return description(image.file) or image.metadata.prompt


def described(page: PageContext, image: SavedImage, language: str) -> Iterator[str]:
    """Let the loaded model describe the picture, and save the description. Yields HTML about the job."""
    say = page.texts.say

    def ask() -> Iterator[Event]:
        turn = Turn("user", say("describe_request", language), (open_picture(image.shown),))
        return page.job(None, ChatRequest((turn,), temperature=0, max_new_tokens=MAX_DESCRIPTION_TOKENS))

    for frame in watch(ask, page.texts, language):
        if frame.error:
            yield message(frame.error, "error")
        elif frame.finished is None:
            yield frame.status + messages(frame.notices)
        elif not (words := frame.finished.text.strip()):
            yield message(say("alt_nothing", language), "warning")
        else:
            loaded = page.loaded_variant()
            try:
                describe(image.file, words)
                yield message(say("alt_kept", language, title=loaded.title if loaded else ""), "done")
            except AppError as error:
                yield message(error.text(language), "error")
