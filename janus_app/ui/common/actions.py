"""What can be done with a picture in every tab: a row of buttons, and files handed to the browser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from janus_app.errors import AppError
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import NOTIFYING, PRIVATE, PageContext, Updates, Values

# Functions of assets/page/. PRESS waits until the button with that id is enabled, SETTLED until stopped jobs end.
PRESS = "() => window.janus.press({id})"
DOWNLOAD = "(file) => window.janus.download(file)"
COPY = "(text) => window.janus.copy(text)"
SETTLED = "() => window.janus.settled()"


@dataclass(frozen=True)
class Actions:
    """The buttons under a picture."""

    describe: gr.Button
    ask: gr.Button
    use: gr.Button
    edit: gr.Button
    vary: gr.Button
    again: gr.Button
    tokens: gr.Button
    save: gr.Button
    copy: gr.Button


def action_row(page: PageContext, tab: str) -> Actions:
    """The buttons in a row; `tab` is the prefix of their element ids. `picture_links.py` attaches what each does."""
    label = page.texts.label

    def button(text: Any, name: str) -> gr.Button:
        return gr.Button(text, size="sm", elem_id=f"{tab}-{name}", min_width=60)

    with gr.Row(elem_classes="actions"):
        return Actions(
            describe=button(label("act_describe"), "describe"),
            ask=button(label("act_ask"), "ask"),
            use=button(label("use_in_chat"), "to-chat"),
            edit=button(label("edit_this"), "to-edit"),
            vary=button(label("act_vary"), "vary"),
            again=button(label("act_again"), "again"),
            tokens=button(label("act_tokens"), "tokens"),
            save=button(label("act_save"), "save"),
            copy=button(label("act_copy"), "copy"),
        )


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


def press(name: str) -> dict[str, Any]:
    """The arguments of a chained event that presses the button with that element id, or the first one inside it."""
    return {"fn": None, "inputs": None, "outputs": None, "js": PRESS.format(id=f"'{name}'")}
