"""What the buttons under a picture do: they take it to another tab and, where useful, start a job there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.outputs.metadata import parameters, request_of
from janus_app.ui.common.actions import COPY, Actions, BrowserDownload, PictureSource, download, halt, press
from janus_app.ui.common.pictures import newest_first
from janus_app.ui.context import NOTIFYING, QUICK, PageContext, Updates, Values, attach
from janus_app.ui.tabs.chat.tab import ChatTab
from janus_app.ui.tabs.draw.tab import DrawTab
from janus_app.ui.tabs.edit.tab import EditTab

EDITOR_BEGUN = "() => window.janus.editorBegun()"


@dataclass(frozen=True)
class Places:
    """Where pictures can be taken."""

    drawing: DrawTab
    chat: ChatTab
    editing: EditTab
    tabs: gr.Tabs
    browser: BrowserDownload


@dataclass(frozen=True)
class PictureLinks:
    """The handlers of one row of buttons, for the picture of `source`."""

    page: PageContext
    source: PictureSource
    places: Places

    def open(self, tab: str) -> Updates:
        return {self.places.tabs: gr.update(selected=tab)}

    def into_chat(self, text: str, files: list[str]) -> Updates:
        return {self.places.chat.box: {"text": text, "files": files}, **self.open("chat")}

    def use_in_chat(self, values: Values) -> Updates:
        """The picture beside what is already in the message box."""
        box = values[self.places.chat.box] or {}
        return self.into_chat(box.get("text") or "", [*(box.get("files") or []), self.source.pick(values).shown])

    def ask(self, values: Values) -> Updates:
        return self.into_chat("", [self.source.pick(values).shown])

    def describe(self, values: Values, request: gr.Request) -> Updates:
        words = self.page.texts.say("describe_request", self.page.language(request))
        return self.into_chat(words, [self.source.pick(values).shown])

    def edit(self, values: Values) -> Updates:
        prompt = self.places.editing.panels.settings.controls.prompt
        return {prompt: self.source.pick(values).metadata.prompt, **self.open("edit")}

    def into_editor(self, values: Values, request: gr.Request) -> Updates:
        editing = self.places.editing
        return editing.undo.receive(values[editing.panels.source.tree], self.source.pick(values), request)

    def again(self, values: Values, request: gr.Request) -> Updates:
        return self._restore(values, request, new_seed=False)

    def vary(self, values: Values, request: gr.Request) -> Updates:
        return self._restore(values, request, new_seed=True)

    def _restore(self, values: Values, request: gr.Request, new_seed: bool) -> Updates:
        """The draw tab's controls as they stood for the picture, with its own seed or a new one."""
        language, record = self.page.language(request), self.source.pick(values).metadata
        say, loaded = self.page.texts.say, self.page.loaded_variant()
        try:
            saved_request = request_of(record)
        except AppError as error:
            gr.Warning(error.text(language))
            return gr.skip()
        if record.verb == "edit":
            gr.Info(say("again_edit", language))
        elif "kept" in record.settings:
            gr.Info(say("again_kept", language))
        elif not new_seed and (loaded is None or loaded.id != record.model):
            gr.Info(say("drop_other_model", language, title=record.title))
        return {**self.places.drawing.restore(saved_request, new_seed), **self.open("draw")}

    def show_tokens(self, values: Values, request: gr.Request) -> Updates:
        """The picture in the gallery of the draw tab, and the token view open."""
        right, image = self.places.drawing.right, self.source.pick(values)
        items = values[right.wall.items]
        if image not in items:
            items = newest_first(items, (image,))
        updates = right.wall.show(self.page, items, items.index(image), self.page.language(request))
        return {**updates, right.tokens.frame: gr.update(open=True), **self.open("draw")}

    def copy(self, values: Values, request: gr.Request) -> Updates:
        gr.Info(self.page.texts.say("copied", self.page.language(request)), duration=3)
        return {self.places.browser.text: parameters(self.source.pick(values).metadata)}


def link(page: PageContext, row: Actions, source: PictureSource, places: Places) -> None:
    """Attach the handlers of the buttons of `row`."""
    links, picture = PictureLinks(page, source, places), source.inputs
    chat, drawing, editing, browser = places.chat, places.drawing, places.editing, places.browser
    in_chat: set[Any] = {chat.box, places.tabs}
    attach(row.use.click, links.use_in_chat, {chat.box, *picture}, in_chat, **QUICK)
    filled = []
    for button, fill in ((row.ask, links.ask), (row.describe, links.describe)):
        cleared = halt(button.click, chat.answers).then(chat.cleared, None, chat.outputs, **QUICK)
        filled.append(attach(cleared.then, fill, picture, in_chat, **QUICK))
    filled[-1].then(**press("chat-box"))  # a request for a description is sent at once

    opened = attach(
        row.edit.click, links.edit, picture, {editing.panels.settings.controls.prompt, places.tabs}, **QUICK
    )
    ready = opened.then(None, None, None, js=EDITOR_BEGUN)
    attach(ready.then, links.into_editor, {editing.panels.source.tree, *picture}, editing.undo.outputs, **QUICK)

    redraws: tuple[tuple[gr.Button, Callable[..., Updates]], ...] = ((row.again, links.again), (row.vary, links.vary))
    again_in = {*drawing.restored, places.tabs}
    for button, restore in redraws:
        attach(button.click, restore, picture, again_in, **NOTIFYING).then(**press("draw-plan-run", "draw-run"))
    right = drawing.right
    inspecting: set[Any] = {*right.wall.all, right.tokens.frame, places.tabs}
    looking = attach(row.tokens.click, links.show_tokens, {right.wall.items, *picture}, inspecting, **QUICK)
    looking.then(**press("tokens-look"))

    download(page, row.save.click, lambda values: source.pick(values).shown, picture, browser)
    attach(row.copy.click, links.copy, picture, browser.text, **NOTIFYING).then(None, browser.text, None, js=COPY)
