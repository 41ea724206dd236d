"""What a picture shows, in words, for people who cannot see it: its prompt, or what the loaded model says of it.

A prompt is what was asked for; only somebody who looked can say what came of it. So the model looks, when asked to, and
its words are kept beside the picture. They may be wrong, which the page says.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from janus_app.errors import AppError
from janus_app.outputs.descriptions import describe, description
from janus_app.outputs.image_io import open_picture
from janus_app.types import ChatRequest, Event, Turn
from janus_app.ui.common.html import message, messages
from janus_app.ui.common.jobs import watch
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import PageContext

LONGEST_ANSWER = 120  # tokens


def alt_of(print_: SavedImage) -> str:
    """The picture's alternative text."""
    return description(print_.file) or print_.record.prompt


def alts_html(gallery_items: list[SavedImage]) -> str:
    """The alternative texts of a gallery's pictures, unseen, by file name; assets/page.js puts them to the pictures.

    Gradio's gallery knows captions only, and shows them.
    """
    return "".join(
        f'<i hidden data-picture="{escape(p.file.name, quote=True)}" data-alt="{escape(alt_of(p), quote=True)}"></i>'
        for p in gallery_items
    )


def described(page: PageContext, print_: SavedImage, language: str) -> Iterator[str]:
    """Let the loaded model describe the picture and keep its words; gives what to say meanwhile."""
    say = page.texts.say

    def ask() -> Iterator[Event]:
        turn = Turn("user", say("describe_request", language), (open_picture(print_.shown),))
        return page.job(None, ChatRequest((turn,), temperature=0, max_new_tokens=LONGEST_ANSWER))

    for frame in watch(ask, page.texts, language):
        if frame.error:
            yield message(frame.error, "error")
        elif frame.finished is None:
            yield frame.status + messages(frame.notices)
        elif not (words := frame.finished.text.strip()):
            yield message(say("alt_nothing", language), "warning")
        else:
            resident = page.loaded_variant()
            try:
                describe(print_.file, words)
                yield message(say("alt_kept", language, title=resident.title if resident else ""), "done")
            except AppError as error:
                yield message(page.texts.text(error, language), "error")
