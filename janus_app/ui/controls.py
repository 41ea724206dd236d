"""Controls that stand in the draw tab and in the edit tab alike; `tab` begins their element ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr


def seed_row(label: Callable[[str], Any], tab: str) -> tuple[gr.Number, gr.Checkbox]:
    """The seed, and whether each run takes a new one."""
    with gr.Row(elem_classes="seed-row"):
        seed = gr.Number(0, precision=0, label=label("seed"), elem_id=f"{tab}-seed", min_width=120)
        fresh = gr.Checkbox(True, label=label("fresh_seed"), elem_id=f"{tab}-fresh", min_width=150)
    return seed, fresh


def sampling_sliders(label: Callable[[str], Any], tab: str) -> tuple[gr.Slider, gr.Slider]:
    """Guidance and temperature; ranges and values follow the variant once the page is open."""
    guidance = gr.Slider(
        1, 10, 5, step=0.5, label=label("guidance"), info=label("guidance_info"), elem_id=f"{tab}-guidance"
    )
    temperature = gr.Slider(
        0, 2, 1, step=0.05, label=label("temperature"), info=label("temperature_info"), elem_id=f"{tab}-temperature"
    )
    return guidance, temperature


def negative_box(label: Callable[[str], Any], tab: str) -> gr.Textbox:
    """What the pictures should not show."""
    return gr.Textbox(
        label=label("negative"), info=label("negative_info"), lines=1, max_lines=4, elem_id=f"{tab}-negative"
    )


def run_or_stop(running: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Updates of the run and the stop button: one of them is seen at a time."""
    return gr.update(visible=not running), gr.update(visible=running)
