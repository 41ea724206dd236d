"""The compare tab's grid: one picture for each combination of the values of two settings, and a labelled sheet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from PIL import ImageOps

from janus_app.errors import AppError, Message
from janus_app.files import os_errors_as_app_errors
from janus_app.types import Event, GenerateRequest
from janus_app.ui.common.drawing import preview_quality
from janus_app.ui.common.html import data_uri, message, messages, preview_grid
from janus_app.ui.common.jobs import watch
from janus_app.ui.common.running import Stopped, until
from janus_app.ui.context import JOB, QUICK, PageContext, Updates, Values, first_seed, number, whole_number
from janus_app.ui.tabs.compare.shared import SharedParts
from janus_app.ui.tabs.draw.tab import DrawTab
from janus_app.workflows.grid import (
    AXES,
    Cell,
    Plan,
    axes_of,
    axis_of,
    draw_grid,
    plan_grid,
    save_sheet,
    starting_values,
    value_text,
)

THUMBNAIL = 150  # pixels of a picture's longer side in the growing table; the sheet has the native size


@dataclass(frozen=True)
class GridControls:
    x: gr.Dropdown
    x_values: gr.Textbox
    y: gr.Dropdown
    y_values: gr.Textbox
    about: gr.HTML
    run: gr.Button
    stop: gr.Button

    offered: gr.State  # what the page filled in along x, y, which gives way to the values of another model

    @property
    def refreshed(self) -> list[Any]:
        """The keys of `GridHandlers.refresh`."""
        return [self.x, self.y, self.x_values, self.y_values, self.offered, self.about, self.run]

    @property
    def axes(self) -> set[Any]:
        """The inputs of `GridHandlers.refresh`, besides the model."""
        return {self.x, self.y, self.x_values, self.y_values, self.offered}


@dataclass(frozen=True)
class GridResults:
    """The table while it grows, and the sheet at the end."""

    table: gr.HTML
    sheet: gr.Image


def controls(page: PageContext) -> GridControls:
    label = page.texts.label

    def axis(name: str, key: str, choices: list[str], value: str, values: str) -> tuple[gr.Dropdown, gr.Textbox]:
        with gr.Row(elem_classes="axis"):
            setting = gr.Dropdown(
                choices, value=value, label=label(key), elem_id=f"grid-{name}", scale=2, min_width=120
            )
            box = gr.Textbox(
                values,
                label=label("grid_values"),
                max_lines=2,
                elem_id=f"grid-{name}-values",
                scale=3,
                min_width=150,
            )
        return setting, box

    x, x_values = axis("x", "grid_x", list(AXES), "guidance", "")
    y, y_values = axis("y", "grid_y", ["", *AXES], "", "")
    about = gr.HTML(elem_id="grid-about", padding=False)
    with gr.Row(elem_classes="run-row"):
        run = gr.Button(label("grid_draw"), variant="primary", elem_id="grid-run", min_width=120)
        stop = gr.Button(label("stop"), variant="stop", elem_id="grid-stop", min_width=120, visible=False)
    return GridControls(x, x_values, y, y_values, about, run, stop, gr.State(("", "")))


def results(page: PageContext) -> GridResults:
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
    return GridResults(table, sheet)


@dataclass(frozen=True, eq=False)
class GridHandlers:
    """All settings that are on no axis come from the draw tab."""

    page: PageContext
    shared: SharedParts
    controls: GridControls
    results: GridResults
    variant: gr.Dropdown
    drawing: DrawTab

    def run(self, data: Values, request: gr.Request) -> Iterator[Updates]:
        language = self.page.language(request)
        yield from self.shared.run(self.page, language, lambda stopped: self._views(data, language, stopped))

    def _views(self, data: Values, language: str, stopped: Stopped) -> Iterator[Updates]:
        """Draw the pictures one after the other into the table, then save and show the sheet."""
        page, shared = self.page, self.shared
        seed = first_seed(data[shared.new_seed], data[shared.seed])
        try:
            plan = self._plan(data, seed)
        except AppError as error:
            yield shared.refused(error.text(language))
            return
        yield {
            **shared.started(page, language, seed, visible=shared.grid_results),
            self.results.table: table_html(page, plan, [], language),
            self.results.sheet: gr.update(visible=False),
        }
        cells: list[Cell] = []
        shown = 0
        frame = None
        for frame in watch(lambda: until(stopped, self._draw(data[self.variant], plan, cells)), page.texts, language):
            updates: Updates = {
                shared.status: frame.status,
                shared.notes: messages(frame.notices) + (message(frame.error, "error") if frame.error else ""),
            }
            if len(cells) > shown:
                shown = len(cells)
                updates[self.results.table] = table_html(page, plan, cells, language)
            if frame.previews and len(cells) < plan.count:
                caption = f"{len(cells) + 1} / {plan.count}"
                updates[shared.preview] = preview_grid(frame.previews, [caption], [""], preview_quality(page))
            yield updates
        if frame is None or frame.error:
            yield shared.ended()
        elif stopped():
            yield shared.ended(message(page.texts.say("grid_stopped", language)))
        else:
            yield self._finish(plan, cells, language)

    def _plan(self, data: Values, seed: Any) -> Plan:
        """Raises AppError for values that cannot be used."""
        prompt, controls, drawn = data[self.shared.prompt], self.controls, self.drawing.panel.controls
        x, y = data[controls.x] or "guidance", data[controls.y]
        base = GenerateRequest(
            prompt=prompt if prompt.strip() or "prompt" not in (x, y) else "-",  # an axis of prompts replaces it
            negative=(data[drawn.negative] or "").strip(),
            guidance=number(data[drawn.guidance], "input_guidance"),
            temperature=number(data[drawn.temperature], "input_temperature"),
            seed=whole_number(seed, "input_seed"),
            **drawn.flow.settings(data),
        )
        axes = axis_of(x, data[controls.x_values] or ""), axis_of(y, data[controls.y_values] or "") if y else None
        return plan_grid(base, *axes, self.page.variant(data[self.variant]))

    def _draw(self, selected: str | None, plan: Plan, cells: list[Cell]) -> Iterator[Event]:
        """Draw the grid; adds each finished cell to `cells`."""
        page = self.page
        for step in draw_grid(plan, lambda request: page.job(selected, request), page.images.store):
            if isinstance(step, Cell):
                cells.append(step)
            else:
                yield step

    def _finish(self, plan: Plan, cells: list[Cell], language: str) -> Updates:
        """Save the sheet and show it in place of the table."""
        page = self.page
        try:
            file = save_sheet(plan, cells, page.images.store)
            with os_errors_as_app_errors(Message("grid_sheet_not_shown"), page.images.serving):
                served = page.images.serve(file)
        except AppError as error:  # the pictures themselves are saved, and the table still shows them
            return self.shared.refused(error.text(language))
        line = page.texts.say("grid_done", language, count=len(cells), file=file.name)
        return {
            **self.shared.ended(message(line, "done")),
            self.results.table: "",
            self.results.sheet: gr.update(value=served, visible=True, alt_text=alt_text(page, plan, language)),
        }

    def refresh(self, data: Values, language: str) -> Updates:
        """The settings of the model at hand, with values that suit it where the page filled in the last ones."""
        say, variant, controls = self.page.texts.say, self.page.variant(data[self.variant]), self.controls
        names = axes_of(variant)
        choices = [(say(name, language), name) for name in names]
        updates: Updates = {
            controls.x: gr.update(choices=choices),
            controls.y: gr.update(choices=[(say("grid_none", language), ""), *choices]),
            controls.about: f'<p class="about">{escape(say("grid_about", language))}</p>',
            controls.run: gr.update(interactive="generate" in variant.verbs),
        }
        offered = list(data[controls.offered])
        for place, (axis, box) in enumerate(self.axes):
            name, now = data[axis] or "", data[box] or ""
            if now == offered[place] and name in names:
                offered[place] = starting_values(variant, name)
                updates[box] = offered[place]
        return {**updates, controls.offered: tuple(offered)}

    @property
    def axes(self) -> tuple[tuple[gr.Dropdown, gr.Textbox], ...]:
        controls = self.controls
        return (controls.x, controls.x_values), (controls.y, controls.y_values)

    def choose_axis(self, data: Values, place: int) -> Updates:
        """Values for a newly chosen setting; an axis of prompts begins with the prompt."""
        axis, box = self.axes[place]
        name, offered = data[axis] or "", list(data[self.controls.offered])
        offered[place] = starting_values(self.page.variant(data[self.variant]), name) if name else ""
        words = data[self.shared.prompt] or ""
        return {box: offered[place] or (words if name == "prompt" else ""), self.controls.offered: tuple(offered)}


def wire(
    page: PageContext,
    shared: SharedParts,
    controls: GridControls,
    results: GridResults,
    variant: gr.Dropdown,
    drawing: DrawTab,
) -> GridHandlers:
    """Connect the events of the grid."""
    handlers = GridHandlers(page, shared, controls, results, variant, drawing)
    inputs = {*shared.inputs, controls.x, controls.x_values, controls.y, controls.y_values, variant}
    inputs |= drawing.panel.controls.all
    controls.run.click(handlers.run, inputs, [*shared.outputs, results.table, results.sheet], **JOB)
    controls.stop.click(lambda: shared.stop(page), None, None, **QUICK)
    for place, (axis, box) in enumerate(handlers.axes):

        def choose_axis(data: Values, place: int = place) -> Updates:
            return handlers.choose_axis(data, place)

        chosen: set[Any] = {axis, variant, shared.prompt, controls.offered}
        axis.input(choose_axis, chosen, [box, controls.offered], **QUICK)
    return handlers


def table_html(page: PageContext, plan: Plan, cells: list[Cell], language: str) -> str:
    """The grid as far as it is drawn; the other cells are blank."""
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
            small = picture if max(picture.size) <= THUMBNAIL else ImageOps.contain(picture, (THUMBNAIL, THUMBNAIL))
            alt = ", ".join(words(a.name, a.values[i]) for a, i in ((x, c), (y, r)) if a)
            line += f'<td><img src="{data_uri(small)}" alt="{escape(alt, quote=True)}"></td>'
        rows += f"<tr>{line}</tr>"
    corner = "<td></td>" if y else ""
    return f'<div class="grid-scroll"><table class="grid"><tr>{corner}{head}</tr>{rows}</table></div>'


def alt_text(page: PageContext, plan: Plan, language: str) -> str:
    """The alternative text of the sheet."""
    named = page.texts.named
    axes = " × ".join(named("setting", axis.name, language) for axis in (plan.x, plan.y) if axis)
    return f"{page.texts.say('grid_sheet', language)}: {axes}"
