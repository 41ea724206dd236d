"""What the buttons under a picture do: they carry it to another tab and, where it makes sense, start the work there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.outputs.metadata import parameters, request_of
from janus_app.ui.common.actions import COPY, Actions, BrowserDownload, download, halt, press
from janus_app.ui.common.drawing import newest_first
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import QUICK, PageContext
from janus_app.ui.tabs.chat.tab import ChatTab
from janus_app.ui.tabs.draw.tab import DrawTab, on_shelf, restored_values
from janus_app.ui.tabs.edit.tab import EditTab
from janus_app.ui.tabs.edit.undo import Tree

# The editor loses a picture it is given before its canvas stands, which takes a moment after its tab is opened.
WAIT_FOR_CANVAS = """async () => {
  const started = Date.now();
  while (!document.querySelector("#edit-editor canvas") && Date.now() - started < 10000)
    await new Promise((resolve) => setTimeout(resolve, 50));
  await new Promise((resolve) => setTimeout(resolve, 300));
}"""


@dataclass(frozen=True)
class Places:
    """Where pictures can be carried."""

    drawing: DrawTab
    chat: ChatTab
    editing: EditTab
    tabs: gr.Tabs
    browser: BrowserDownload


def link(page: PageContext, row: Actions, picture: list[Any], pick: Callable[..., SavedImage], places: Places) -> None:
    """Give the buttons of `row` their meaning; `pick` makes a Print of the values of `picture`."""
    chat, drawing, editing, tabs, browser = places.chat, places.drawing, places.editing, places.tabs, places.browser

    def to_chat(box: dict[str, Any] | None, *values: Any) -> tuple[Any, ...]:
        files = [*((box or {}).get("files") or []), pick(*values).shown]
        return {"text": (box or {}).get("text") or "", "files": files}, gr.update(selected="chat")

    def fresh_with(text: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return {"text": text, "files": [pick(*values).shown]}, gr.update(selected="chat")

    def to_ask(*values: Any) -> tuple[Any, ...]:
        return fresh_with("", values)

    def to_describe(request: gr.Request, *values: Any) -> tuple[Any, ...]:
        return fresh_with(page.texts.say("describe_request", page.language(request)), values)

    def to_edit(*values: Any) -> tuple[Any, ...]:
        return pick(*values).record.prompt, gr.update(selected="edit")

    def into_editor(tree: Tree, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        return editing.receive(tree, pick(*values), request)

    def redo(request: gr.Request, values: tuple[Any, ...], fresh: bool) -> tuple[Any, ...]:
        """The draw tab's controls as they stood for the picture, with its own seed or a new one."""
        language, record = page.language(request), pick(*values).record
        say, resident = page.texts.say, page.loaded_variant()
        try:
            asked = request_of(record)
        except AppError as error:
            gr.Warning(page.texts.text(error, language))
            return (*(gr.skip() for _ in drawing.restored), gr.skip())
        if record.verb == "edit":
            gr.Info(say("again_edit", language))
        elif "kept" in record.settings:
            gr.Info(say("again_kept", language))
        elif not fresh and (resident is None or resident.id != record.model):
            gr.Info(say("drop_other_model", language, title=record.title))
        return *restored_values(asked, fresh), gr.update(selected="draw")

    def to_again(request: gr.Request, *values: Any) -> tuple[Any, ...]:
        return redo(request, values, False)

    def to_vary(request: gr.Request, *values: Any) -> tuple[Any, ...]:
        return redo(request, values, True)

    def to_clipboard(request: gr.Request, *values: Any) -> str:
        gr.Info(page.texts.say("copied", page.language(request)), duration=3)
        return parameters(pick(*values).record)

    row.use.click(to_chat, [chat.box, *picture], [chat.box, tabs], **QUICK)
    for button, fill, then in ((row.ask, to_ask, None), (row.describe, to_describe, "chat-box")):
        cleared = halt(button.click, chat.answers).then(chat.cleared, None, chat.outputs, **QUICK)
        filled = cleared.then(fill, picture, [chat.box, tabs], **QUICK)
        if then:
            filled.then(**press(then))
    opened = row.edit.click(to_edit, picture, [editing.prompt, tabs], **QUICK)
    ready = opened.then(None, None, None, js=WAIT_FOR_CANVAS)
    ready.then(into_editor, [editing.edits, *picture], editing.received, **QUICK)
    for button, redraw in ((row.again, to_again), (row.vary, to_vary)):
        button.click(redraw, picture, [*drawing.restored, tabs], **QUICK).then(**press("draw-run"))
    show = drawing.tokens

    def to_tokens(kept: list[SavedImage], request: gr.Request, *values: Any) -> tuple[Any, ...]:
        """The picture among those of the draw tab, and its token view open."""
        print_ = pick(*values)
        if print_ not in kept:
            kept = newest_first(kept, (print_,))
        shown = on_shelf(page, kept, kept.index(print_), page.language(request))
        return *shown, gr.update(open=True), gr.update(selected="draw")

    looking = row.tokens.click(
        to_tokens, [drawing.gallery_items, *picture], [*drawing.shown, show.frame, tabs], **QUICK
    )
    looking.then(**press("tokens-look"))
    download(page, row.save.click, lambda *values: pick(*values).shown, picture, browser)
    row.copy.click(to_clipboard, picture, browser.text, **QUICK).then(None, browser.text, None, js=COPY)
