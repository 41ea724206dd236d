"""The compare tab: a pair from one prompt and seed, judged blind if wanted, or a grid over two settings."""

from __future__ import annotations

from typing import Any

import gradio as gr

from janus_app.ui.common.controls import seed_row
from janus_app.ui.common.html import empty
from janus_app.ui.context import QUICK, PageContext, Updates, Values
from janus_app.ui.tabs.compare import grid, pair
from janus_app.ui.tabs.compare.shared import SharedParts
from janus_app.ui.tabs.draw.tab import DrawTab


def build(
    page: PageContext, variant: gr.Dropdown, seen: gr.Textbox, demo: gr.Blocks, tab: gr.Tab, drawing: DrawTab
) -> pair.PairResults:
    """Build the tab over the models that can draw."""
    label = page.texts.label
    with gr.Row(elem_classes="two-columns"):
        with gr.Column(scale=5, min_width=300):
            prompt = gr.Textbox(
                label=label("prompt"), placeholder=label("prompt_hint"), lines=2, max_lines=6, elem_id="compare-prompt"
            )
            seed, new_seed = seed_row(label, "compare")
            with gr.Tabs(elem_id="compare-kinds"):
                with gr.Tab(label("compare_two"), elem_id="compare-two"):
                    pair_controls = pair.controls(page)
                with gr.Tab(label("compare_grid"), elem_id="compare-grid"):
                    grid_controls = grid.controls(page)
            status = gr.HTML(elem_id="compare-status", padding=False)
            notes = gr.HTML(elem_id="compare-notes", padding=False)
        with gr.Column(scale=7, min_width=320, elem_classes="results"):
            preview = gr.HTML(elem_id="compare-easel", padding=False)
            with gr.Column(visible=False, elem_id="compare-sides") as pair_column:
                pair_results = pair.results(page)
            with gr.Column(visible=False, elem_id="compare-sheet") as grid_column:
                grid_results = grid.results(page)
    shared = SharedParts(prompt, seed, new_seed, status, notes, preview, pair_column, grid_column)
    pairs = pair.wire(page, shared, pair_controls, pair_results)
    grids = grid.wire(page, shared, grid_controls, grid_results, variant, drawing)
    drawn_prompt = drawing.panel.controls.prompt

    def opened(data: Values, request: gr.Request) -> Updates:
        """Show the models and settings there are now; an empty prompt is taken from the draw tab."""
        language, say = page.language(request), page.texts.say
        updates = {
            prompt: data[prompt] or data[drawn_prompt] or "",
            **pairs.refresh(data, data[variant]),
            **grids.refresh(data, language),
        }
        if not data[status]:  # nothing was drawn here yet
            updates[preview] = empty(say("compare_empty_title", language), say("compare_empty", language))
        return updates

    inputs: set[Any] = {variant, prompt, drawn_prompt, status, *pair_controls.models, *grid_controls.axes}
    outputs = [prompt, preview, *pair_controls.models, *grid_controls.refreshed]
    for event in (tab.select, demo.load, seen.change):
        event(opened, inputs, outputs, **QUICK)
    return pair_results
