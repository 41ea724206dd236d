"""The components of the edit tab: on the left the picture and how to change it, on the right the results."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from janus_app.ui.common.actions import action_row
from janus_app.ui.common.controls import (
    RequestControls,
    RunButtons,
    example_buttons,
    flow_controls,
    negative_box,
    run_buttons,
    sampling_sliders,
    saved_picture,
    seed_row,
)
from janus_app.ui.common.results import JobOutput, ResultGallery, job_output
from janus_app.ui.context import PageContext
from janus_app.ui.tabs.edit.editor import picture_editor
from janus_app.ui.tabs.edit.undo import Tree

STEP_CLICKED = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-step]");
  if (button) trigger("select", { step: Number(button.dataset.step) });
});"""


@dataclass(frozen=True)
class SourcePanel:
    """The picture to edit, the tree of the session's pictures (`tree` holds a Tree), and further pictures.

    `given` is the file that the user put into the editor, `note` what is wrong with it.
    """

    editor: gr.ImageEditor
    given: gr.File
    note: gr.HTML
    tree: gr.State
    strip: gr.HTML
    undo_row: gr.Row
    back: gr.Button
    clear: gr.Button
    more: gr.Gallery


@dataclass(frozen=True)
class MethodPanel:
    """The edit method, what it does, and for methods that read it the description of the picture as it is."""

    method: gr.Radio
    note: gr.HTML
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


@dataclass(frozen=True)
class ResultsPanel:
    output: JobOutput
    compare: gr.ImageSlider
    results: ResultGallery
    reuse: gr.Button


@dataclass(frozen=True)
class EditPanels:
    source: SourcePanel
    method: MethodPanel
    settings: SettingsPanel
    right: ResultsPanel


def build_source_panel(page: PageContext) -> SourcePanel:
    label = page.texts.label
    editor = picture_editor(label)
    given = gr.File(elem_id="edit-given", elem_classes="unseen", label="edit-given")  # filled by assets/page/
    note = gr.HTML(elem_id="edit-editor-note", padding=False)
    strip = gr.HTML(elem_id="edit-undo", padding=False, js_on_load=STEP_CLICKED)
    with gr.Row(visible=False, elem_classes="actions", elem_id="edit-undo-row") as undo_row:
        back = gr.Button(label("undo_back"), size="sm", elem_id="edit-undo-back", min_width=60)
        clear = gr.Button(label("undo_reset"), size="sm", elem_id="edit-undo-reset", min_width=60)
    more = gr.Gallery(
        label=label("more_pictures"),
        type="filepath",
        sources=["upload", "clipboard"],
        columns=4,
        height=150,
        object_fit="contain",
        buttons=[],
        interactive=True,
        visible=False,
        elem_id="edit-more",
    )
    return SourcePanel(editor, given, note, gr.State(Tree()), strip, undo_row, back, clear, more)


def build_method_panel(page: PageContext) -> MethodPanel:
    label = page.texts.label
    method = gr.Radio([], label=label("method"), elem_id="edit-method")
    note = gr.HTML(elem_id="edit-method-note", padding=False)
    with gr.Column(visible=False, elem_id="edit-source") as source_box:
        source_prompt = gr.Textbox(
            label=label("source_prompt"),
            info=label("source_prompt_info"),
            lines=2,
            max_lines=6,
            elem_id="edit-source-prompt",
        )
        describe = gr.Button(label("describe_for_me"), size="sm", elem_id="edit-source-describe", min_width=120)
    return MethodPanel(method, note, source_box, source_prompt, describe)


def build_settings_panel(page: PageContext) -> SettingsPanel:
    label = page.texts.label
    prompt = gr.Textbox(
        label=label("edit_prompt"), placeholder=label("edit_prompt_hint"), lines=2, max_lines=6, elem_id="edit-prompt"
    )
    examples = example_buttons("edit")
    with gr.Row(elem_classes="run-row"):
        buttons = run_buttons(label, "edit", "edit")
    go_on = gr.Checkbox(True, label=label("go_on"), elem_id="edit-go-on")
    count = gr.Slider(1, 16, 1, step=1, label=label("count"), elem_id="edit-count")
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
    seed, new_seed = seed_row(label, "edit")
    with gr.Accordion(label("settings"), open=False, elem_id="edit-settings"):
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
    with gr.Accordion(label("from_png"), open=False, elem_id="edit-from"):
        drop, drop_note = saved_picture(label, "edit")
    controls = RequestControls(prompt, negative, count, seed, new_seed, guidance, temperature, flow)
    return SettingsPanel(controls, strength, image_guidance, examples, buttons, go_on, drop, drop_note)


def build_results_panel(page: PageContext) -> ResultsPanel:
    label = page.texts.label
    output = job_output("edit")
    # "hidden" instead of False: in a tab opened by a button, Gradio never builds components that were left out.
    compare = gr.ImageSlider(
        label=label("before_after"),
        show_label=False,
        type="filepath",
        interactive=False,
        visible="hidden",
        buttons=["fullscreen"],
        slider_position=50,
        elem_id="edit-compare",
    )
    gallery = gr.Gallery(
        label=label("edited"),
        show_label=False,
        fit_columns=False,
        columns=4,
        height="auto",
        object_fit="contain",
        format="png",
        allow_preview=False,
        buttons=["download_all"],
        interactive=False,
        visible="hidden",
        elem_id="edit-gallery",
    )
    with gr.Column(elem_classes="chosen"):  # assets/style/ shows it when the gallery is visible
        detail = gr.HTML(elem_id="edit-detail", padding=False)
        results = ResultGallery(gallery, detail, action_row(page, "edit"), gr.State([]), gr.State(0))
        reuse = gr.Button(label("reuse_seed"), size="sm", elem_id="edit-reuse", min_width=60)
    return ResultsPanel(output, compare, results, reuse)
