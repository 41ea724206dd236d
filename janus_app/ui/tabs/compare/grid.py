"""The compare tab's grid: two settings, every value of one with every value of the other, and a labelled sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import ImageOps

from janus_app.errors import AppError
from janus_app.outputs.metadata import ImageMetadata
from janus_app.types import Event, GenerateRequest, Picture
from janus_app.ui.common.actions import halt
from janus_app.ui.common.controls import flow_settings, run_or_stop
from janus_app.ui.common.drawing import PREVIEW_QUALITY, SHARED_QUALITY
from janus_app.ui.common.html import data_uri, message, messages, preview_grid
from janus_app.ui.common.jobs import watch
from janus_app.ui.context import JOB, QUICK, PageContext, Sitting, first_seed, number, whole_number
from janus_app.ui.tabs.draw.tab import DrawTab
from janus_app.workflows.axes import AXES, axes_of, axis_of, value_text
from janus_app.workflows.grid import Cell, Plan, draw_grid, plan_grid, save_sheet

if TYPE_CHECKING:
    from janus_app.ui.tabs.compare.tab import Bench

THUMB = 150  # pixels of a picture in the growing table; the sheet at the end has them at native size
STARTS = {"guidance": "1, 3, 5", "temperature": "0.4, 1", "steps": "5, 10, 20", "seed": "1..3", "solver": "euler, ab2"}


@dataclass(frozen=True)
class Controls:
    x: gr.Dropdown
    x_values: gr.Textbox
    y: gr.Dropdown
    y_values: gr.Textbox
    about: gr.HTML
    run: gr.Button
    stop: gr.Button

    @property
    def shown(self) -> list[Any]:
        """In the order `wire`'s refresh answers."""
        return [self.x, self.y, self.about, self.run]


@dataclass(frozen=True)
class Paper:
    """The table while it grows, and the sheet at the end."""

    table: gr.HTML
    sheet: gr.Image


def controls(page: PageContext) -> Controls:
    label = page.texts.label
    boxes: list[Any] = []
    for axis, key, name, values in (("x", "grid_x", "guidance", "1, 3, 5"), ("y", "grid_y", "", "")):
        with gr.Row(elem_classes="axis"):
            boxes.append(
                gr.Dropdown(
                    list(AXES) if axis == "x" else ["", *AXES],
                    value=name,
                    label=label(key),
                    elem_id=f"grid-{axis}",
                    scale=2,
                    min_width=120,
                )
            )
            boxes.append(
                gr.Textbox(
                    values,
                    label=label("grid_values"),
                    max_lines=2,
                    elem_id=f"grid-{axis}-values",
                    scale=3,
                    min_width=150,
                )
            )
    about = gr.HTML(elem_id="grid-about", padding=False)
    with gr.Row(elem_classes="run-row"):
        run = gr.Button(label("grid_draw"), variant="primary", elem_id="grid-run", min_width=120)
        stop = gr.Button(label("stop"), variant="stop", elem_id="grid-stop", min_width=120, visible=False)
    x, x_values, y, y_values = boxes
    return Controls(x, x_values, y, y_values, about, run, stop)


def results(page: PageContext) -> Paper:
    table = gr.HTML(elem_id="grid-table", padding=False)
    sheet = gr.Image(
        label=page.texts.label("grid_sheet"),
        show_label=False,
        type="filepath",
        interactive=False,
        buttons=["download", "fullscreen"],
        visible=False,
        elem_id="grid-sheet",
    )
    return Paper(table, sheet)


def wire(
    page: PageContext, bench: Bench, grid: Controls, paper: Paper, variant: gr.Dropdown, draw: DrawTab
) -> Callable[[str | None, str], list[Any]]:
    """Give the buttons their work; returns what fills `Controls.shown` for the model at hand."""
    outputs = [*bench.outputs, bench.sides, bench.sheet, paper.table, paper.sheet, grid.run, grid.stop]
    stay = gr.skip()

    def on_run(
        prompt: str, new_seed: bool, seed: Any, x: str, x_values: str, y: str | None, y_values: str, model: str | None,
        negative: str, guidance: Any, temperature: Any, steps: Any, solver: str | None, guidance_start: Any,
        guidance_end: Any, request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        language, say = page.language(request), page.texts.say
        first = first_seed(new_seed, seed)
        try:
            base = GenerateRequest(
                prompt=prompt if prompt.strip() or "prompt" not in (x, y) else "-",  # the axis has words of its own
                negative=(negative or "").strip(),
                guidance=number(guidance, "Guidance"),
                temperature=number(temperature, "Temperature"),
                seed=whole_number(first, "Seed"),
                **flow_settings(steps, solver, guidance_start, guidance_end),
            )
            axes = axis_of(x or "guidance", x_values or ""), axis_of(y, y_values or "") if y else None
            plan = plan_grid(base, *axes, page.variant(model))
        except AppError as error:
            yield "", "", message(page.texts.sentence(str(error), language), "error"), *(stay,) * 7
            return
        yield (
            "", message(say("starting", language)), "", first, gr.update(visible=False), gr.update(visible=True),
            table_html(page, plan, [], language), gr.update(visible=False), *run_or_stop(running=True),
        )  # fmt: skip
        cells: list[Cell] = []
        known = 0
        quality = SHARED_QUALITY if page.shared else PREVIEW_QUALITY
        frame = None
        for frame in watch(lambda: drawn(page, model, plan, cells), page.texts, language):
            table = stay
            if len(cells) > known:
                known, table = len(cells), table_html(page, plan, cells, language)
            now = stay
            if frame.previews and len(cells) < plan.count:
                now = preview_grid(frame.previews, [f"{len(cells) + 1} / {plan.count}"], [""], quality)
            notes = messages(frame.notices) + (message(frame.error, "error") if frame.error else "")
            yield now, frame.status, notes, stay, stay, stay, table, stay, stay, stay
        if frame is None or frame.error:
            yield "", "", *(stay,) * 6, *run_or_stop(running=False)
            return
        try:
            file = save_sheet(plan, cells, page.images.outputs)
            shown = gr.update(value=page.images.serve(file), visible=True, alt_text=alt(page, plan, language))
            line = message(say("grid_done", language, count=len(cells), file=file.name), "done")
            yield "", line, stay, stay, stay, stay, "", shown, *run_or_stop(running=False)
        except (AppError, OSError) as error:  # the pictures themselves are kept, and stay in sight in the table
            sentence = page.texts.sentence(str(error), language)
            yield "", "", message(sentence, "error"), *(stay,) * 5, *run_or_stop(running=False)

    def stopped(request: gr.Request) -> tuple[Any, ...]:
        line = message(page.texts.say("grid_stopped", page.language(request)))
        return "", line, *(stay,) * 6, *run_or_stop(running=False)

    def refresh(selected: str | None, language: str) -> list[Any]:
        names = axes_of(page.variant(selected))
        choices = [(page.texts.say(name, language), name) for name in names]
        nothing = (page.texts.say("grid_none", language), "")
        able = "generate" in page.variant(selected).verbs
        about = f'<p class="about">{escape(page.texts.say("grid_about", language))}</p>'
        return [gr.update(choices=choices), gr.update(choices=[nothing, *choices]), about, gr.update(interactive=able)]

    _, negative, _, guidance, temperature, *_ = draw.restored
    flow = draw.restored[-4:]
    inputs = [
        bench.prompt, bench.fresh, bench.seed, grid.x, grid.x_values, grid.y, grid.y_values, variant,
        negative, guidance, temperature, *flow,
    ]  # fmt: skip
    job = grid.run.click(on_run, inputs, outputs, **JOB)
    halt(grid.stop.click, [job]).then(stopped, None, outputs, **QUICK)
    for axis, values in ((grid.x, grid.x_values), (grid.y, grid.y_values)):
        # Choosing a setting writes values to begin with; words are the person's own.
        axis.input(lambda name, words: STARTS.get(name or "", words or ""), [axis, bench.prompt], values, **QUICK)
    return refresh


def drawn(page: PageContext, selected: str | None, plan: Plan, cells: list[Cell]) -> Iterator[Event]:
    """The grid as a job of the page; finished cells are added to `cells`."""
    sitting = Sitting()

    def run(request: GenerateRequest) -> Iterator[Event]:
        sitting.variant = sitting.state = None  # each cell waits its own turn, so each asks who draws it
        return page.job(selected, request, sitting)

    def keep(picture: Picture, request: GenerateRequest) -> tuple[Path, ImageMetadata]:
        assert sitting.variant and sitting.state
        kept = page.images.keep(picture, request, sitting.variant, sitting.state)
        return kept.file, kept.record

    for step in draw_grid(plan, run, keep):
        if isinstance(step, Cell):
            cells.append(step)
        else:
            yield step


def table_html(page: PageContext, plan: Plan, cells: list[Cell], language: str) -> str:
    """The grid as far as it is drawn; cells to come are empty sheets."""
    named, x, y = page.texts.named, plan.x, plan.y
    width, height = page.variant(None).size
    pictures = {(cell.row, cell.column): cell.image for cell in cells}

    def words(axis: str, value: Any) -> str:
        text = value_text(value)
        text = named("solver", text, language) if axis == "solver" else text
        return text if axis in ("prompt", "negative", "solver") else f"{named('setting', axis, language)} {text}"

    head = "".join(f'<th scope="col">{escape(words(x.name, value))}</th>' for value in x.values)
    rows = ""
    for r, row in enumerate(plan.requests):
        line = f'<th scope="row">{escape(words(y.name, y.values[r]))}</th>' if y else ""
        for c in range(len(row)):
            if (picture := pictures.get((r, c))) is None:
                line += f'<td><div class="sheet" style="aspect-ratio:{width} / {height}"></div></td>'
                continue
            small = picture if max(picture.size) <= THUMB else ImageOps.contain(picture, (THUMB, THUMB))
            told = ", ".join(words(a.name, a.values[i]) for a, i in ((x, c), (y, r)) if a)
            line += f'<td><img src="{data_uri(small)}" alt="{escape(told, quote=True)}"></td>'
        rows += f"<tr>{line}</tr>"
    corner = "<td></td>" if y else ""
    return f'<div class="grid-scroll"><table class="grid"><tr>{corner}{head}</tr>{rows}</table></div>'


def alt(page: PageContext, plan: Plan, language: str) -> str:
    """The sheet in words, for who cannot see it."""
    named = page.texts.named
    axes = " × ".join(named("setting", axis.name, language) for axis in (plan.x, plan.y) if axis)
    return f"{page.texts.say('grid_sheet', language)}: {axes}"
