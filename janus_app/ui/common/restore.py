"""A picture of this app dropped anywhere on the page sets the controls it was made with; any other goes to the chat."""

from __future__ import annotations

import math
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.outputs.image_io import open_picture
from janus_app.outputs.metadata import ImageMetadata, read_metadata, request_of
from janus_app.ui.common.html import message
from janus_app.ui.common.links import Places
from janus_app.ui.context import QUICK, PageContext
from janus_app.ui.tabs.draw.tab import restored_values


def build(page: PageContext, places: Places) -> None:
    """The page's unseen place for dropped files (assets/page.js fills it), and the edit tab's visible one."""
    drawing, editing, chat = places.drawing, places.editing, places.chat
    anywhere = gr.File(elem_id="page-drop", elem_classes="unseen", label="page-drop", file_types=["image"])
    stay_drawing = tuple(gr.skip() for _ in drawing.restored)
    stay_editing = tuple(gr.skip() for _ in editing.restored)

    def on_page(path: str | None, box: dict[str, Any] | None, request: gr.Request) -> tuple[Any, ...]:
        language, say = page.language(request), page.texts.say
        stay = (*stay_drawing, *stay_editing, gr.skip(), gr.skip(), None)
        if not path:
            return stay
        try:
            open_picture(path)
        except AppError as error:
            gr.Warning(page.texts.text(error, language))
            return stay
        try:
            record = read_metadata(path)
            drawn = restored_values(request_of(record)) if record.verb == "generate" else stay_drawing
            edited = edit_values(page, record) if record.verb == "edit" else stay_editing
        except AppError:  # somebody's picture, not one of ours: something to talk about
            files = [*((box or {}).get("files") or []), path]
            given = {"text": (box or {}).get("text") or "", "files": files}
            return (*stay_drawing, *stay_editing, given, gr.update(selected="chat"), None)
        tab = "edit" if record.verb == "edit" else "draw"
        gr.Info(say("drop_read", language, title=record.title, seed=record.seed))
        return *drawn, *edited, gr.skip(), gr.update(selected=tab), None

    def on_edit_drop(path: str | None, request: gr.Request) -> tuple[Any, ...]:
        language = page.language(request)
        if not path:
            return "", *stay_editing
        try:
            record = read_metadata(path)
            return note_html(page, record, language), *edit_values(page, record)
        except AppError as error:
            return message(page.texts.text(error, language), "error"), *stay_editing

    places_filled = [*drawing.restored, *editing.restored, chat.box, places.tabs, anywhere]
    anywhere.upload(on_page, [anywhere, chat.box], places_filled, **QUICK)
    editing.drop.change(on_edit_drop, editing.drop, [editing.drop_note, *editing.restored], **QUICK)


def edit_values(page: PageContext, record: ImageMetadata) -> tuple[Any, ...]:
    """The edit tab's controls for a record, in the order of `EditTab.restored`. Raises AppError for absurd ones.

    A way of editing the model at hand does not have, and numbers the record does not hold, stay as they are.
    """
    asked, settings = request_of(record), record.settings
    state = page.session.state
    known = state.capabilities.edit_methods if state.capabilities else {}

    def number(name: str) -> Any:
        value = settings.get(name)
        return value if isinstance(value, (int, float)) and math.isfinite(value) else gr.skip()

    method = settings.get("method")
    return (
        asked.prompt,
        record.source_prompt,
        method if method in known else gr.skip(),
        asked.negative,
        1,
        gr.update(value=asked.guidance, maximum=max(10, asked.guidance)),
        number("image_guidance"),
        asked.temperature,
        number("strength"),
        asked.steps,
        asked.solver,
        *asked.guidance_interval,
        False,
        asked.seed,
    )


def note_html(page: PageContext, record: ImageMetadata, language: str) -> str:
    """What was read, and what a record of an edit leaves to the person: the picture it began with."""
    say, resident = page.texts.say, page.loaded_variant()
    lines = message(say("drop_read", language, title=record.title, seed=record.seed), "done")
    if record.verb == "edit":
        lines += message(say("drop_edit_source", language), "note")
    if resident is None or resident.id != record.model:
        lines += message(say("drop_other_model", language, title=record.title), "warning")
    return lines
