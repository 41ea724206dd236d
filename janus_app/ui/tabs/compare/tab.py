"""The compare tab: one prompt and seed, drawn by two models or settings, or as a grid over two settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from janus_app.ui.common.controls import seed_row
from janus_app.ui.common.html import empty
from janus_app.ui.context import QUICK, PageContext
from janus_app.ui.tabs.compare import grid, sides
from janus_app.ui.tabs.draw.tab import DrawTab


@dataclass(frozen=True)
class Bench:
    """What both halves of the tab share: the words and the seed they read, and where their work is shown.

    `sides` and `sheet` are the columns of results; the one whose work began last is seen.
    """

    prompt: gr.Textbox
    seed: gr.Number
    fresh: gr.Checkbox
    status: gr.HTML
    notes: gr.HTML
    preview_grid: gr.HTML
    sides: gr.Column
    sheet: gr.Column

    @property
    def outputs(self) -> list[Any]:
        """easel, status, notes, seed: what every step of a job may change."""
        return [self.preview_grid, self.status, self.notes, self.seed]


def build(
    page: PageContext, variant: gr.Dropdown, seen: gr.Textbox, demo: gr.Blocks, tab: gr.Tab, draw: DrawTab
) -> sides.Seats:
    """The tab; a picture of the comparison is `seat_print` of what its `match` and `chosen` hold."""
    label = page.texts.label
    with gr.Row(elem_classes="two-columns"):
        with gr.Column(scale=5, min_width=300):
            prompt = gr.Textbox(
                label=label("prompt"), placeholder=label("prompt_hint"), lines=2, max_lines=6, elem_id="compare-prompt"
            )
            seed, fresh = seed_row(label, "compare")
            with gr.Tabs(elem_id="compare-kinds"):
                with gr.Tab(label("compare_two"), elem_id="compare-two"):
                    two = sides.controls(page)
                with gr.Tab(label("compare_grid"), elem_id="compare-grid"):
                    grid_controls = grid.controls(page)
        with gr.Column(scale=7, min_width=320, elem_classes="results"):
            status = gr.HTML(elem_id="compare-status", padding=False)
            notes = gr.HTML(elem_id="compare-notes", padding=False)
            preview_grid = gr.HTML(elem_id="compare-easel", padding=False)
            with gr.Column(visible=False, elem_id="compare-sides") as two_sides:
                seats = sides.results(page)
            with gr.Column(visible=False, elem_id="compare-sheet") as sheet:
                paper = grid.results(page)
    bench = Bench(prompt, seed, fresh, status, notes, preview_grid, two_sides, sheet)
    refresh_sides = sides.wire(page, bench, two, seats, variant)
    refresh_grid = grid.wire(page, bench, grid_controls, paper, variant, draw)

    def opened(
        selected: str | None, words: str, drawn: str, used: str, a: str | None, b: str | None, request: gr.Request
    ) -> list[Any]:
        """Models and settings as they are now; words come along from the draw tab while there are none here."""
        language = page.language(request)
        blank = (
            gr.skip()
            if used
            else empty(page.texts.say("compare_empty_title", language), page.texts.say("compare_empty", language))
        )
        return [
            words or drawn or "",
            blank,
            *refresh_sides(selected, language, a, b),
            *refresh_grid(selected, language),
        ]

    shown = [prompt, preview_grid, *two.shown, *grid_controls.shown]
    told = [variant, prompt, draw.restored[0], status, *two.shown]
    tab.select(opened, told, shown, **QUICK)
    for moment in (demo.load, seen.change):
        moment(opened, told, shown, **QUICK)
    return seats
