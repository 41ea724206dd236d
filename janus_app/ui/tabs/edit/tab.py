"""The edit tab: a picture, a way of editing and what that way asks for; then before and after, compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from janus_app.types import DESCRIBE, ChatRequest, EditRequest, Turn
from janus_app.ui.common.actions import Actions, action_row, halt
from janus_app.ui.common.controls import (
    flow_controls,
    flow_settings,
    negative_box,
    run_or_stop,
    sampling_sliders,
    saved_picture,
    seed_row,
)
from janus_app.ui.common.detail import detail_html
from janus_app.ui.common.drawing import draw, gallery_value, newest_first
from janus_app.ui.common.html import empty, message, messages
from janus_app.ui.common.jobs import watch
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import EXAMPLES, JOB, QUICK, PageContext, first_seed, number, whole_number
from janus_app.ui.tabs.edit.editor import for_editor, more_pictures, picture_and_mask, picture_editor
from janus_app.ui.tabs.edit.methods import tab_updates, uses, way_updates
from janus_app.ui.tabs.edit.undo import Tree, tree_html

LONGEST_DESCRIPTION = 120  # tokens
STEP_PRESSED = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-step]");
  if (button) trigger("select", { step: Number(button.dataset.step) });
});"""


@dataclass(frozen=True)
class EditTab:
    """What is filled when a picture is sent here; the selected result (`shelf[chosen]`) with its row of actions."""

    gallery_items: gr.State
    chosen: gr.State
    row: Actions
    prompt: gr.Textbox
    edits: gr.State
    receive: Callable[
        [Tree, SavedImage, gr.Request], tuple[Any, ...]
    ]  # the values of `received` for a picture sent here
    received: list[Any]
    restored: list[Any]  # what the record of an edited picture fills, in the order of `restore.edit_values`
    drop: gr.File
    drop_note: gr.HTML


def build(page: PageContext, variant: gr.Dropdown, seen: gr.Textbox, demo: gr.Blocks) -> EditTab:
    label = page.texts.label
    gallery_items, chosen, edits = gr.State([]), gr.State(0), gr.State(Tree())
    about = gr.HTML(elem_id="edit-about", padding=False)
    with gr.Row(elem_classes="two-columns"):
        with gr.Column(scale=5, min_width=300):
            editor = picture_editor(label)
            strip = gr.HTML(elem_id="edit-undo", padding=False, js_on_load=STEP_PRESSED)
            with gr.Row(visible=False, elem_classes="actions", elem_id="edit-undo-row") as undo_row:
                back = gr.Button(label("undo_back"), size="sm", elem_id="edit-undo-back", min_width=60)
                forget = gr.Button(label("undo_reset"), size="sm", elem_id="edit-undo-reset", min_width=60)
            more = gr.Gallery(
                label=label("more_pictures"),
                type="filepath",
                sources=["upload", "clipboard"],
                file_types=["image"],
                columns=4,
                height=150,
                object_fit="contain",
                buttons=[],
                interactive=True,
                visible=False,
                elem_id="edit-more",
            )
            method = gr.Radio([], label=label("method"), elem_id="edit-method")
            method_note = gr.HTML(elem_id="edit-method-note", padding=False)
            with gr.Column(visible=False, elem_id="edit-source") as source_box:
                source = gr.Textbox(
                    label=label("source_prompt"),
                    info=label("source_prompt_info"),
                    lines=2,
                    max_lines=6,
                    elem_id="edit-source-prompt",
                )
                describe = gr.Button(label("describe_for_me"), size="sm", elem_id="edit-source-describe", min_width=120)
            prompt = gr.Textbox(
                label=label("edit_prompt"),
                placeholder=label("edit_prompt_hint"),
                lines=2,
                max_lines=6,
                elem_id="edit-prompt",
            )
            with gr.Row(elem_classes="chips", elem_id="edit-examples"):
                examples = [
                    gr.Button("", size="sm", visible=False, elem_id=f"edit-example-{i}", min_width=60)
                    for i in range(EXAMPLES)
                ]
            with gr.Row(elem_classes="run-row"):
                run = gr.Button(label("edit"), variant="primary", elem_id="edit-run", min_width=120)
                stop = gr.Button(label("stop"), variant="stop", elem_id="edit-stop", min_width=120, visible=False)
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
            seed, fresh = seed_row(label, "edit")
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
            drop, drop_note = saved_picture(label, "edit")
        with gr.Column(scale=6, min_width=320, elem_classes="results"):
            status = gr.HTML(elem_id="edit-status", padding=False)
            notes = gr.HTML(elem_id="edit-notes", padding=False)
            preview_grid = gr.HTML(elem_id="edit-easel", padding=False)
            # Hidden and not absent: on a page whose tab was opened by a button, Gradio never builds absent ones later.
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
            with gr.Column(elem_classes="chosen"):  # in sight when the gallery is, by style.css
                detail = gr.HTML(elem_id="edit-detail", padding=False)
                row = action_row(page, "edit")
                reuse = gr.Button(label("reuse_seed"), size="sm", elem_id="edit-reuse", min_width=60)

    outputs = [preview_grid, status, notes, compare, gallery, gallery_items, chosen, edits, detail, seed, run, stop]

    def on_edit(
        image: dict[str, Any] | None,
        more_images: list[Any] | None,
        prompt: str,
        source_prompt: str,
        method: str | None,
        negative: str,
        count: Any,
        guidance: Any,
        image_guidance: Any,
        temperature: Any,
        strength: Any,
        steps: Any,
        solver: str | None,
        guidance_start: Any,
        guidance_end: Any,
        new_seed: bool,
        seed: Any,
        model: str | None,
        kept: list[SavedImage],
        tree: Tree,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        language = page.language(request)
        first = first_seed(new_seed, seed)
        rest = (gr.skip(),) * 6
        yield "", "", "", *rest, first, *run_or_stop(running=True)

        def make() -> EditRequest:
            picture, mask = picture_and_mask(image)
            return EditRequest(
                prompt=prompt or "",
                image=picture,
                mask=mask if "mask" in uses(method) else None,
                method=method or "region",
                source_prompt=(source_prompt or "").strip() if "source_prompt" in uses(method) else "",
                negative=(negative or "").strip(),
                count=whole_number(count, "The number of pictures"),
                guidance=number(guidance, "Guidance"),
                image_guidance=number(image_guidance, "Image guidance"),
                temperature=number(temperature, "Temperature"),
                strength=number(strength, "Strength"),
                seed=whole_number(first, "Seed"),
                more_images=more_pictures(more_images) if method == "instruct" else (),
                **flow_settings(steps, solver, guidance_start, guidance_end),
            )

        for view in draw(page, model, make, language):
            sheet = gr.skip() if view.preview_grid is None else view.preview_grid
            if not view.saved:
                yield sheet, view.status, view.notes, *rest, gr.skip(), gr.skip(), gr.skip()
                continue
            kept = newest_first(kept, view.saved)
            tree = tree.grown(picture_and_mask(image)[0], view.saved, page.images)
            yield (
                sheet,
                view.status,
                view.notes,
                gr.update(value=compared(tree, kept[0]), visible=True),
                gr.update(value=gallery_value(kept, page, language), visible=True, selected_index=None),
                kept,
                0,
                tree,
                detail_html(page, kept[0], language),
                gr.skip(),
                gr.skip(),
                gr.skip(),
            )
        yield gr.skip(), gr.skip(), gr.skip(), *rest, gr.skip(), *run_or_stop(running=False)

    def on_describe(
        value: dict[str, Any] | None, selected: str | None, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """The model's own words for the picture, into the box where they can be corrected."""
        language = page.language(request)

        def ask() -> Iterator[Any]:
            turn = Turn("user", DESCRIBE, (picture_and_mask(value)[0],))
            return page.job(selected, ChatRequest((turn,), temperature=0, max_new_tokens=LONGEST_DESCRIPTION))

        yield gr.skip(), "", "", *run_or_stop(running=True)
        for frame in watch(ask, page.texts, language):
            notes = messages(frame.notices) + (message(frame.error, "error") if frame.error else "")
            text = gr.skip() if frame.error else frame.text.strip()
            yield text, frame.status, notes, gr.skip(), gr.skip()
        yield gr.skip(), "", gr.skip(), *run_or_stop(running=False)

    def stopped(request: gr.Request) -> tuple[Any, ...]:
        line = message(page.texts.say("draw_stopped", page.language(request)))
        return gr.skip(), line, *(gr.skip(),) * 8, *run_or_stop(running=False)

    def choose(kept: list[SavedImage], tree: Tree, request: gr.Request, event: gr.SelectData) -> tuple[Any, ...]:
        index = min(int(event.index), len(kept) - 1)
        detail_now = detail_html(page, kept[index], page.language(request))
        return index, detail_now, gr.update(value=compared(tree, kept[index]))

    def shown_tree(tree: Tree, request: gr.Request) -> tuple[Any, ...]:
        language = page.language(request)
        return tree, tree_html(tree, page.texts.say, language), gr.update(visible=bool(tree.steps))

    def moved(tree: Tree, number: int, request: gr.Request) -> tuple[Any, ...]:
        """The editor and what the picture shows, for another step of the tree."""
        step = tree[number]
        return *shown_tree(tree.at(number), request), for_editor(step.picture), step.shows

    def advance(tree: Tree, follow: bool, request: gr.Request) -> tuple[Any, ...]:
        """After an edit: its first result becomes the next input, if it is to."""
        if follow and tree.newest is not None:
            return moved(tree, tree.newest, request)
        return *shown_tree(tree.at(tree.here), request), gr.skip(), gr.skip()

    def pressed(tree: Tree, kept: list[SavedImage], request: gr.Request, event: gr.EventData) -> tuple[Any, ...]:
        """A picture of the strip: into the editor and, where it is a result, before the eyes."""
        step = tree[int(event.step)]
        if step.print not in kept:
            return *moved(tree, step.number, request), gr.skip(), gr.skip(), gr.skip()
        seen = gr.update(value=compared(tree, step.print), visible=True)
        detail_now = detail_html(page, step.print, page.language(request))
        return *moved(tree, step.number, request), seen, kept.index(step.print), detail_now

    def step_back(tree: Tree, request: gr.Request) -> tuple[Any, ...]:
        parent = tree[tree.here].parent if tree.here is not None else None
        if parent is None:
            gr.Info(page.texts.say("undo_top", page.language(request)))
            return (gr.skip(),) * 5
        return moved(tree, parent, request)

    def receive(tree: Tree, print_: SavedImage, request: gr.Request) -> tuple[Any, ...]:
        """A picture from another tab, or a result, into the editor with what it shows."""
        return moved(*tree.begun(print_), request)

    def outside(tree: Tree, image: dict[str, Any] | None, request: gr.Request) -> tuple[Any, ...]:
        """Another picture came into the editor, or none is left: what was said of the old one would mislead.

        The editor also reports the pictures the page itself puts there, some seconds later; these are known.
        """
        if tree.holds((image or {}).get("background")):
            return (gr.skip(),) * 4
        return *shown_tree(tree.at(None), request), ""

    def forgotten(request: gr.Request) -> tuple[Any, ...]:
        return shown_tree(Tree(), request)

    def choose_method(how: str | None, selected: str | None, request: gr.Request) -> list[Any]:
        return way_updates(page, selected, how, page.language(request))

    def refresh(selected: str | None, kept: list[SavedImage], request: gr.Request) -> list[Any]:
        language, say = page.language(request), page.texts.say
        blank = gr.skip() if kept else empty(say("edit_empty_title", language), say("edit_empty", language))
        return [blank, *tab_updates(page, selected, language)]

    sampling = [guidance, image_guidance, temperature, strength]
    restored = [prompt, source, method, negative, count, *sampling, *flow.all, fresh, seed]
    inputs = [editor, more, *restored, variant, gallery_items, edits]
    editing: list[Any] = [
        run.click(on_edit, inputs, outputs, **JOB),
        prompt.submit(on_edit, inputs, outputs, **JOB),
        describe.click(on_describe, [editor, variant], [source, status, notes, run, stop], **JOB),
    ]
    halt(stop.click, editing).then(stopped, None, outputs, **QUICK)
    walked = [edits, strip, undo_row, editor, source]
    for done in editing[:2]:
        done.then(advance, [edits, go_on], walked, **QUICK)
    strip.select(pressed, [edits, gallery_items], [*walked, compare, chosen, detail], **QUICK)
    back.click(step_back, edits, walked, **QUICK)
    forget.click(forgotten, None, walked[:3], **QUICK)
    places = [method_note, prompt, more, source_box, strength, image_guidance, temperature, *flow.all]
    method.change(choose_method, [method, variant], places, **QUICK)
    gallery.select(choose, [gallery_items, edits], [chosen, detail, compare], **QUICK)
    reuse.click(lambda kept, index: (kept[index].record.seed, False), [gallery_items, chosen], [seed, fresh], **QUICK)
    for came in (editor.clear, editor.upload):
        came(outside, [edits, editor], [*walked[:3], source], **QUICK)
    for example in examples:
        example.click(lambda text: text, example, prompt, **QUICK)
    shown = [preview_grid, about, run, method, *places, *examples, guidance]
    for moment in (demo.load, seen.change):
        moment(refresh, [variant, gallery_items], shown, **QUICK)
    return EditTab(gallery_items, chosen, row, prompt, edits, receive, walked, restored, drop, drop_note)


def compared(tree: Tree, print_: SavedImage) -> tuple[str, str] | None:
    """What the slider shows of a result: the picture it was made of, and itself."""
    step = tree.of(print_)
    return (step.before, print_.shown) if step and step.before else None
