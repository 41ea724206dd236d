"""The compare tab: a pair from one prompt and seed, judged blind if wanted, or a grid over two settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from janus_app.ui.common import shown_jobs
from janus_app.ui.common.browser_tab import kept
from janus_app.ui.common.controls import RunButtons, seed_row
from janus_app.ui.common.html import empty
from janus_app.ui.context import JOB, QUICK, PageContext, Updates, Values
from janus_app.ui.tabs.compare import grid, pair
from janus_app.ui.tabs.compare.shared import SharedParts
from janus_app.ui.tabs.draw.tab import DrawTab


def build(
    page: PageContext, variant: gr.Dropdown, seen: gr.Textbox, joined: Any, tab: gr.Tab, drawing: DrawTab
) -> pair.PairResults:
    """Build the tab over the models that can draw.

    `joined` is the event after which the page knows what this browser tab compared before it was opened anew.
    """
    label = page.texts.label
    with gr.Row(elem_classes="two-columns"):
        with gr.Column(scale=5, min_width=300, elem_classes="bare"):
            prompt = gr.Textbox(
                label=label("prompt"), placeholder=label("prompt_hint"), lines=2, max_lines=6, elem_id="compare-prompt"
            )
            seed, new_seed = seed_row(label, "compare")
            # Above the tabs, in each of which the button comes first: an error is beside it.
            status = gr.HTML(elem_id="compare-status", padding=False)
            notes = gr.HTML(elem_id="compare-notes", padding=False)
            with gr.Tabs(elem_id="compare-kinds"):
                with gr.Tab(label("compare_two"), elem_id="compare-two"):
                    pair_controls = pair.controls(page)
                with gr.Tab(label("compare_grid"), elem_id="compare-grid"):
                    grid_controls = grid.controls(page)
        with gr.Column(scale=7, min_width=320, elem_classes="results"):
            preview = gr.HTML(elem_id="compare-easel", padding=False)
            with gr.Column(visible=False, elem_id="compare-sides") as pair_column:
                pair_results = pair.results(page)
            with gr.Column(visible=False, elem_id="compare-sheet") as grid_column:
                grid_results = grid.results(page)
    buttons = RunButtons(pair_controls.run, pair_controls.stop), RunButtons(grid_controls.run, grid_controls.stop)
    shared = SharedParts(prompt, seed, new_seed, status, notes, preview, pair_column, grid_column, buttons)
    pairs = pair.wire(page, shared, pair_controls, pair_results)
    grids = grid.wire(page, shared, grid_controls, grid_results, variant, drawing)
    drawn_prompt = drawing.panel.controls.prompt

    def opened(data: Values, request: gr.Request) -> Updates:
        """Show the models and settings there are now."""
        language, say = page.language(request), page.texts.say
        updates = {
            **pairs.refresh(data, data[variant], language),
            **grids.refresh(data, language),
        }
        if not data[status] and page.runs.showing("compare") is None:  # nothing was drawn here yet
            updates[preview] = empty(say("compare_empty_title", language), say("compare_empty", language))
        return updates

    def fill(data: Values) -> Updates:
        """An empty prompt is taken from the draw tab."""
        return gr.skip() if data[prompt] or not data[drawn_prompt] else {prompt: data[drawn_prompt]}

    inputs: set[Any] = {variant, status, *pair_controls.models, *grid_controls.axes}
    sides = [*pair_controls.models, *pair_controls.settings]
    outputs = [preview, *sides, *grid_controls.refreshed]
    tab.select(opened, inputs, outputs, **QUICK)
    tab.select(fill, {prompt, drawn_prompt}, [prompt], **QUICK)
    axes = [grid_controls.x, grid_controls.x_values, grid_controls.y, grid_controls.y_values]
    restore = kept("compare", [prompt, seed, new_seed, pair_controls.blind, *sides, *axes])
    for event in (seen.change, joined.then):
        restored = restore(event(opened, inputs, outputs, **QUICK))
        ranged = restored.then(pairs.fit_ranges, set(pair_controls.models), pair_controls.settings, **QUICK)

    def rejoin() -> Iterator[Updates]:
        yield from shown_jobs.rejoin(page, "compare")

    drawn = [*shared.outputs, *pair_results.outputs, grid_results.table, grid_results.sheet]
    ranged.then(rejoin, None, drawn, **JOB)
    return pair_results
