"""The components of the draw tab: the canvas with the prompt beneath it, the drawer of settings, and the pictures."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from janus_app.ui.common.actions import BrowserDownload, menu_button
from janus_app.ui.common.controls import (
    RequestControls,
    RunButtons,
    SizeControls,
    example_buttons,
    fitted_box,
    flow_controls,
    negative_box,
    run_buttons,
    sampling_sliders,
    saved_picture,
    seed_row,
    size_controls,
)
from janus_app.ui.common.more import More, more
from janus_app.ui.common.pictures import PictureWall, picture_wall
from janus_app.ui.common.results import JobOutput
from janus_app.ui.context import PageContext, Updates
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
class PlanBox:
    """The plan that a model wrote before it drew, to be changed and drawn again; hidden where there is none."""

    box: gr.Column
    text: gr.Textbox
    run: gr.Button

    def show(self, plan: str) -> Updates:
        return {self.box: gr.update(visible=bool(plan)), self.text: plan}


@dataclass(frozen=True)
class InputPanel:
    """`offered` holds the prompt that the page filled in, which gives way to that of another model."""

    controls: RequestControls
    think: gr.Checkbox
    plan: PlanBox
    turbo: gr.Checkbox
    size: SizeControls
    examples: list[gr.Button]
    buttons: RunButtons
    helper: PromptHelper
    presets: PresetsPanel
    saving: SavePanel | None
    last_seed: gr.Button
    dropped: DroppedPicture
    offered: gr.State
    fitted: gr.Textbox


@dataclass(frozen=True)
class PicturesPanel:
    """`output` and `wall` share the canvas; `more` and `tokens` are about the chosen picture."""

    output: JobOutput
    wall: PictureWall
    more: More
    reuse: gr.Button
    rank: gr.Button
    tokens: TokenView


@dataclass(frozen=True)
class Canvas:
    output: JobOutput
    wall: PictureWall
    plan: PlanBox
    prompt: gr.Textbox
    unknown: gr.HTML
    examples: list[gr.Button]
    buttons: RunButtons
    helper: PromptHelper


def build_canvas(page: PageContext) -> Canvas:
    """What fills the window: the stage, and the prompt beneath it."""
    label = page.texts.label
    with gr.Column(elem_id="draw-canvas"):
        with gr.Column(elem_id="draw-stage"):
            easel = gr.HTML(elem_id="draw-easel", padding=False)
            wall = picture_wall(page, "draw")
            status = gr.HTML(elem_id="draw-status", padding=False)
        with gr.Column(elem_id="draw-bar"):
            notes = gr.HTML(elem_id="draw-notes", padding=False)
            plan = _plan_box(page)
            with gr.Row(elem_classes="prompt-row"):
                prompt = gr.Textbox(
                    label=label("prompt"),
                    show_label=False,
                    placeholder=label("prompt_hint"),
                    lines=2,
                    max_lines=5,
                    scale=6,
                    min_width=160,
                    elem_id="draw-prompt",
                )
                buttons = run_buttons(label, "draw", "draw", scale=0)
                gr.Button(
                    label("settings"),
                    elem_id="draw-drawer-open",
                    elem_classes="glyph icon-settings",
                    min_width=0,
                    scale=0,
                )
            unknown = gr.HTML(elem_id="draw-unknown", padding=False)
            with gr.Row(elem_classes="chips-row"):
                helping = build_buttons(page)
                examples = example_buttons("draw")
            helper = build_panel(page, *helping)
    return Canvas(JobOutput(status, notes, easel), wall, plan, prompt, unknown, examples, buttons, helper)


def _plan_box(page: PageContext) -> PlanBox:
    label = page.texts.label
    with gr.Column(visible=False, elem_id="draw-plan-box", min_width=0) as box:
        text = gr.Textbox("", label=label("plan"), info=label("plan_info"), lines=1, max_lines=5, elem_id="draw-plan")
        run = gr.Button(label("plan_draw"), size="sm", elem_id="draw-plan-run", min_width=60)
    return PlanBox(box, text, run)


def build_pictures(page: PageContext, canvas: Canvas, browser: BrowserDownload) -> PicturesPanel:
    """Below the canvas: what is known of the chosen picture, and all pictures in runs."""
    wall = canvas.wall
    with wall.menu:
        reuse = menu_button(page, "reuse_seed", "draw-reuse")
        rank = menu_button(page, "rank", "draw-rank")
    with gr.Column(elem_id="draw-below"):
        further = more(page, "draw", wall.menu, wall.source, browser)
        tokens = build_token_view(page)
        wall.build_details(page, "draw")
        wall.build_runs()
    return PicturesPanel(canvas.output, wall, further, reuse, rank, tokens)


def build_drawer(page: PageContext, canvas: Canvas) -> InputPanel:
    """How to draw. assets/page/ opens and closes it, and remembers which."""
    label = page.texts.label
    with gr.Column(elem_id="draw-drawer", min_width=0):
        with gr.Row(elem_classes="drawer-head"):
            gr.Markdown(label("settings"), elem_classes="drawer-title")
            gr.Button(
                label("close"), elem_id="draw-drawer-close", elem_classes="glyph icon-close", min_width=0, scale=0
            )
        count = gr.Slider(1, 16, 4, step=1, label=label("count"), elem_id="draw-count")
        seed, new_seed = seed_row(label, "draw")
        last_seed = gr.Button(label("last_seed"), size="sm", elem_id="draw-last-seed", min_width=60)
        size = size_controls(label, "draw")
        presets = build_presets_panel(page)
        guidance, temperature = sampling_sliders(label, "draw")
        flow = flow_controls(label, "draw")
        negative = negative_box(label, "draw")
        think = gr.Checkbox(True, label=label("think"), info=label("think_info"), visible=False, elem_id="draw-think")
        turbo = gr.Checkbox(False, label=label("turbo"), info=label("turbo_info"), elem_id="draw-turbo")
        fitted = fitted_box("draw")
        saving = build_save_panel(page) if page.library else None
        with gr.Accordion(label("from_png"), open=False, elem_id="draw-from"):
            file, note = saved_picture(label, "draw")
            redraw = gr.Button(label("redraw_tokens"), size="sm", visible=False, elem_id="draw-exact")
    controls = RequestControls(canvas.prompt, negative, count, seed, new_seed, guidance, temperature, flow)
    dropped = DroppedPicture(file, note, redraw, gr.State(None))
    return InputPanel(
        controls, think, canvas.plan,
        turbo, size, canvas.examples, canvas.buttons, canvas.helper, presets, saving, last_seed, dropped,
        gr.State(""), fitted,
    )  # fmt: skip
