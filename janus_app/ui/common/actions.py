"""What can be done with a picture in every tab: a row of buttons, and files handed to the browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from janus_app.errors import AppError
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import NOTIFYING, PRIVATE, PageContext, Updates, Values

# Functions of assets/page/. PRESS waits until the first visible button with one of these ids is enabled, SETTLED until
# stopped jobs end.
PRESS = "() => window.janus.press({ids})"
DOWNLOAD = "(file) => window.janus.download(file)"
COPY = "(text) => window.janus.copy(text)"
SETTLED = "() => window.janus.settled()"
# The verbs by the ends of their element ids, with the keys of their names.
VERBS = {"to-edit": "act_edit", "ask": "act_ask", "vary": "act_vary", "save": "act_save"}
MENU_VERBS = {
    "describe": "act_describe",
    "to-chat": "use_in_chat",
    "again": "act_again",
    "tokens": "act_tokens",
    "copy": "act_copy",
}


def menu_button(page: PageContext, key: str, name: str) -> gr.Button:
    """A line of the menu in whose column this is called; `name` is the element id."""
    return gr.Button(page.texts.label(key), size="sm", elem_id=name, min_width=0)


def action_row(page: PageContext, tab: str) -> gr.Column:
    """The verbs under a picture: four buttons with icons, and the rest in a menu that "..." opens; returns the menu.

    `tab` is the prefix of the element ids. `picture_links.py` hears of a click by these, and does what the verb says.
    """
    label = page.texts.label
    with gr.Row(elem_classes="verbs", elem_id=f"{tab}-verbs"):
        for name, key in VERBS.items():
            icon = f"glyph icon-{key.removeprefix('act_')}"
            gr.Button(label(key), size="sm", elem_id=f"{tab}-{name}", elem_classes=icon, min_width=0)
        gr.Button(label("act_more"), size="sm", elem_id=f"{tab}-menu-open", elem_classes="glyph dots", min_width=0)
        with gr.Column(elem_classes="menu", elem_id=f"{tab}-menu", min_width=0) as menu:  # assets/page/ opens it
            for name, key in MENU_VERBS.items():
                menu_button(page, key, f"{tab}-{name}")
    return menu


@dataclass(frozen=True)
class PictureSource:
    """The picture that buttons act on: the components that hold it, and how to pick it from their values."""

    inputs: set[Component]
    pick: Callable[[Values], SavedImage]


@dataclass(frozen=True)
class BrowserDownload:
    """Two hidden components: a file in the one is downloaded, a text in the other goes to the clipboard."""

    file: gr.File
    text: gr.Textbox


def browser_download() -> BrowserDownload:
    return BrowserDownload(
        gr.File(visible="hidden", elem_id="page-file", label="page-file"),
        gr.Textbox(visible="hidden", elem_id="page-text", label="page-text"),
    )


def download(
    page: PageContext,
    trigger: Callable[..., Any],
    make: Callable[[Values], str | Path],
    inputs: set[Component],
    browser: BrowserDownload,
) -> None:
    """On `trigger`, let the browser download the file `make` gives, which must be in the served folder."""

    def prepare(values: Values, request: gr.Request) -> Updates:
        try:
            return {browser.file: str(make(values))}
        except AppError as error:
            gr.Warning(error.text(page.language(request)))
            return {browser.file: None}

    trigger(prepare, inputs, browser.file, **NOTIFYING).then(None, browser.file, None, js=DOWNLOAD)


def halt(trigger: Callable[..., Any], jobs: list[Any]) -> Any:
    """On `trigger`, stop `jobs`; what is chained to the returned event happens when they are over.

    Gradio itself goes on as soon as it has asked the server to stop. A last frame on its way would then overwrite what
    the next handler shows, and a job that is started again would not start, because the page thinks it still runs.
    """
    return trigger(None, None, None, cancels=jobs, **PRIVATE).then(None, None, None, js=SETTLED, **PRIVATE)


def press(*names: str) -> dict[str, Any]:
    """The arguments of a chained event that presses the first button on the page with one of these element ids, or the
    first one inside it."""
    return {"fn": None, "inputs": None, "outputs": None, "js": PRESS.format(ids=json.dumps(names))}
