"""The draw tab: words to pictures, watched row by row; every picture can be drawn again from its record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.models.registry import get_family
from janus_app.outputs.metadata import ImageMetadata, read_metadata, request_of
from janus_app.registry.types import Variant
from janus_app.types import GenerateRequest
from janus_app.ui.common import browser_settings
from janus_app.ui.common.actions import Actions, BrowserDownload, action_row, halt
from janus_app.ui.common.alt_text import alts_html
from janus_app.ui.common.controls import (
    flow_controls,
    flow_settings,
    flow_updates,
    negative_box,
    run_or_stop,
    sampling_sliders,
    seed_row,
)
from janus_app.ui.common.detail import detail_html
from janus_app.ui.common.drawing import draw, gallery_value, newest_first
from janus_app.ui.common.html import empty, message
from janus_app.ui.common.more import more
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import (
    EXAMPLES,
    JOB,
    QUICK,
    PageContext,
    example_updates,
    first_seed,
    number,
    public,
    random_seed,
    slider_update,
    whole_number,
)
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.draw import presets_panel, prompt_helper, token_view
from janus_app.ui.tabs.draw.ranking import ranked
from janus_app.workflows.token_heatmap import continued_request

SETTINGS = ("count", "guidance", "temperature")


@dataclass(frozen=True)
class DrawTab:
    """The selected picture (`shelf[chosen]`) with its row of actions, and the controls a record fills.

    `shown` takes what `on_shelf` gives; `tokens` is the token view of the selected picture.
    """

    gallery_items: gr.State
    chosen: gr.State
    row: Actions
    restored: list[Any]  # in the order of `restored_values`
    shown: list[Any]
    tokens: token_view.TokenView


def build(
    page: PageContext,
    variant: gr.Dropdown,
    seen: gr.Textbox,
    demo: gr.Blocks,
    browser: BrowserDownload,
    stored: gr.BrowserState,
) -> DrawTab:
    label = page.texts.label
    gallery_items, chosen, dropped = gr.State([]), gr.State(0), gr.State(None)
    with gr.Row(elem_classes="two-columns"):
        with gr.Column(scale=4, min_width=300):
            prompt = gr.Textbox(
                label=label("prompt"), placeholder=label("prompt_hint"), lines=3, max_lines=8, elem_id="draw-prompt"
            )
            with gr.Row(elem_classes="chips", elem_id="draw-examples"):
                examples = [
                    gr.Button("", size="sm", visible=False, elem_id=f"draw-example-{i}", min_width=60)
                    for i in range(EXAMPLES)
                ]
            with gr.Row(elem_classes="run-row"):
                run = gr.Button(label("draw"), variant="primary", elem_id="draw-run", min_width=120, scale=2)
                stop = gr.Button(
                    label("stop"), variant="stop", elem_id="draw-stop", min_width=120, scale=2, visible=False
                )
                helping = prompt_helper.buttons(page)
            helper = prompt_helper.panel(page, *helping)
            count = gr.Slider(1, 16, 4, step=1, label=label("count"), elem_id="draw-count")
            seed, fresh = seed_row(label, "draw")
            with gr.Accordion(label("settings"), open=False, elem_id="draw-settings"):
                presets = presets_panel.controls(page)
                guidance, temperature = sampling_sliders(label, "draw")
                flow = flow_controls(label, "draw")
                negative = negative_box(label, "draw")
                turbo = gr.Checkbox(False, label=label("turbo"), info=label("turbo_info"), elem_id="draw-turbo")
                knobs = [count, guidance, temperature, *flow.all]
                again = gr.Button(label("last_seed"), size="sm", elem_id="draw-last-seed", min_width=60)
                presets_panel.keeping(page, presets, variant, knobs)
            with gr.Accordion(label("from_png"), open=False, elem_id="draw-from"):
                drop = gr.File(label=label("drop_png"), file_types=[".png"], elem_id="draw-drop", height=130)
                drop_note = gr.HTML(elem_id="draw-drop-note", padding=False)
                exact = gr.Button(label("redraw_tokens"), size="sm", visible=False, elem_id="draw-exact")
        with gr.Column(scale=7, min_width=320, elem_classes="results"):
            status = gr.HTML(elem_id="draw-status", padding=False)
            notes = gr.HTML(elem_id="draw-notes", padding=False)
            preview_grid = gr.HTML(elem_id="draw-easel", padding=False)
            # Not in sight while it is empty, by style.css: Gradio forgets what a tab nobody opened is told to show.
            gallery = gr.Gallery(
                label=label("pictures"),
                show_label=False,
                columns=4,
                height="auto",
                object_fit="contain",
                format="png",
                buttons=["download", "download_all", "fullscreen"],
                interactive=False,
                elem_id="draw-gallery",
            )
            with gr.Column(elem_classes="chosen"):  # in sight when the gallery is
                detail = gr.HTML(elem_id="draw-detail", padding=False)
                row = action_row(page, "draw")
                with gr.Row(elem_classes="actions"):
                    reuse = gr.Button(label("reuse_seed"), size="sm", elem_id="draw-reuse", min_width=60)
                    rank = gr.Button(label("rank"), size="sm", elem_id="draw-rank", min_width=60)
                tokens = token_view.build(page)
                written = more(page, "draw", [gallery_items, chosen], lambda kept, index: kept[index], browser)
            alts = gr.HTML(elem_id="draw-alts", elem_classes="unseen", padding=False)

    outputs = [preview_grid, status, notes, gallery, gallery_items, chosen, detail, seed, run, stop]
    controls = [prompt, negative, count, guidance, temperature, fresh, seed]
    restored = [*controls, turbo, *flow.all]  # what a dropped picture fills

    def stream(
        kept: list[SavedImage],
        selected: str | None,
        make: Callable[[], GenerateRequest],
        shown_seed: Any,
        language: str,
    ) -> Iterator[tuple[Any, ...]]:
        rest = (gr.skip(),) * 4
        yield "", "", "", *rest, shown_seed, *run_or_stop(running=True)
        for view in draw(page, selected, make, language):
            sheet = gr.skip() if view.preview_grid is None else view.preview_grid
            if view.saved:
                kept = newest_first(kept, view.saved)
                sight = on_shelf(page, kept, 0, language)
                yield sheet, view.status, view.notes, *sight, gr.skip(), gr.skip(), gr.skip()
            else:
                yield sheet, view.status, view.notes, *rest, gr.skip(), gr.skip(), gr.skip()
        yield gr.skip(), gr.skip(), gr.skip(), *rest, gr.skip(), *run_or_stop(running=False)

    def on_draw(
        prompt: str,
        negative: str,
        count: Any,
        guidance: Any,
        temperature: Any,
        new_seed: bool,
        seed: Any,
        model: str | None,
        kept: list[SavedImage],
        steps: Any,
        solver: str | None,
        guidance_start: Any,
        guidance_end: Any,
        turbo: bool,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        first = first_seed(new_seed, seed)

        def make() -> GenerateRequest:
            return GenerateRequest(
                prompt=prompt or "",
                negative=(negative or "").strip(),
                count=whole_number(count, "The number of pictures"),
                guidance=number(guidance, "Guidance"),
                temperature=number(temperature, "Temperature"),
                seed=whole_number(first, "Seed"),
                turbo=bool(turbo),
                **flow_settings(steps, solver, guidance_start, guidance_end),
            )

        yield from stream(kept, model, make, first, page.language(request))

    def on_exact(
        record: ImageMetadata | None, selected: str | None, kept: list[SavedImage], request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        if record is None:
            return
        yield from stream(kept, selected, lambda: request_of(record), gr.skip(), page.language(request))

    def on_draw_on(
        looked: token_view.Looked | None,
        patch: Any,
        token: int | None,
        selected: str | None,
        kept: list[SavedImage],
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """The picture the token view shows, anew from its chosen patch on; with `token` in that patch's place."""
        language, other = page.language(request), random_seed()

        def make() -> GenerateRequest:
            if looked is None:
                raise AppError("Look into a picture first, then choose one of its patches.")
            return continued_request(looked.record, whole_number(patch, "The patch") - 1, other, token)

        yield from stream(kept, selected, make, gr.skip(), language)

    def on_draw_from(looked: Any, patch: Any, selected: str | None, kept: list[SavedImage], request: gr.Request) -> Any:
        yield from on_draw_on(looked, patch, None, selected, kept, request)

    def on_rank(
        kept: list[SavedImage], index: int, selected: str | None, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        language = page.language(request)
        for line, ordered in ranked(page, kept, index, selected, language):
            rest = (gr.skip(),) * 4 if ordered is None else on_shelf(page, ordered, 0, language)
            yield line, *rest

    def stopped(request: gr.Request) -> tuple[Any, ...]:
        line = message(page.texts.say("draw_stopped", page.language(request)))
        return gr.skip(), line, *(gr.skip(),) * 6, *run_or_stop(running=False)

    def choose(kept: list[SavedImage], request: gr.Request, event: gr.SelectData) -> tuple[Any, ...]:
        index = min(int(event.index), len(kept) - 1)
        return index, detail_html(page, kept[index], page.language(request))

    def told_anew(kept: list[SavedImage], index: int, request: gr.Request) -> tuple[Any, ...]:
        return detail_html(page, kept[index], page.language(request)), alts_html(kept)

    def on_drop(path: str | None, request: gr.Request) -> tuple[Any, ...]:
        language = page.language(request)
        stay = (gr.skip(),) * len(restored)
        if not path:
            return "", gr.update(visible=False), None, *stay
        try:
            record = read_metadata(path)
            asked = request_of(record)
        except AppError as error:
            text = page.texts.text(error, language)
            return message(text, "error"), gr.update(visible=False), None, *stay
        return (
            drop_note_html(page, record, language),
            gr.update(visible=bool(record.image_tokens)),
            record,
            *restored_values(asked),
        )

    def refresh(selected: str | None, kept: list[SavedImage], request: gr.Request) -> list[Any]:
        language = page.language(request)
        now = page.variant(selected)
        say = page.texts.say
        blank = gr.skip() if kept else empty(say("draw_empty_title", language), draw_hint(page.texts, now, language))
        sliders = [slider_update(now.settings.get(name)) for name in SETTINGS]
        return [
            blank,
            gr.update(interactive="generate" in now.verbs),
            *example_updates(now.prompts("generate", language)),
            *sliders,
            *flow_updates(page, now, language),
            gr.update(visible=get_family(now.family).drawing == "tokens"),
            *refresh_presets(now, language),
        ]

    inputs = [
        *controls,
        variant,
        gallery_items,
        *flow.all,
        turbo,
    ]  # programs call this by name, and older ones by place
    drawing: list[Any] = [
        run.click(on_draw, inputs, outputs, **public("draw")),
        prompt.submit(on_draw, inputs, outputs, **JOB),
        exact.click(on_exact, [dropped, variant, gallery_items], outputs, **JOB),
        tokens.draw_on.click(on_draw_from, [tokens.looked, tokens.patch, variant, gallery_items], outputs, **JOB),
        tokens.draw_with.click(
            on_draw_on, [tokens.looked, tokens.patch, tokens.token, variant, gallery_items], outputs, **JOB
        ),
    ]
    drawing.append(prompt_helper.wire(page, helper, prompt, variant, [status, run, stop]))
    refresh_presets = presets_panel.wire(page, presets, variant, prompt, knobs)
    recall = browser_settings.wire(page, stored, variant, knobs, [run.click, prompt.submit])
    shown = [gallery, gallery_items, chosen, detail]
    rank.click(on_rank, [gallery_items, chosen, variant], [status, *shown], **JOB)
    token_view.wire(page, tokens, gallery_items, chosen, variant)
    halt(stop.click, drawing).then(stopped, None, outputs, **QUICK)
    gallery.select(choose, gallery_items, [chosen, detail], **QUICK)
    gallery.change(alts_html, gallery_items, alts, **QUICK)
    written.then(told_anew, [gallery_items, chosen], [detail, alts], **QUICK)
    reuse.click(lambda kept, index: (kept[index].record.seed, False), [gallery_items, chosen], [seed, fresh], **QUICK)
    again.click(
        lambda kept, s: (kept[0].record.seed if kept else s, False), [gallery_items, seed], [seed, fresh], **QUICK
    )
    drop.change(on_drop, drop, [drop_note, exact, dropped, *restored], **QUICK)
    for example in examples:
        example.click(lambda text: text, example, prompt, **QUICK)
    told = [preview_grid, run, *examples, *knobs, turbo, presets.preset, presets.style, presets.note]
    for moment in (demo.load, seen.change):
        recall(moment(refresh, [variant, gallery_items], told, **QUICK))
    return DrawTab(gallery_items, chosen, row, restored, shown, tokens)


def on_shelf(page: PageContext, kept: list[SavedImage], index: int, language: str) -> tuple[Any, ...]:
    """The pictures `kept` in sight with one of them selected, in the order of `DrawTab.shown`."""
    pictures = gr.update(value=gallery_value(kept, page, language), selected_index=None)
    return pictures, kept, index, detail_html(page, kept[index], language)


def restored_values(asked: GenerateRequest, fresh: bool = False) -> tuple[Any, ...]:
    """The draw tab's controls for a request, with its own seed or a new one each time."""
    return (
        asked.prompt,
        asked.negative,
        1,
        gr.update(value=asked.guidance, maximum=max(10, asked.guidance)),
        asked.temperature,
        fresh,
        asked.seed,
        asked.turbo,
        asked.steps,
        asked.solver,
        *asked.guidance_interval,
    )


def draw_hint(texts: Texts, variant: Variant, language: str) -> str:
    """What to do on an empty tab, and how the picture will appear."""
    if "generate" not in variant.verbs:
        return texts.say("draw_cannot", language, title=variant.title)
    by_rows = get_family(variant.family).drawing == "tokens"
    return texts.say("draw_empty_rows" if by_rows else "draw_empty_steps", language, title=variant.title)


def drop_note_html(page: PageContext, record: ImageMetadata, language: str) -> str:
    """What was read from a dropped picture, and whether the loaded model is the one that drew it."""
    say = page.texts.say
    lines = message(say("drop_read", language, title=record.title, seed=record.seed), "done")
    resident = page.loaded_variant()
    if record.verb == "edit":
        again = "drop_edit" if record.image_tokens else "drop_edit_flow"
        lines += message(say(again, language), "warning")
    if resident is None or resident.id != record.model:
        lines += message(say("drop_other_model", language, title=record.title), "warning")
    return lines
