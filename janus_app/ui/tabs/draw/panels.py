"""The components of the draw tab: on the left what to draw and how, on the right the pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from janus_app.ui.common.actions import BrowserDownload, action_row
from janus_app.ui.common.controls import (
    RequestControls,
    RunButtons,
    SizeControls,
    example_buttons,
    flow_controls,
    negative_box,
    run_buttons,
    sampling_sliders,
    saved_picture,
    seed_row,
    size_controls,
)
from janus_app.ui.common.more import more
from janus_app.ui.common.results import JobOutput, ResultGallery, job_output
from janus_app.ui.context import PageContext
from janus_app.ui.tabs.draw.presets_panel import PresetsPanel, SavePanel, build_presets_panel, build_save_panel
from janus_app.ui.tabs.draw.prompt_helper import PromptHelper, build_buttons, build_panel
from janus_app.ui.tabs.draw.token_view import TokenView
from janus_app.ui.tabs.draw.token_view import build as build_token_view


@dataclass(frozen=True)
class DroppedPicture:
    """A picture of this app whose settings are restored. `metadata` holds its ImageMetadata, None where none is."""

    file: gr.File
    note: gr.HTML
    redraw: gr.Button
    metadata: gr.State


@dataclass(frozen=True)
class InputPanel:
    controls: RequestControls
    turbo: gr.Checkbox
    size: SizeControls
    examples: list[gr.Button]
    buttons: RunButtons
    helper: PromptHelper
    presets: PresetsPanel
    saving: SavePanel | None
    last_seed: gr.Button
    dropped: DroppedPicture


@dataclass(frozen=True)
class ResultsPanel:
    """`described` is the event after which the chosen picture may have another description."""

    output: JobOutput
    results: ResultGallery
    reuse: gr.Button
    rank: gr.Button
    tokens: TokenView
    described: Any
    alt_texts: gr.HTML


def build_input_panel(page: PageContext) -> InputPanel:
    label = page.texts.label
    prompt = gr.Textbox(
        label=label("prompt"), placeholder=label("prompt_hint"), lines=3, max_lines=8, elem_id="draw-prompt"
    )
    examples = example_buttons("draw")
    with gr.Row(elem_classes="run-row"):
        buttons = run_buttons(label, "draw", "draw", scale=2)
        helping = build_buttons(page)
    helper = build_panel(page, *helping)
    count = gr.Slider(1, 16, 4, step=1, label=label("count"), elem_id="draw-count")
    seed, new_seed = seed_row(label, "draw")
    size = size_controls(label, "draw")
    with gr.Accordion(label("settings"), open=False, elem_id="draw-settings"):
        presets = build_presets_panel(page)
        guidance, temperature = sampling_sliders(label, "draw")
        flow = flow_controls(label, "draw")
        negative = negative_box(label, "draw")
        turbo = gr.Checkbox(False, label=label("turbo"), info=label("turbo_info"), elem_id="draw-turbo")
        last_seed = gr.Button(label("last_seed"), size="sm", elem_id="draw-last-seed", min_width=60)
        saving = build_save_panel(page) if page.library else None
    with gr.Accordion(label("from_png"), open=False, elem_id="draw-from"):
        file, note = saved_picture(label, "draw")
        redraw = gr.Button(label("redraw_tokens"), size="sm", visible=False, elem_id="draw-exact")
    controls = RequestControls(prompt, negative, count, seed, new_seed, guidance, temperature, flow)
    dropped = DroppedPicture(file, note, redraw, gr.State(None))
    return InputPanel(controls, turbo, size, examples, buttons, helper, presets, saving, last_seed, dropped)


def build_results_panel(page: PageContext, browser: BrowserDownload) -> ResultsPanel:
    label = page.texts.label
    output = job_output("draw")
    # assets/style/ hides it while it is empty: Gradio ignores updates of `visible` in a tab that was never opened.
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
    with gr.Column(elem_classes="chosen"):  # visible when the gallery is
        detail = gr.HTML(elem_id="draw-detail", padding=False)
        results = ResultGallery(gallery, detail, action_row(page, "draw"), gr.State([]), gr.State(0))
        with gr.Row(elem_classes="actions"):
            reuse = gr.Button(label("reuse_seed"), size="sm", elem_id="draw-reuse", min_width=60)
            rank = gr.Button(label("rank"), size="sm", elem_id="draw-rank", min_width=60)
        tokens = build_token_view(page)
        described = more(page, "draw", results.source, browser)
    alt_texts = gr.HTML(elem_id="draw-alts", elem_classes="unseen", padding=False)
    return ResultsPanel(output, results, reuse, rank, tokens, described, alt_texts)
