"""The components of the edit tab: the canvas, beside it what should change and how, and the results below."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from janus_app.ui.common.actions import BrowserDownload, PictureSource, menu_button
from janus_app.ui.common.controls import (
    RequestControls,
    RunButtons,
    example_buttons,
    fitted_box,
    flow_controls,
    negative_box,
    run_buttons,
    sampling_sliders,
    saved_picture,
    seed_row,
)
from janus_app.ui.common.more import More, more
from janus_app.ui.common.pictures import PictureWall, picture_wall
from janus_app.ui.common.results import JobOutput
from janus_app.ui.context import PageContext
from janus_app.ui.tabs.edit.editor import picture_editor
from janus_app.ui.tabs.edit.stage import CANVAS, COMPARISON, shown_picture
from janus_app.ui.tabs.edit.undo import Tree

CLICKED = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-step], [data-start]");
  if (button) trigger("select", { ...button.dataset });
});"""


@dataclass(frozen=True)
class SourcePanel:
    """The picture to edit, pictures to start with, and the session's pictures (`tree` holds a Tree).

    `given` is the file that the user put into the editor, `note` what is wrong with it, `more` further pictures.
    """

    editor: gr.HTML
    given: gr.File
    note: gr.HTML
    start: gr.HTML
    tree: gr.State
    strip: gr.HTML
    undo_row: gr.Row
    back: gr.Button
    clear: gr.Button
    more: gr.Gallery


@dataclass(frozen=True)
class MethodPanel:
    """What should change (an edit method), how that is done, and a model to switch to where it needs another one.

    `source_prompt` describes the picture as it is, for methods that read it.
    """

    method: gr.Radio
    note: gr.HTML
    offer: gr.HTML
    switch: gr.Button
    source_box: gr.Column
    source_prompt: gr.Textbox
    describe: gr.Button


@dataclass(frozen=True)
class SettingsPanel:
    controls: RequestControls
    strength: gr.Slider
    image_guidance: gr.Slider
    examples: list[gr.Button]
    buttons: RunButtons
    go_on: gr.Checkbox  # whether the first result becomes the next picture to edit
    drop: gr.File
    drop_note: gr.HTML
    fitted: gr.Textbox
    written: gr.Textbox  # the text that the prompt box does not show: words.py
    suggested: gr.JSON  # what the prompt box is to hold in place of what it held: ways_panel.py


@dataclass(frozen=True)
class ResultsPanel:
    """`view` is what the stage shows: CANVAS or COMPARISON; `shown` is the picture there, on which the verbs act."""

    output: JobOutput
    view: gr.Radio
    compare: gr.ImageSlider
    sides: gr.HTML
    results: PictureWall
    shown: PictureSource
    reuse: gr.Button
    more: More


@dataclass(frozen=True)
class EditPanels:
    source: SourcePanel
    method: MethodPanel
    settings: SettingsPanel
    right: ResultsPanel


def build_panels(page: PageContext, browser: BrowserDownload) -> EditPanels:
    """assets/style/edit.css lays the editor, the comparison and the previews over one another on the stage."""
    label = page.texts.label
    with gr.Row(elem_id="edit-desk", equal_height=False):
        with gr.Column(elem_id="edit-left", scale=1, min_width=300):
            with gr.Column(elem_id="edit-stage"):
                editor = picture_editor(page.texts)
                compare = _comparison(page)
                sides = gr.HTML(elem_id="edit-sides", padding=False)  # what stands at each side of the slider
                previews = gr.HTML(elem_id="edit-easel", padding=False)
            with gr.Row(elem_id="edit-beneath"):
                view = gr.Radio(
                    [(label("view_compare"), COMPARISON), (label("view_canvas"), CANVAS)],
                    value=CANVAS,
                    show_label=False,
                    label=label("view"),
                    elem_id="edit-view",
                    elem_classes="segments",
                    interactive=True,  # an output of handlers only, which Gradio would show as text
                    visible="hidden",
                )
                wall = picture_wall(page, "edit")
            given = gr.File(elem_id="edit-given", elem_classes="unseen", label="edit-given")  # filled by assets/page/
            note = gr.HTML(elem_id="edit-editor-note", padding=False)
            start = gr.HTML(elem_id="edit-start", padding=False, js_on_load=CLICKED)
            strip, undo_row, back, clear = _history(page)
            tree = gr.State(Tree())
        with gr.Column(elem_id="edit-panel", scale=0, min_width=340):
            method = _method(page)
            with gr.Column(elem_id="edit-bar", elem_classes="bare"):
                prompt = gr.Textbox(
                    label=label("edit_prompt"),
                    placeholder=label("edit_prompt_hint"),
                    lines=2,
                    max_lines=5,
                    elem_id="edit-prompt",
                )
                buttons = run_buttons(label, "edit", "edit")
                status, notes = (
                    gr.HTML(elem_id="edit-status", padding=False),
                    gr.HTML(elem_id="edit-notes", padding=False),
                )
            examples = example_buttons("edit")
            further = _more_pictures(page)
            settings = _settings(page, prompt, examples, buttons)
    source = SourcePanel(editor, given, note, start, tree, strip, undo_row, back, clear, further)
    with wall.menu:
        reuse = menu_button(page, "reuse_seed", "edit-reuse")
    shown = shown_picture(view, tree, wall)
    with gr.Column(elem_id="edit-results"):
        lines = more(page, "edit", wall.menu, shown, browser)
        wall.build_details(page, "edit")
        wall.build_runs()
    output = JobOutput(status, notes, previews)
    right = ResultsPanel(output, view, compare, sides, wall, shown, reuse, lines)
    return EditPanels(source, method, settings, right)


def _comparison(page: PageContext) -> gr.ImageSlider:
    # "hidden" instead of False: in a tab opened by a button, Gradio never builds components that were left out.
    return gr.ImageSlider(
        label=page.texts.label("before_after"),
        show_label=False,
        type="filepath",
        interactive=False,
        visible="hidden",
        buttons=[],
        slider_position=50,
        elem_id="edit-compare",
    )


def _history(page: PageContext) -> tuple[gr.HTML, gr.Row, gr.Button, gr.Button]:
    """Undo and clear, and beside them the strip of the session's pictures."""
    label = page.texts.label
    with gr.Row(elem_id="edit-steps-row"):
        with gr.Row(visible=False, elem_classes="actions", elem_id="edit-undo-row") as row:
            back = gr.Button(label("undo"), size="sm", elem_id="edit-undo-back", min_width=60)
            clear = gr.Button(label("clear"), size="sm", elem_id="edit-undo-reset", min_width=60)
        strip = gr.HTML(elem_id="edit-undo", padding=False, js_on_load=CLICKED)
    return strip, row, back, clear


def _more_pictures(page: PageContext) -> gr.Gallery:
    return gr.Gallery(
        label=page.texts.label("more_pictures"),
        type="filepath",
        sources=["upload", "clipboard"],
        columns=4,
        height=150,
        object_fit="contain",
        buttons=[],
        interactive=True,
        visible=False,
        elem_id="edit-more",
        elem_classes="dropzone",
    )


def _method(page: PageContext) -> MethodPanel:
    label = page.texts.label
    method = gr.Radio([], label=label("what_changes"), elem_id="edit-method")
    note = gr.HTML(elem_id="edit-method-note", padding=False)
    offer = gr.HTML(elem_id="edit-offer", padding=False)
    switch = gr.Button("", visible="hidden", elem_id="edit-switch")
    with gr.Column(visible=False, elem_id="edit-source", elem_classes="bare") as source_box:
        source_prompt = gr.Textbox(
            label=label("source_prompt"),
            info=label("source_prompt_info"),
            lines=2,
            max_lines=5,
            elem_id="edit-source-prompt",
        )
        describe = gr.Button(label("describe_for_me"), size="sm", elem_id="edit-source-describe", min_width=120)
    return MethodPanel(method, note, offer, switch, source_box, source_prompt, describe)


def _settings(page: PageContext, prompt: gr.Textbox, examples: list[gr.Button], buttons: RunButtons) -> SettingsPanel:
    """The drawer of settings; assets/page/ remembers whether it is open."""
    label = page.texts.label
    with gr.Accordion(label("settings"), open=False, elem_id="edit-settings", elem_classes="remembered-drawer"):
        strength = gr.Slider(
            0.05,
            1,
            0.6,
            step=0.05,
            label=label("strength"),
            info=label("strength_variation"),
            visible=False,
            elem_id="edit-strength",
        )
        go_on = gr.Checkbox(True, label=label("go_on"), elem_id="edit-go-on")
        count = gr.Slider(1, 16, 1, step=1, label=label("count"), elem_id="edit-count")
        seed, new_seed = seed_row(label, "edit")
        guidance, temperature = sampling_sliders(label, "edit")
        image_guidance = gr.Slider(
            1,
            10,
            1.5,
            step=0.1,
            label=label("image_guidance"),
            info=label("image_guidance_flow"),
            visible=False,
            elem_id="edit-image-guidance",
        )
        flow = flow_controls(label, "edit")
        negative = negative_box(label, "edit")
        fitted = fitted_box("edit")
        written = gr.Textbox("", visible="hidden", elem_id="edit-written", label="edit-written")
        suggested = gr.JSON(visible="hidden", elem_id="edit-suggested", label="edit-suggested")
        with gr.Accordion(label("from_png"), open=False, elem_id="edit-from"):
            drop, drop_note = saved_picture(label, "edit")
    controls = RequestControls(prompt, negative, count, seed, new_seed, guidance, temperature, flow)
    parts = (controls, strength, image_guidance, examples, buttons, go_on, drop, drop_note)
    return SettingsPanel(*parts, fitted, written, suggested)
