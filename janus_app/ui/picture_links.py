"""What the verbs under a picture do: they take it to another tab and, where useful, start a job there.

The buttons of all tabs share their handlers: each further event costs every opening of the page some of its time, as
Gradio looks through all events for each component.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.outputs.metadata import parameters, request_of
from janus_app.ui.common.actions import (
    COPY,
    MENU_VERBS,
    VERBS,
    BrowserDownload,
    PictureSource,
    download,
    press,
)
from janus_app.ui.common.pictures import newest_first
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import JOB, NOTIFYING, QUICK, PageContext, Updates, Values, attach
from janus_app.ui.tabs.chat.tab import ChatTab
from janus_app.ui.tabs.draw.tab import DrawTab
from janus_app.ui.tabs.edit.tab import EditTab
from janus_app.ui.tabs.edit.words import given, kind_of

# The script of the component that hears of the verbs of all tabs.
HEARD = f"""const verbs = {json.dumps([*VERBS, *MENU_VERBS])};
document.addEventListener("click", (event) => {{
  const tab = event.target.closest?.(".verbs")?.id.replace(/-verbs$/, "");
  const verb = tab && verbs.find((name) => event.target.closest(`#${{tab}}-${{name}}`));
  if (verb) trigger(verb, {{ tab }});
}});"""


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
    """The handlers of a verb. `taken` holds the SavedImage whose verb was clicked: each verb has one of its own, since
    what it does may wait while another verb is clicked."""

    page: PageContext
    sources: dict[str, PictureSource]  # by the prefix of a tab's element ids
    places: Places
    taken: gr.State

    def take(self, values: Values, request: gr.Request, event: gr.EventData) -> Updates:
        """The picture that is chosen in the tab where a verb was clicked. Raises gr.Error where its file is gone."""
        try:
            return {self.taken: self.sources[str(event.tab)].pick(values)}
        except AppError as error:
            raise gr.Error(error.text(self.page.language(request)), print_exception=False) from None

    def image(self, values: Values) -> SavedImage:
        image: SavedImage = values[self.taken]
        return image

    def open(self, tab: str) -> Updates:
        return {self.places.tabs: gr.update(selected=tab)}

    def into_chat(self, text: str, files: list[str]) -> Updates:
        return {self.places.chat.box: {"text": text, "files": files}, **self.open("chat")}

    def use_in_chat(self, values: Values) -> Updates:
        """The picture beside what is already in the message box."""
        box = values[self.places.chat.box] or {}
        return self.into_chat(box.get("text") or "", [*(box.get("files") or []), self.image(values).shown])

    def ask(self, values: Values) -> Updates:
        return self.into_chat("", [self.image(values).shown])

    def describe(self, values: Values, request: gr.Request) -> Updates:
        words = self.page.texts.say("describe_request", self.page.language(request))
        return self.into_chat(words, [self.image(values).shown])

    def edit(self, values: Values) -> Updates:
        settings, record = self.places.editing.panels.settings, self.image(values).metadata
        prompt, kind = settings.controls.prompt, kind_of(str(record.settings.get("method")))
        text, written = given(values[settings.written], values[prompt] or "", kind, record.prompt)
        return {prompt: text, settings.written: written, **self.open("edit")}

    def into_editor(self, values: Values, request: gr.Request) -> Updates:
        editing = self.places.editing
        return editing.undo.receive(values[editing.panels.source.tree], self.image(values), request)

    def again(self, values: Values, request: gr.Request) -> Updates:
        return self._restore(values, request, new_seed=False)

    def vary(self, values: Values, request: gr.Request) -> Updates:
        return self._restore(values, request, new_seed=True)

    def _restore(self, values: Values, request: gr.Request, new_seed: bool) -> Updates:
        """The draw tab's controls as they stood for the picture, with its own seed or a new one."""
        language, record = self.page.language(request), self.image(values).metadata
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
        right, image = self.places.drawing.right, self.image(values)
        items = values[right.wall.items]
        if image not in items:
            items = newest_first(items, (image,))
        updates = right.wall.show(self.page, items, items.index(image), self.page.language(request))
        return {**updates, right.tokens.frame: gr.update(open=True), **self.open("draw")}

    def copy(self, values: Values, request: gr.Request) -> Updates:
        gr.Info(self.page.texts.say("copied", self.page.language(request)), duration=3)
        return {self.places.browser.text: parameters(self.image(values).metadata)}


def build(page: PageContext, sources: dict[str, PictureSource], places: Places) -> None:
    """Attach the verbs of the pictures of all `sources`, by the prefix of their tab's element ids."""
    heard = gr.HTML("", elem_id="page-verbs", elem_classes="unseen", js_on_load=HEARD)
    chosen = {part for source in sources.values() for part in source.inputs}
    chat, drawing, editing, browser = places.chat, places.drawing, places.editing, places.browser

    def clicked(verb: str) -> tuple[Callable[..., Any], PictureLinks]:
        """What happens once the picture is known whose `verb` was clicked, and the handlers that know it."""
        links = PictureLinks(page, sources, places, gr.State(None))
        return attach(getattr(heard, verb), links.take, chosen, links.taken, **QUICK).success, links

    in_chat: set[Any] = {chat.box, places.tabs}
    then, links = clicked("to-chat")
    attach(then, links.use_in_chat, {chat.box, links.taken}, in_chat, **QUICK)
    filled = []
    for verb in ("ask", "describe"):
        then, links = clicked(verb)
        cleared = then(chat.cleared, None, chat.outputs, **JOB)
        filled.append(attach(cleared.then, getattr(links, verb), {links.taken}, in_chat, **QUICK))
    filled[-1].then(**press("chat-box"))  # a request for a description is sent at once

    then, links = clicked("to-edit")
    texts = {editing.panels.settings.controls.prompt, editing.panels.settings.written}
    opened = attach(then, links.edit, {links.taken, *texts}, {*texts, places.tabs}, **QUICK)
    edited = {editing.panels.source.tree, links.taken}
    attach(opened.then, links.into_editor, edited, editing.undo.outputs, **QUICK)

    again_in = {*drawing.restored, places.tabs}
    for verb in ("again", "vary"):
        then, links = clicked(verb)
        redrawn = attach(then, getattr(links, verb), {links.taken}, again_in, **NOTIFYING)
        redrawn.then(**press("draw-plan-run", "draw-run"))
    right = drawing.right
    inspecting: set[Any] = {*right.wall.all, right.tokens.frame, places.tabs}
    then, links = clicked("tokens")
    looking = attach(then, links.show_tokens, {right.wall.items, links.taken}, inspecting, **QUICK)
    looking.then(**press("tokens-look"))

    then, saved = clicked("save")
    download(page, then, lambda values: saved.image(values).shown, {saved.taken}, browser)
    then, links = clicked("copy")
    attach(then, links.copy, {links.taken}, browser.text, **NOTIFYING).then(None, browser.text, None, js=COPY)
