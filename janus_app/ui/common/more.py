"""What is done less often with a picture: a description, a larger copy, the run as a command, script or curl."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.ui.common.actions import COPY, DOWNLOAD, BrowserDownload, PictureSource
from janus_app.ui.common.alt_text import described
from janus_app.ui.common.html import message
from janus_app.ui.context import JOB, NOTIFYING, QUICK, PageContext, Updates, Values, attach
from janus_app.workflows.export import KINDS, Kind, export
from janus_app.workflows.upscale import FACTORS, upscale

Handler = Callable[[Values, gr.Request], Updates]


def more(page: PageContext, tab: str, source: PictureSource, browser: BrowserDownload) -> Any:
    """A closed accordion for the picture of `source`; `tab` is the prefix of the element ids.

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
        note = gr.HTML(elem_id=f"{tab}-upscaled", padding=False)
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

    def describe(values: Values, request: gr.Request) -> Iterator[Updates]:
        for line in described(page, source.pick(values), page.language(request)):
            yield {note: line}

    for factor, button in zip(FACTORS, larger, strict=True):
        enlarge = _enlarger(page, source, factor, note, browser)
        done = attach(button.click, enlarge, source.inputs, {note, browser.file}, **QUICK)
        done.then(None, browser.file, None, js=DOWNLOAD)
    for kind, button in zip(KINDS, exports, strict=True):
        done = attach(
            button.click, _exporter(page, source, kind, text, browser), source.inputs, {text, browser.text}, **NOTIFYING
        )
        done.then(None, browser.text, None, js=COPY)
    return attach(write_alt.click, describe, source.inputs, note, **JOB)


def _enlarger(
    page: PageContext, source: PictureSource, factor: int, note: gr.HTML, browser: BrowserDownload
) -> Handler:
    """A handler that saves and downloads the picture `factor` times as large."""

    def enlarge(values: Values, request: gr.Request) -> Updates:
        language = page.language(request)
        try:
            saved = upscale(Path(source.pick(values).shown), factor, page.images.store)
            copy = page.images.serve(saved.file)
        except AppError as error:
            return {note: message(error.text(language), "error")}
        width, height = saved.metadata.size
        line = page.texts.say("upscaled", language, width=width, height=height, file=saved.file.name)
        return {note: message(line, "done"), browser.file: copy}

    return enlarge


def _exporter(
    page: PageContext, source: PictureSource, kind: Kind, text: gr.Textbox, browser: BrowserDownload
) -> Handler:
    """A handler that shows and copies the run as a command, script or curl call."""

    def write(values: Values, request: gr.Request) -> Updates:
        language = page.language(request)
        try:
            written = export(source.pick(values).metadata, kind, page_address(request))
        except AppError as error:
            gr.Info(error.text(language))
            return gr.skip()
        gr.Info(page.texts.say("export_copied", language), duration=3)
        return {text: gr.update(value=written, visible=True), browser.text: written}

    return write


def page_address(request: gr.Request) -> str:
    """The page's address as the visitor's browser has it, with the sub-path of a reverse proxy."""
    if referer := request.headers.get("referer", "").partition("?")[0]:
        return referer.rstrip("/")
    host = request.headers.get("host") or "127.0.0.1:7860"
    return request.headers.get("origin") or f"http://{host}"
