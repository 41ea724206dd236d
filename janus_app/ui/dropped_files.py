"""A picture dropped anywhere on the page restores its settings or prompt; one without goes to the chat."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.file_kinds import is_weights, other_model_format
from janus_app.models.common.weight_files import WEIGHT_SUFFIXES
from janus_app.outputs.foreign_prompt import ForeignPrompt, read_settings
from janus_app.outputs.image_io import open_picture
from janus_app.outputs.metadata import ImageMetadata, request_of
from janus_app.registry.checkpoint_folder import folder_of_file, weights_alone
from janus_app.ui.common.controls import foreign_line
from janus_app.ui.common.html import message
from janus_app.ui.context import NOTIFYING, QUICK, PageContext, Updates, Values, attach
from janus_app.ui.picture_links import Places
from janus_app.ui.tabs.edit.tab import EditTab
from janus_app.ui.tabs.edit.words import kind_of, written

BEGINNING = 1_000_000  # bytes of a file too large for an upload that assets/page/ sends


@dataclass(frozen=True)
class DropHandlers:
    page: PageContext
    places: Places
    anywhere: gr.File

    def on_page(self, values: Values, request: gr.Request) -> Updates:
        """A file dropped beside every other drop area."""
        language, path, say = self.page.language(request), values[self.anywhere], self.page.texts.say
        emptied: Updates = {self.anywhere: None}
        if not path:
            return emptied
        try:
            open_picture(path)
        except AppError as error:
            gr.Warning((_model_instead(Path(path)) or error).text(language))
            return emptied
        try:
            record = read_settings(path)
            if isinstance(record, ForeignPrompt):
                restored, tab = self.places.drawing.panel.controls.fill(record), "draw"
            elif record.verb == "edit":
                restored, tab = edit_updates(self.page, self.places.editing, record), "edit"
            else:
                restored, tab = self.places.drawing.restore(request_of(record)), "draw"
        except AppError:  # a picture without settings: something to talk about
            restored, tab = self._into_chat(values, path), "chat"
        else:
            if isinstance(record, ForeignPrompt):
                gr.Info(foreign_line(self.page, record, language))
            else:
                gr.Info(say("drop_read", language, title=record.title, seed=record.seed))
        return {**restored, self.places.tabs: gr.update(selected=tab), **emptied}

    def _into_chat(self, values: Values, path: str) -> Updates:
        box = values[self.places.chat.box] or {}
        files = [*(box.get("files") or []), path]
        return {self.places.chat.box: {"text": box.get("text") or "", "files": files}}

    def on_edit_tab(self, values: Values, request: gr.Request) -> Updates:
        """A file in the edit tab's own drop area."""
        editing, language = self.places.editing, self.page.language(request)
        settings = editing.panels.settings
        path = values[settings.drop]
        if not path:
            return {settings.drop_note: ""}
        try:
            record = read_settings(path)
            if isinstance(record, ForeignPrompt):
                note = message(foreign_line(self.page, record, language), "done")
                return {settings.drop_note: note, **settings.controls.fill(record)}
            restored = edit_updates(self.page, editing, record)
        except AppError as error:
            return {settings.drop_note: message(error.text(language), "error")}
        return {settings.drop_note: note_html(self.page, record, language), **restored}


def _model_instead(file: Path) -> AppError | None:
    """What a dropped file of a model is; None for a file that looks like none."""
    if not (is_weights(file) or other_model_format(file) or file.suffix.lower() in WEIGHT_SUFFIXES):
        return None
    try:
        folder_of_file(file)
    except AppError as refused:
        # assets/page/ sends only the beginning of a large file
        cut = refused.code.startswith("weights_cut") and file.stat().st_size == BEGINNING
        return weights_alone(file) if cut else refused
    return None


def build(page: PageContext, places: Places) -> None:
    """Build the page's hidden place for dropped files, which assets/page/ fills, and attach the handlers."""
    anywhere = gr.File(elem_id="page-drop", elem_classes="unseen", label="page-drop")
    handlers = DropHandlers(page, places, anywhere)
    chat, editing = places.chat, places.editing
    outputs: set[Any] = {*places.drawing.restored, *editing.settings, chat.box, places.tabs, anywhere}
    attach(anywhere.upload, handlers.on_page, {anywhere, chat.box}, outputs, **NOTIFYING)
    settings = editing.panels.settings
    attach(
        settings.drop.change, handlers.on_edit_tab, {settings.drop}, {settings.drop_note, *editing.settings}, **QUICK
    )


def edit_updates(page: PageContext, editing: EditTab, record: ImageMetadata) -> Updates:
    """The edit tab's controls as the metadata describes them. Raises AppError for settings out of range.

    A method that the loaded model does not have, and numbers that the metadata does not contain, stay as they are.
    """
    panels, saved = editing.panels, record.settings
    state = page.session.state
    updates: Updates = {
        **panels.settings.controls.restore(request_of(record)),
        panels.method.source_prompt: record.source_prompt,
        panels.settings.written: written(kind_of(str(saved.get("method")))),
    }
    if state.capabilities and saved.get("method") in state.capabilities.edit_methods:
        updates[panels.method.method] = saved["method"]
    for name, slider in (("image_guidance", panels.settings.image_guidance), ("strength", panels.settings.strength)):
        value = saved.get(name)
        if isinstance(value, (int, float)) and math.isfinite(value):
            updates[slider] = value
    return updates


def note_html(page: PageContext, record: ImageMetadata, language: str) -> str:
    """What was read, and for an edit that its metadata does not contain the picture it began with."""
    say, loaded = page.texts.say, page.loaded_variant()
    lines = message(say("drop_read", language, title=record.title, seed=record.seed), "done")
    if record.verb == "edit":
        lines += message(say("drop_edit_source", language), "note")
    if loaded is None or loaded.id != record.model:
        lines += message(say("drop_other_model", language, title=record.title), "warning")
    return lines
