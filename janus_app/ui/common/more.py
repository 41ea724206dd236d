"""What is done less often with a picture: a description, a larger copy, the run as a command, script or curl."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.ui.common.actions import COPY, DOWNLOAD, BrowserDownload
from janus_app.ui.common.alt_text import described
from janus_app.ui.common.html import message
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import JOB, QUICK, PageContext
from janus_app.workflows.export import KINDS, Kind, export
from janus_app.workflows.upscale import FACTORS, upscale


def more(
    page: PageContext, tab: str, picture: list[Any], pick: Callable[..., SavedImage], browser: BrowserDownload
) -> Any:
    """A closed accordion; `pick` makes a Print of the values of `picture`, `tab` begins the element ids.

    Returns the event after which the picture may have another description.
    """
    label = page.texts.label
    with gr.Accordion(label("more"), open=False, elem_id=f"{tab}-more"):
        with gr.Row(elem_classes="actions"):
            larger = [
                gr.Button(label(key), size="sm", elem_id=f"{tab}-upscale-{factor}", min_width=60)
                for factor, key in zip(FACTORS, ("upscale_2", "upscale_4"), strict=True)
            ]
            write_alt = gr.Button(label("alt_write"), size="sm", elem_id=f"{tab}-alt-write", min_width=60)
        said = gr.HTML(elem_id=f"{tab}-upscaled", padding=False)
        with gr.Row(elem_classes="actions"):
            exports = [
                gr.Button(label(key), size="sm", elem_id=f"{tab}-export-{kind}", min_width=60)
                for kind, key in zip(KINDS, ("export_cli", "export_python", "export_curl"), strict=True)
            ]
        text = gr.Textbox(
            label=label("export_text"),
            info=label("export_info"),
            lines=4,
            max_lines=14,
            interactive=True,  # a disabled box cannot be reached by keyboard
            visible=False,
            elem_id=f"{tab}-export",
            elem_classes="code",
        )

    def enlarge(factor: int, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        language = page.language(request)
        try:
            copy = upscale(Path(pick(*values).shown), factor, page.images.store)
            shown = page.images.serve(copy.file)
        except (AppError, OSError) as error:
            text = page.texts.text(error, language) if isinstance(error, AppError) else str(error)
            return message(text, "error"), gr.skip()
        width, height = copy.metadata.size
        line = page.texts.say("upscaled", language, width=width, height=height, file=copy.file.name)
        return message(line, "done"), shown

    def look(request: gr.Request, *values: Any) -> Iterator[str]:
        yield from described(page, pick(*values), page.language(request))

    def write(kind: Kind, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        language = page.language(request)
        try:
            written = export(pick(*values).record, kind, page_address(request))
        except AppError as error:
            gr.Info(page.texts.text(error, language))
            return gr.skip(), gr.skip()
        gr.Info(page.texts.say("export_copied", language), duration=3)
        return gr.update(value=written, visible=True), written

    for factor, button in zip(FACTORS, larger, strict=True):
        done = button.click(_first(enlarge, factor), picture, [said, browser.file], **QUICK)
        done.then(None, browser.file, None, js=DOWNLOAD)
    for kind, button in zip(KINDS, exports, strict=True):
        done = button.click(_first(write, kind), picture, [text, browser.text], **QUICK)
        done.then(None, browser.text, None, js=COPY)
    return write_alt.click(look, picture, said, **JOB)


def _first(handler: Callable[..., Any], value: Any) -> Callable[..., Any]:
    """`handler` with its first argument given; Gradio finds the request by the signature, which partial() hides."""
    bound = partial(handler, value)

    def with_request(request: gr.Request, *values: Any) -> Any:
        return bound(request, *values)

    return with_request


def page_address(request: gr.Request) -> str:
    """The page's address as the visitor's browser has it."""
    host = request.headers.get("host") or "127.0.0.1:7860"
    return request.headers.get("origin") or f"http://{host}"
