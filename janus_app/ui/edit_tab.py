"""The edit tab: paint what should change, describe the finished picture, compare before and after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from PIL import Image, ImageChops, ImageOps

from janus_app.errors import AppError
from janus_app.models.base import EditRequest
from janus_app.pictures import open_picture
from janus_app.ui.controls import negative_box, run_or_stop, sampling_sliders, seed_row
from janus_app.ui.drawing import draw, put_on, shelf_value
from janus_app.ui.generate_tab import detail_html
from janus_app.ui.html import empty, message
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

SETTINGS = ("guidance", "temperature")
BRUSH = "rgba(255, 64, 129, 0.6)"
PAINTED = 8  # alpha from which a pixel counts as painted: the brush's soft rim does not


@dataclass(frozen=True)
class EditTab:
    """What the draw tab fills when a picture is sent here."""

    editor: gr.ImageEditor
    prompt: gr.Textbox


def build(page: Page, variant: gr.Dropdown, seen: gr.Textbox, demo: gr.Blocks) -> EditTab:
    label = page.texts.label
    shelf, chosen, before = gr.State([]), gr.State(0), gr.State("")
    about = gr.HTML(elem_id="edit-about", padding=False)
    with gr.Row(elem_classes="two-columns"):
        with gr.Column(scale=5, min_width=300):
            editor = gr.ImageEditor(
                label=label("picture_to_edit"),
                type="pil",
                image_mode="RGBA",
                sources=["upload", "clipboard"],
                brush=gr.Brush(default_size=10, colors=[BRUSH], default_color=BRUSH, color_mode="fixed"),
                transforms=(),
                layers=False,
                buttons=[],
                format="png",
                elem_id="edit-editor",
                height=430,
                canvas_size=(384, 384),
                placeholder=label("editor_hint"),
            )
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
            method = gr.Radio([], label=label("method"), elem_id="edit-method")
            method_note = gr.HTML(elem_id="edit-method-note", padding=False)
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
                info=label("strength_info"),
                visible=False,
                elem_id="edit-strength",
            )
            seed, fresh = seed_row(label, "edit")
            with gr.Accordion(label("settings"), open=False, elem_id="edit-settings"):
                guidance, temperature = sampling_sliders(label, "edit")
                image_guidance = gr.Slider(
                    1, 5, 1.5, step=0.1, label=label("image_guidance"), visible=False, elem_id="edit-image-guidance"
                )
                negative = negative_box(label, "edit")
        with gr.Column(scale=6, min_width=320, elem_classes="results"):
            status = gr.HTML(elem_id="edit-status", padding=False)
            notes = gr.HTML(elem_id="edit-notes", padding=False)
            easel = gr.HTML(elem_id="edit-easel", padding=False)
            compare = gr.ImageSlider(
                label=label("before_after"),
                show_label=False,
                type="filepath",
                interactive=False,
                visible=False,
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
                visible=False,
                elem_id="edit-gallery",
            )
            with gr.Column(visible=False, elem_classes="chosen") as panel:
                detail = gr.HTML(elem_id="edit-detail", padding=False)
                with gr.Row(elem_classes="actions"):
                    reuse = gr.Button(label("reuse_seed"), size="sm", elem_id="edit-reuse", min_width=120)
                    onward = gr.Button(label("use_as_input"), size="sm", elem_id="edit-onward", min_width=120)

    outputs = [easel, status, notes, compare, gallery, shelf, chosen, before, detail, panel, seed, run, stop]

    def on_edit(
        value: dict[str, Any] | None,
        words: str,
        how: str | None,
        unwanted: str,
        n: Any,
        g: Any,
        ig: Any,
        t: Any,
        st: Any,
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
                mask=mask if how == "region" else None,
                method=how or "region",
                negative=(unwanted or "").strip(),
                count=whole(n, "The number of pictures"),
                guidance=number(g, "Guidance"),
                image_guidance=number(ig, "Image guidance"),
                temperature=number(t, "Temperature"),
                strength=number(st, "Strength"),
                seed=whole(first, "Seed"),
            )

        for view in draw(page, selected, make, language):
            sheet = gr.skip() if view.easel is None else view.easel
            if not view.prints:
                yield sheet, view.status, view.notes, *rest, gr.skip(), gr.skip(), gr.skip()
                continue
            kept = put_on(kept, view.prints)
            size = view.prints[0].record.size
            old = page.prints.serve_picture(_fitted(picture_and_mask(value)[0], size))
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

    def stopped(request: gr.Request) -> tuple[Any, ...]:
        line = message(page.texts.say("draw_stopped", page.language(request)))
        return gr.skip(), line, *(gr.skip(),) * 9, *run_or_stop(running=False)

    def choose(kept: list[Print], old: str, request: gr.Request, event: gr.SelectData) -> tuple[Any, ...]:
        index = min(int(event.index), len(kept) - 1)
        return index, detail_html(page, kept[index], page.language(request)), (old, kept[index].shown)

    def choose_method(how: str | None, request: gr.Request) -> tuple[Any, ...]:
        state = page.studio.state
        lines = state.capabilities.edit_methods if state.capabilities else {}
        line = page.texts.sentence(lines.get(how or "", ""), page.language(request))
        return (
            message(line) if line else "",
            gr.update(visible=how == "variation"),
            gr.update(visible=how not in ("region", "variation", None)),
        )

    def refresh(selected: str | None, kept: list[Print], request: gr.Request) -> list[Any]:
        language = page.language(request)
        now, say = page.variant(selected), page.texts.say
        state = page.studio.state
        methods = state.capabilities.edit_methods if state.capabilities else {}
        able = "edit" in now.verbs
        names = [(page.texts.named("method", name, language), name) for name in methods]
        blank = gr.skip() if kept else empty(say("edit_empty_title", language), say("edit_empty", language))
        knobs = [slider_update(now.settings.get(name)) for name in SETTINGS]
        first = next(iter(methods), None)
        return [
            about_html(page, now.title, able, language),
            blank,
            gr.update(interactive=able),
            gr.update(choices=names, value=first, visible=len(names) > 1),
            *choose_method(first, request),
            *example_updates(now.prompts("edit", language)),
            *knobs,
        ]

    inputs = [
        editor,
        prompt,
        method,
        negative,
        count,
        guidance,
        image_guidance,
        temperature,
        strength,
        fresh,
        seed,
        variant,
        shelf,
    ]
    editing: list[Any] = [
        run.click(on_edit, inputs, outputs, **JOB),
        prompt.submit(on_edit, inputs, outputs, **JOB),
    ]
    # First the cancel, then the line that says so: a last frame on its way would overwrite it.
    halted = stop.click(None, None, None, cancels=editing, **PRIVATE)
    halted.then(stopped, None, outputs, **QUICK)
    method.input(choose_method, method, [method_note, strength, image_guidance], **QUICK)
    gallery.select(choose, [shelf, before], [chosen, detail, compare], **QUICK)
    reuse.click(lambda kept, index: (kept[index].record.seed, False), [shelf, chosen], [seed, fresh], **QUICK)
    onward.click(lambda kept, index: for_editor(kept[index].shown), [shelf, chosen], editor, **QUICK)
    for example in examples:
        example.click(lambda text: text, example, prompt, **QUICK)
    shown = [about, easel, run, method, method_note, strength, image_guidance, *examples, guidance, temperature]
    for moment in (demo.load, seen.change):
        moment(refresh, [variant, shelf], shown, **QUICK)
    return EditTab(editor, prompt)


def for_editor(path: str) -> dict[str, Any]:
    """A served picture as the editor's blank canvas."""
    return {"background": path, "layers": [], "composite": None}


def picture_and_mask(value: dict[str, Any] | None) -> tuple[Image.Image, Image.Image | None]:
    """The editor's picture, and where anything was painted over it (white), or None where nothing was.

    Raises AppError where there is no picture.
    """
    background = (value or {}).get("background")
    if background is None:
        raise AppError("There is no picture to edit. Put one into the editor, or send one over from the draw tab.")
    picture = open_picture(background)
    painted = Image.new("L", picture.size, 0)
    for layer in (value or {}).get("layers") or ():
        if layer is None:
            continue
        alpha = layer.convert("RGBA").getchannel("A").point(lambda a: 255 if a >= PAINTED else 0)
        painted = ImageChops.lighter(painted, alpha.resize(picture.size, Image.Resampling.NEAREST))
    return picture, painted if painted.getbbox() else None


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of the picture at the size of the result, so that the slider lays them exactly over each other."""
    return picture if picture.size == size else ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


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
