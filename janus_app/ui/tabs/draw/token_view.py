"""The token view: what the model was sure of in a picture, patch by patch, and drawing on from any of them.

The facts are asked of the model when the view is opened, from the picture's record alone, so any picture with image
tokens has them: one drawn just now, one of the history, one dropped on the page.
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
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import JOB, QUICK, PageContext, whole_number
from janus_app.workflows.token_heatmap import MEASURES, RAMP, heatmap, inspection_request, patch_side

OTHERS = 8  # alternatives told and shown for a patch
WINDOW = 9  # patches in a row of a thumbnail of an alternative


@dataclass(frozen=True)
class Looked:
    """The picture that was looked into: its record, and what was found."""

    record: ImageMetadata
    inspection: Inspection


@dataclass(frozen=True)
class TokenView:
    """The view's widgets. `looked` holds a Looked, `token` the alternative that was chosen for `patch`, or None."""

    frame: gr.Accordion
    look: gr.Button
    status: gr.HTML
    measure: gr.Radio
    picture: gr.Image
    legend: gr.HTML
    patch: gr.Number
    facts: gr.HTML
    heading: gr.HTML
    others: gr.Gallery
    draw_on: gr.Button
    draw_with: gr.Button
    looked: gr.State
    token: gr.State


def build(page: PageContext) -> TokenView:
    """The widgets, where they stand; `wire` gives them their meaning."""
    label = page.texts.label
    with gr.Accordion(label("token_view"), open=False, elem_id="tokens") as frame:
        look = gr.Button(label("token_look"), size="sm", elem_id="tokens-look", min_width=60)
        status = gr.HTML(elem_id="tokens-status", padding=False)
        with gr.Column(elem_classes="tokens"):  # in sight when the map is, by style.css
            measure = gr.Radio(list(MEASURES), value="entropy", label=label("token_measure"), elem_id="tokens-measure")
            picture = gr.Image(
                label=label("token_map"),
                show_label=False,
                type="pil",
                format="png",
                interactive=False,
                buttons=["download", "fullscreen"],
                elem_id="tokens-map",
            )
            legend = gr.HTML(elem_id="tokens-legend", padding=False)
            patch = gr.Number(  # its range is told below it: Gradio would answer another number with its own words
                1, precision=0, label=label("token_patch"), info=label("token_patch_info"), elem_id="tokens-patch"
            )
            told = gr.HTML(elem_id="tokens-facts", padding=False)
            heading = gr.HTML(elem_id="tokens-heading", padding=False)
            others = gr.Gallery(
                label=label("token_others"),
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
            with gr.Row(elem_classes="actions"):
                draw_on = gr.Button(label("token_draw_on"), size="sm", elem_id="tokens-draw-on", min_width=60)
                draw_with = gr.Button(
                    label("token_draw_with"), size="sm", interactive=False, elem_id="tokens-draw-with", min_width=60
                )
                region = gr.Button(label("token_region"), size="sm", elem_id="tokens-region", min_width=60)
    region.click(**press("draw-to-edit"))
    return TokenView(
        frame, look, status, measure, picture, legend, patch, told, heading, others, draw_on, draw_with,
        gr.State(None), gr.State(None),
    )  # fmt: skip


def wire(page: PageContext, view: TokenView, gallery_items: gr.State, chosen: gr.State, variant: gr.Dropdown) -> None:
    """Looking, choosing a measure and a patch, and the pictures its alternatives would make."""
    say = page.texts.say

    def on_look(
        kept: list[SavedImage], index: int, selected: str | None, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        language = page.language(request)
        stay = (gr.skip(),) * 8
        if not kept:
            yield message(say("token_none", language), "warning"), *stay
            return
        record = kept[min(index, len(kept) - 1)].record
        for frame in watch(lambda: page.job(selected, inspection_request(record, OTHERS)), page.texts, language):
            if frame.error:
                yield message(frame.error, "error"), *stay
            elif frame.finished is None or frame.finished.inspection is None:
                yield frame.status + messages(frame.notices), *stay
            else:
                looked = Looked(record, frame.finished.inspection)
                cells = looked.inspection.cells
                place = max(range(len(cells)), key=lambda number: cells[number].entropy)  # where most was open
                names = [(page.texts.named("measure", name, language), name) for name in MEASURES]
                yield (
                    whose(page, record, language),
                    looked,
                    gr.update(choices=names, value="entropy"),
                    *seen(looked, "entropy", place, language),
                    place + 1,
                    [],
                    f"<p>{escape(say('token_others', language))}</p>",
                )

    def seen(looked: Looked, measure: str, place: int, language: str) -> tuple[Any, ...]:
        """The heat map, its legend and the facts of the patch number `place`."""
        sheet = heatmap(looked.inspection, MEASURES[measure], place)
        words = say("token_map_alt", language, measure=page.texts.named("measure", measure, language))
        return (
            gr.update(value=sheet, alt_text=words),
            legend_html(page, looked.inspection, measure, language),
            facts_html(page, looked.inspection, place, language),
        )

    def on_choice(looked: Looked | None, measure: str, number: Any, request: gr.Request) -> tuple[Any, ...]:
        if looked is None:
            return (gr.skip(),) * 3
        place = place_of(looked, number)
        if place is None:
            last = len(looked.inspection.cells)
            line = message(say("token_no_patch", page.language(request), last=last), "error")
            return gr.skip(), gr.skip(), line
        return seen(looked, measure, place, page.language(request))

    def on_swap(
        looked: Looked | None, number: Any, selected: str | None, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """The picture with each alternative in the chosen place, likeliest first."""
        language = page.language(request)
        place = None if looked is None else place_of(looked, number)
        if looked is None or place is None:
            return
        yield "", gr.skip(), None, gr.update(interactive=False)
        cell = looked.inspection.cells[place]
        tokens = tuple(token for token, _ in cell.alternatives)
        swap = SwapRequest(looked.record.image_tokens, place, tokens)
        for frame in watch(lambda: page.job(selected, swap), page.texts, language):
            if frame.error:
                yield message(frame.error, "error"), [], gr.skip(), gr.skip()
            elif frame.finished:
                images = [around(looked, place, picture.image) for picture in frame.finished.pictures]
                lines = [other_line(cell.token, *other) for other in cell.alternatives]
                sheets = list(zip(images, lines, strict=True))
                yield (
                    whose(page, looked.record, language),
                    gr.update(value=sheets, selected_index=None),
                    None,
                    gr.skip(),
                )
            else:
                yield frame.status, gr.skip(), gr.skip(), gr.skip()

    def on_click(looked: Looked | None, event: gr.SelectData) -> Any:
        """A click's pixel on the heat map as the number of its patch."""
        if looked is None:
            return gr.skip()
        columns, (x, y) = looked.inspection.columns, event.index
        side = patch_side(looked.inspection)
        return min(int(y) // side * columns + int(x) // side + 1, len(looked.inspection.cells))

    def on_other(looked: Looked, number: Any, event: gr.SelectData) -> tuple[Any, ...]:
        place = place_of(looked, number)
        if place is None:
            return None, gr.update(interactive=False)
        token, _ = looked.inspection.cells[place].alternatives[int(event.index)]
        return token, gr.update(interactive=True)

    v = view
    shown = [v.picture, v.legend, v.facts]
    v.look.click(
        on_look,
        [gallery_items, chosen, variant],
        [v.status, v.looked, v.measure, *shown, v.patch, v.others, v.heading],
        **JOB,
    ).success(on_swap, [v.looked, v.patch, variant], [v.status, v.others, v.token, v.draw_with], **JOB)
    v.measure.input(on_choice, [v.looked, v.measure, v.patch], shown, **QUICK)
    v.picture.select(on_click, v.looked, v.patch, **QUICK)
    moved = v.patch.change(on_choice, [v.looked, v.measure, v.patch], shown, trigger_mode="always_last", **QUICK)
    moved.then(on_swap, [v.looked, v.patch, variant], [v.status, v.others, v.token, v.draw_with], **JOB)
    v.others.select(on_other, [v.looked, v.patch], [v.token, v.draw_with], **QUICK)


def place_of(looked: Looked, number: Any) -> int | None:
    """The patch of a number box, 0 = the first; None where there is none of that number."""
    try:
        place = whole_number(number, "The patch") - 1
    except AppError:
        return None
    return place if 0 <= place < len(looked.inspection.cells) else None


def whose(page: PageContext, record: ImageMetadata, language: str) -> str:
    """Which picture the view is of, and a word where another model than its own tells the odds."""
    line = message(page.texts.say("token_of", language, seed=record.seed, prompt=record.prompt), "done")
    resident = page.loaded_variant()
    if resident is not None and resident.id != record.model:
        line += message(
            page.texts.say("token_other_model", language, title=record.title, now=resident.title), "warning"
        )
    return line


def other_line(drawn: int, token: int, share: float) -> str:
    """An alternative's caption; the one that was drawn is marked."""
    text = f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"
    return f"✓ {text}" if token == drawn else text


def around(looked: Looked, place: int, picture: Image) -> Image:
    """The patch with its neighbours, in a thumbnail: one of 24 x 24 patches would not be seen in a small whole."""
    columns = looked.inspection.columns
    if columns <= WINDOW:
        return picture
    cell = picture.width // columns
    left, top = (min(max(at - WINDOW // 2, 0), columns - WINDOW) * cell for at in (place % columns, place // columns))
    return picture.crop((left, top, left + WINDOW * cell, top + WINDOW * cell))


def legend_html(page: PageContext, found: Inspection, measure: str, language: str) -> str:
    """The ramp with its ends in numbers, and what the measure means."""
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
