"""The edit tab: a picture, a way of editing and what that way asks for; then before and after, compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from janus_app.models.base import DESCRIBE, EDIT_SETTINGS, ChatRequest, EditRequest, Turn
from janus_app.ui.actions import Actions, action_row
from janus_app.ui.controls import (
    INTERVAL,
    flow_controls,
    flow_settings,
    flow_updates,
    negative_box,
    run_or_stop,
    sampling_sliders,
    saved_picture,
    seed_row,
)
from janus_app.ui.drawing import draw, put_on, shelf_value
from janus_app.ui.editor import fitted, picture_and_mask, picture_editor
from janus_app.ui.generate_tab import detail_html
from janus_app.ui.html import empty, message, messages
from janus_app.ui.jobs import watch
from janus_app.ui.page import (
    EXAMPLES,
    JOB,
    PRIVATE,
    QUICK,
    Page,
    example_updates,
    new_seed,
    number,
    slider_update,
    whole,
)
from janus_app.ui.prints import Print

SETTINGS = ("guidance", "temperature", "strength", "image_guidance")
LONGEST_DESCRIPTION = 120  # tokens


@dataclass(frozen=True)
class EditTab:
    """What is filled when a picture is sent here; the selected result (`shelf[chosen]`) with its row of actions."""

    shelf: gr.State
    chosen: gr.State
    row: Actions
    editor: gr.ImageEditor
    prompt: gr.Textbox
    source: gr.Textbox
    restored: list[Any]  # what the record of an edited picture fills, in the order of `restore.edit_values`
    drop: gr.File
    drop_note: gr.HTML


def build(page: Page, variant: gr.Dropdown, seen: gr.Textbox, demo: gr.Blocks) -> EditTab:
    label = page.texts.label
    shelf, chosen, before = gr.State([]), gr.State(0), gr.State("")
    about = gr.HTML(elem_id="edit-about", padding=False)
    with gr.Row(elem_classes="two-columns"):
        with gr.Column(scale=5, min_width=300):
            editor = picture_editor(label)
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
                    info=label("image_guidance_info"),
                    visible=False,
                    elem_id="edit-image-guidance",
                )
                flow = flow_controls(label, "edit")
                negative = negative_box(label, "edit")
            drop, drop_note = saved_picture(label, "edit")
        with gr.Column(scale=6, min_width=320, elem_classes="results"):
            status = gr.HTML(elem_id="edit-status", padding=False)
            notes = gr.HTML(elem_id="edit-notes", padding=False)
            easel = gr.HTML(elem_id="edit-easel", padding=False)
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
            with gr.Column(visible="hidden", elem_classes="chosen") as panel:
                detail = gr.HTML(elem_id="edit-detail", padding=False)
                row = action_row(page, "edit")
                reuse = gr.Button(label("reuse_seed"), size="sm", elem_id="edit-reuse", min_width=60)

    outputs = [easel, status, notes, compare, gallery, shelf, chosen, before, detail, panel, seed, run, stop]

    def on_edit(
        value: dict[str, Any] | None,
        words: str,
        described: str,
        how: str | None,
        unwanted: str,
        n: Any,
        g: Any,
        ig: Any,
        t: Any,
        st: Any,
        steps: Any,
        solver: str | None,
        start: Any,
        end: Any,
        new: bool,
        s: Any,
        selected: str | None,
        kept: list[Print],
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        language = page.language(request)
        first = new_seed() if new or s is None else s
        rest = (gr.skip(),) * 7
        yield "", "", "", *rest, first, *run_or_stop(running=True)

        def make() -> EditRequest:
            picture, mask = picture_and_mask(value)
            return EditRequest(
                prompt=words or "",
                image=picture,
                mask=mask if "mask" in uses(how) else None,
                method=how or "region",
                source_prompt=(described or "").strip() if "source_prompt" in uses(how) else "",
                negative=(unwanted or "").strip(),
                count=whole(n, "The number of pictures"),
                guidance=number(g, "Guidance"),
                image_guidance=number(ig, "Image guidance"),
                temperature=number(t, "Temperature"),
                strength=number(st, "Strength"),
                seed=whole(first, "Seed"),
                **flow_settings(steps, solver, start, end),
            )

        for view in draw(page, selected, make, language):
            sheet = gr.skip() if view.easel is None else view.easel
            if not view.prints:
                yield sheet, view.status, view.notes, *rest, gr.skip(), gr.skip(), gr.skip()
                continue
            kept = put_on(kept, view.prints)
            size = view.prints[0].record.size
            old = page.prints.serve_picture(fitted(picture_and_mask(value)[0], size))
            yield (
                sheet,
                view.status,
                view.notes,
                gr.update(value=(old, kept[0].shown), visible=True),
                gr.update(value=shelf_value(kept, page, language), visible=True, selected_index=None),
                kept,
                0,
                old,
                detail_html(page, kept[0], language),
                gr.update(visible=True),
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
        return gr.skip(), line, *(gr.skip(),) * 9, *run_or_stop(running=False)

    def choose(kept: list[Print], old: str, request: gr.Request, event: gr.SelectData) -> tuple[Any, ...]:
        index = min(int(event.index), len(kept) - 1)
        return index, detail_html(page, kept[index], page.language(request)), (old, kept[index].shown)

    def choose_method(how: str | None, selected: str | None, request: gr.Request) -> list[Any]:
        language, now = page.language(request), page.variant(selected)
        used, settings = uses(how), now.settings.keys()
        state = page.studio.state
        lines = state.capabilities.edit_methods if state.capabilities else {}
        line = page.texts.sentence(lines.get(how or "", ""), language)

        def seen(name: str, setting: str = "") -> dict[str, Any]:
            """A knob the variant has is shown before a model is loaded, and then where the way of editing reads it."""
            return gr.update(visible=(setting or name) in settings and (how is None or name in used))

        return [
            message(line, "note" if "mask" in used else "note unpainted") if line else "",  # style.css hides the brush
            gr.update(visible="source_prompt" in used),
            gr.update(visible="strength" in used, info=page.texts.named("strength", how or "variation", language)),
            gr.update(visible="image_guidance" in used),
            seen("temperature"),
            seen("steps"),
            gr.update(visible=bool(now.solvers) and (how is None or "solver" in used)),
            *(seen("guidance_interval", name) for name in INTERVAL),
        ]

    def refresh(selected: str | None, kept: list[Print], request: gr.Request) -> list[Any]:
        language = page.language(request)
        now, say = page.variant(selected), page.texts.say
        state = page.studio.state
        methods = state.capabilities.edit_methods if state.capabilities else {}
        able = "edit" in now.verbs
        names = [(page.texts.named("method", name, language), name) for name in methods]
        blank = gr.skip() if kept else empty(say("edit_empty_title", language), say("edit_empty", language))
        first = next(iter(methods), None)
        note, source_seen, *places = choose_method(first, selected, request)
        knobs = [slider_update(now.settings.get(name)) for name in SETTINGS]
        guided, warm, strong, image_guided = knobs
        # Ranges and values are the variant's; what is seen is what the first way of editing reads.
        values = [strong, image_guided, warm, *flow_updates(page, now, language)]
        return [
            about_html(page, now.title, able, language),
            blank,
            gr.update(interactive=able),
            gr.update(choices=names, value=first, visible=len(names) > 1),
            note,
            source_seen,
            *({**value, **place} for value, place in zip(values, places, strict=True)),
            *example_updates(now.prompts("edit", language)),
            guided,
        ]

    sampling = [guidance, image_guidance, temperature, strength]
    restored = [prompt, source, method, negative, count, *sampling, *flow.all, fresh, seed]
    inputs = [editor, *restored, variant, shelf]
    editing: list[Any] = [
        run.click(on_edit, inputs, outputs, **JOB),
        prompt.submit(on_edit, inputs, outputs, **JOB),
        describe.click(on_describe, [editor, variant], [source, status, notes, run, stop], **JOB),
    ]
    # First the cancel, then the line that says so: a last frame on its way would overwrite it.
    halted = stop.click(None, None, None, cancels=editing, **PRIVATE)
    halted.then(stopped, None, outputs, **QUICK)
    places = [method_note, source_box, strength, image_guidance, temperature, *flow.all]
    method.change(choose_method, [method, variant], places, **QUICK)
    gallery.select(choose, [shelf, before], [chosen, detail, compare], **QUICK)
    reuse.click(lambda kept, index: (kept[index].record.seed, False), [shelf, chosen], [seed, fresh], **QUICK)
    editor.clear(lambda: "", None, source, **QUICK)  # a description of another picture would mislead
    for example in examples:
        example.click(lambda text: text, example, prompt, **QUICK)
    shown = [about, easel, run, method, *places, *examples, guidance]
    for moment in (demo.load, seen.change):
        moment(refresh, [variant, shelf], shown, **QUICK)
    return EditTab(shelf, chosen, row, editor, prompt, source, restored, drop, drop_note)


def uses(how: str | None) -> frozenset[str]:
    """The settings a way of editing reads."""
    return EDIT_SETTINGS.get(how or "", frozenset())


def about_html(page: Page, title: str, able: bool, language: str) -> str:
    """Which variants can edit, and that painting a region is not following instructions."""
    say = page.texts.say
    able_titles = [v.title for v in page.catalog.values() if "edit" in v.verbs]
    lines = say("edit_about", language)
    title_line = say("edit_who_title", language)
    who = say("edit_who", language, titles=", ".join(able_titles))
    no = "" if able else message(say("edit_cannot", language, title=title), "warning")
    return (
        f'<div class="about-edit"><p>{escape(lines)}</p><details><summary>{escape(title_line)}'
        f"</summary><p>{escape(who)}</p></details>{no}</div>"
    )
