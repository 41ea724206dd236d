"""The token view: how certain the model was of each patch of a picture, and continuing the drawing from any of them.

The model computes the facts when the view is opened, from the picture's metadata alone. So they are available for
every picture with image tokens: one drawn just now, one of the history, one dropped on the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from PIL.Image import Image

from janus_app.errors import AppError
from janus_app.outputs.metadata import ImageMetadata
from janus_app.types import Inspection, SwapRequest
from janus_app.ui.common.actions import press
from janus_app.ui.common.html import facts, message, messages
from janus_app.ui.common.jobs import watch
from janus_app.ui.common.pictures import PictureWall
from janus_app.ui.context import JOB, QUICK, PageContext, Updates, Values, attach, whole_number
from janus_app.workflows.token_heatmap import MEASURES, RAMP, heatmap, inspection_request, patch_side

ALTERNATIVES = 8  # listed and shown for a patch
WINDOW = 9  # patches per row of an alternative's thumbnail


@dataclass(frozen=True)
class Inspected:
    """The picture that was inspected: its metadata, and the facts of its tokens."""

    metadata: ImageMetadata
    inspection: Inspection


@dataclass(frozen=True)
class TokenView:
    """`inspected` holds an Inspected, `token` the alternative that is chosen for `patch`; both may hold None."""

    frame: gr.Accordion
    look: gr.Button
    status: gr.HTML
    measure: gr.Radio
    picture: gr.Image
    legend: gr.HTML
    patch: gr.Number
    facts: gr.HTML
    heading: gr.HTML
    alternatives: gr.Gallery
    draw_on: gr.Button
    draw_with: gr.Button
    inspected: gr.State
    token: gr.State


def build(page: PageContext) -> TokenView:
    """The components of the view in the current place of the page."""
    label = page.texts.label
    with gr.Accordion(label("token_view"), open=False, elem_id="tokens") as frame:
        look = gr.Button(label("token_look"), size="sm", elem_id="tokens-look", min_width=60)
        status = gr.HTML(elem_id="tokens-status", padding=False)
        with gr.Row(elem_classes="tokens", equal_height=False):  # assets/style/ shows it when there is a map
            with gr.Column(elem_id="tokens-left", min_width=0):
                picture = gr.Image(
                    label=label("token_map"),
                    show_label=False,
                    type="pil",
                    format="png",
                    interactive=False,
                    buttons=[],
                    elem_id="tokens-map",
                )
                legend = gr.HTML(elem_id="tokens-legend", padding=False)
            with gr.Column(elem_id="tokens-right", min_width=0):
                measure = gr.Radio(
                    list(MEASURES),
                    value="entropy",
                    label=label("token_measure"),
                    elem_id="tokens-measure",
                    elem_classes="segments",
                )
                patch = (
                    gr.Number(  # its info has the range: with `maximum`, Gradio would refuse a number in its own words
                        1,
                        precision=0,
                        label=label("token_patch"),
                        info=label("token_patch_info"),
                        elem_id="tokens-patch",
                    )
                )
                patch_facts = gr.HTML(elem_id="tokens-facts", padding=False)
                heading = gr.HTML(elem_id="tokens-heading", padding=False)
                alternatives = _alternatives(page)
                with gr.Row(elem_classes="actions"):
                    draw_on = gr.Button(label("token_draw_on"), size="sm", elem_id="tokens-draw-on", min_width=60)
                    draw_with = gr.Button(
                        label("token_draw_with"), size="sm", interactive=False, elem_id="tokens-draw-with", min_width=60
                    )
                    region = gr.Button(label("token_region"), size="sm", elem_id="tokens-region", min_width=60)
    region.click(**press("draw-to-edit"))
    return TokenView(
        frame, look, status, measure, picture, legend, patch, patch_facts, heading, alternatives, draw_on, draw_with,
        gr.State(None), gr.State(None),
    )  # fmt: skip


def _alternatives(page: PageContext) -> gr.Gallery:
    return gr.Gallery(
        label=page.texts.label("token_others"),
        show_label=False,
        columns=4,
        fit_columns=False,
        height="auto",
        object_fit="contain",
        format="png",
        allow_preview=False,
        buttons=[],
        interactive=False,
        elem_id="tokens-others",
    )


@dataclass(frozen=True)
class TokenHandlers:
    """Inspecting the chosen picture, choosing a measure and a patch, and the pictures its alternatives would make."""

    page: PageContext
    view: TokenView
    wall: PictureWall
    variant: gr.Dropdown

    def inspect(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        page, view, language = self.page, self.view, self.page.language(request)
        if not values[self.wall.items]:
            yield {view.status: message(page.texts.say("token_none", language), "warning")}
            return
        record = self.wall.chosen_picture(values).metadata
        selected = values[self.variant]
        for frame in watch(lambda: page.job(selected, inspection_request(record, ALTERNATIVES)), page.texts, language):
            if frame.error:
                yield {view.status: message(frame.error, "error")}
            elif frame.finished is None or frame.finished.inspection is None:
                yield {view.status: frame.status + messages(frame.notices)}
            else:
                yield self._inspected(Inspected(record, frame.finished.inspection), language)

    def _inspected(self, inspected: Inspected, language: str) -> Updates:
        """The whole view, with the patch where the model was least certain."""
        page, view, cells = self.page, self.view, inspected.inspection.cells
        place = max(range(len(cells)), key=lambda number: cells[number].entropy)
        names = [(page.texts.named("measure", name, language), name) for name in MEASURES]
        return {
            view.status: whose(page, inspected.metadata, language),
            view.inspected: inspected,
            view.measure: gr.update(choices=names, value="entropy"),
            **self._patch(inspected, "entropy", place, language),
            view.patch: place + 1,
            view.alternatives: [],
            view.heading: f"<p>{escape(page.texts.say('token_others', language))}</p>",
        }

    def _patch(self, inspected: Inspected, measure: str, place: int, language: str) -> Updates:
        """The heat map, its legend and the facts of the patch number `place`."""
        page, found = self.page, inspected.inspection
        measured = page.texts.named("measure", measure, language)
        words = page.texts.say("token_map_alt", language, measure=measured)
        return {
            self.view.picture: gr.update(value=heatmap(found, MEASURES[measure], place), alt_text=words),
            self.view.legend: legend_html(page, found, measure, language),
            self.view.facts: facts_html(page, found, place, language),
        }

    def choose(self, values: Values, request: gr.Request) -> Updates:
        """Another measure or patch."""
        view, language = self.view, self.page.language(request)
        inspected: Inspected | None = values[view.inspected]
        if inspected is None:
            return gr.skip()
        place = place_of(inspected, values[view.patch])
        if place is None:
            last = len(inspected.inspection.cells)
            return {view.facts: message(self.page.texts.say("token_no_patch", language, last=last), "error")}
        return self._patch(inspected, values[view.measure], place, language)

    def swap(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """The picture with each alternative in the chosen patch, likeliest first."""
        page, view, language = self.page, self.view, self.page.language(request)
        inspected: Inspected | None = values[view.inspected]
        place = None if inspected is None else place_of(inspected, values[view.patch])
        if inspected is None or place is None:
            yield gr.skip()  # of a generator that yields nothing, Gradio empties all outputs, also what was just said
            return
        yield {view.status: "", view.token: None, view.draw_with: gr.update(interactive=False)}
        cell = inspected.inspection.cells[place]
        swap = SwapRequest(inspected.metadata.image_tokens, place, tuple(token for token, _ in cell.alternatives))
        selected = values[self.variant]
        for frame in watch(lambda: page.job(selected, swap), page.texts, language):
            if frame.error:
                yield {view.status: message(frame.error, "error"), view.alternatives: []}
            elif frame.finished:
                images = [around(inspected, place, picture.image) for picture in frame.finished.pictures]
                lines = [alternative_line(cell.token, *alternative) for alternative in cell.alternatives]
                yield {
                    view.status: whose(page, inspected.metadata, language),
                    view.alternatives: gr.update(value=list(zip(images, lines, strict=True)), selected_index=None),
                    view.token: None,
                }
            else:
                yield {view.status: frame.status}

    def click(self, values: Values, event: gr.SelectData) -> Updates:
        """The pixel of a click on the heat map as the number of its patch."""
        inspected: Inspected | None = values[self.view.inspected]
        if inspected is None:
            return gr.skip()
        found, (x, y) = inspected.inspection, event.index
        side = patch_side(found)
        return {self.view.patch: min(int(y) // side * found.columns + int(x) // side + 1, len(found.cells))}

    def choose_alternative(self, values: Values, event: gr.SelectData) -> Updates:
        view, inspected = self.view, values[self.view.inspected]
        place = place_of(inspected, values[view.patch])
        if place is None:
            return {view.token: None, view.draw_with: gr.update(interactive=False)}
        token, _ = inspected.inspection.cells[place].alternatives[int(event.index)]
        return {view.token: token, view.draw_with: gr.update(interactive=True)}

    def wire(self) -> None:
        view = self.view
        patch_shown = {view.picture, view.legend, view.facts}
        everything = {view.status, view.inspected, view.measure, *patch_shown, view.patch, view.alternatives}
        swap: tuple[Any, ...] = (
            self.swap,
            {view.inspected, view.patch, self.variant},
            {view.status, view.alternatives, view.token, view.draw_with},
        )
        inspecting = attach(
            view.look.click,
            self.inspect,
            {*self.wall.source.inputs, self.variant},
            {*everything, view.heading},
            **JOB,
        )
        attach(inspecting.success, *swap, **JOB)
        chosen = {view.inspected, view.measure, view.patch}
        attach(view.measure.input, self.choose, chosen, patch_shown, **QUICK)
        attach(view.picture.select, self.click, {view.inspected}, view.patch, **QUICK)
        moved = attach(view.patch.change, self.choose, chosen, patch_shown, trigger_mode="always_last", **QUICK)
        attach(moved.then, *swap, **JOB)
        attach(
            view.alternatives.select,
            self.choose_alternative,
            {view.inspected, view.patch},
            {view.token, view.draw_with},
            **QUICK,
        )


def place_of(inspected: Inspected, number: Any) -> int | None:
    """The index of the patch in the number box, which counts from 1; None where there is no such patch."""
    try:
        place = whole_number(number, "input_cell") - 1
    except AppError:
        return None
    return place if 0 <= place < len(inspected.inspection.cells) else None


def whose(page: PageContext, record: ImageMetadata, language: str) -> str:
    """Which picture is shown, and a warning where the facts come from another model than the one that drew it."""
    line = message(page.texts.say("token_of", language, seed=record.seed, prompt=record.prompt), "done")
    loaded = page.loaded_variant()
    if loaded is not None and loaded.id != record.model:
        line += message(page.texts.say("token_other_model", language, title=record.title, now=loaded.title), "warning")
    return line


def alternative_line(drawn: int, token: int, share: float) -> str:
    """The caption of an alternative: its probability; the token that was drawn is marked."""
    text = f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"
    return f"✓ {text}" if token == drawn else text


def around(inspected: Inspected, place: int, picture: Image) -> Image:
    """The patch with its neighbours: in a thumbnail of the whole picture, one of 24 x 24 patches would be too small."""
    columns = inspected.inspection.columns
    if columns <= WINDOW:
        return picture
    cell = picture.width // columns
    left, top = (min(max(at - WINDOW // 2, 0), columns - WINDOW) * cell for at in (place % columns, place // columns))
    return picture.crop((left, top, left + WINDOW * cell, top + WINDOW * cell))


def legend_html(page: PageContext, found: Inspection, measure: str, language: str) -> str:
    """The colour ramp with the numbers of its ends, and what the measure means."""
    say, scale = page.texts.say, MEASURES[measure]
    colours = ", ".join(f"rgb{colour}" for colour in RAMP)
    unit = "%" if scale.unit == "%" else say("unit_bits", language)
    low, high = f"{scale.text(0)} {unit}", f"{scale.text(scale.top(found))} {unit}"
    return (
        f'<div class="ramp"><span>{escape(low)}</span><i style="background:linear-gradient(to right, {colours})"></i>'
        f"<span>{escape(high)}</span></div><p>{escape(say(f'measure_{measure}_info', language))}</p>"
    )


def facts_html(page: PageContext, found: Inspection, place: int, language: str) -> str:
    """A patch in words and numbers."""
    say, cell = page.texts.say, found.cells[place]
    row, column = place // found.columns + 1, place % found.columns + 1
    bits = say("unit_bits", language)
    return facts(
        [
            (say("token_patch", language), say("token_place", language, number=place + 1, row=row, column=column)),
            (say("token_id", language), str(cell.token)),
            (say("measure_probability", language), f"{100 * cell.probability:.2f} %"),
            (say("measure_entropy", language), f"{cell.entropy:.2f} {bits}"),
            (say("measure_gap", language), f"{cell.gap:.2f} {bits}"),
        ]
    )
