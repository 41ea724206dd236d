"""What can be done with a picture, wherever on the page it is: one row of buttons, and files handed to the browser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.ui.context import PRIVATE, QUICK, PageContext

# In assets/page.js. The first waits until the button with that id can be pressed, the last until stopped jobs are over.
PRESS = "() => window.janus.press({id})"
DOWNLOAD = "(file) => window.janus.download(file)"
COPY = "(text) => window.janus.copy(text)"
SETTLED = "() => window.janus.settled()"


@dataclass(frozen=True)
class Actions:
    """The row under a picture."""

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
    """The buttons in a row; `tab` begins their element ids. `links.py` says what each does."""
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
class BrowserDownload:
    """Two unseen widgets: a file in the one is downloaded, a text in the other goes to the clipboard."""

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
    make: Callable[..., str | Path],
    inputs: list[Any],
    browser: BrowserDownload,
) -> None:
    """On `trigger`, hand the browser the file `make` gives, which must lie in the served folder."""

    def prepare(request: gr.Request, *values: Any) -> str | None:
        try:
            return str(make(*values))
        except AppError as error:
            gr.Warning(page.texts.text(error, page.language(request)))
            return None

    trigger(prepare, inputs, browser.file, **QUICK).then(None, browser.file, None, js=DOWNLOAD)


def halt(trigger: Callable[..., Any], jobs: list[Any]) -> Any:
    """On `trigger`, stop `jobs`; what is chained to the answer happens when they are over.

    Gradio itself goes on as soon as it has asked the server. A last frame on its way would then overwrite what is
    shown of the stop, and a job started anew would not start, because the page takes it for one still at work.
    """
    return trigger(None, None, None, cancels=jobs, **PRIVATE).then(None, None, None, js=SETTLED, **PRIVATE)


def press(name: str) -> dict[str, Any]:
    """The step of a chain that presses the button with that element id (or the first one inside it)."""
    return {"fn": None, "inputs": None, "outputs": None, "js": PRESS.format(id=f"'{name}'")}
