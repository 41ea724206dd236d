"""What is done less often with a picture: a description, a larger copy, the run as a command, script or curl."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from janus_app.errors import AppError
from janus_app.ui.common.actions import COPY, DOWNLOAD, BrowserDownload, PictureSource, menu_button
from janus_app.ui.common.alt_text import described
from janus_app.ui.common.html import message
from janus_app.ui.context import JOB, NOTIFYING, QUICK, PageContext, Updates, Values, attach
from janus_app.workflows.export import KINDS, Kind, export
from janus_app.workflows.upscale import FACTORS, upscale

Handler = Callable[[Values, gr.Request], Updates]


# The ends of the element ids of what stands last in a menu: few people look for it.
FOR_ENGINEERS = ("-copy", "-tokens", *(f"-export-{kind}" for kind in KINDS))


@dataclass(frozen=True)
class More:
    """`note` says what became of a larger copy, `text` holds an exported run; both are about the chosen picture.

    `described` is the event after which the picture may have another description.
    """

    note: gr.HTML
    text: gr.Textbox
    described: Any

    @property
    def all(self) -> set[Component]:
        return {self.note, self.text}

    def cleared(self) -> Updates:
        """For another picture."""
        return {self.note: "", self.text: gr.update(value="", visible=False)}


def more(page: PageContext, tab: str, menu: gr.Column, source: PictureSource, browser: BrowserDownload) -> More:
    """Add lines to a `menu` of verbs, for the picture of `source`, and build here what shows their results.

    `tab` is the prefix of the element ids.
    """
    label = page.texts.label
    with menu:
        larger = [
            menu_button(page, key, f"{tab}-upscale-{factor}")
            for factor, key in zip(FACTORS, ("upscale_2", "upscale_4"), strict=True)
        ]
        write_alt = menu_button(page, "alt_write", f"{tab}-alt-write")
        exports = [
            menu_button(page, key, f"{tab}-export-{kind}")
            for kind, key in zip(KINDS, ("export_cli", "export_python", "export_curl"), strict=True)
        ]
    menu.children.sort(key=lambda line: str(line.elem_id).endswith(FOR_ENGINEERS))
    note = gr.HTML(elem_id=f"{tab}-upscaled", padding=False)
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
    return More(note, text, attach(write_alt.click, describe, source.inputs, note, **JOB))


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
