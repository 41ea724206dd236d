"""Controls that stand in the draw tab and in the edit tab alike; `tab` begins their element ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from janus_app.registry.types import Variant
from janus_app.types import SOLVERS
from janus_app.ui.context import PageContext, number, slider_update, whole_number

INTERVAL = ("guidance_start", "guidance_end")


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
        "", label=label("negative"), info=label("negative_info"), lines=1, max_lines=4, elem_id=f"{tab}-negative"
    )


@dataclass(frozen=True)
class FlowControls:
    """What models that draw in steps are told; unseen while the model at hand draws tokens."""

    steps: gr.Slider
    solver: gr.Dropdown
    start: gr.Slider
    end: gr.Slider

    @property
    def all(self) -> list[Any]:
        """In the order of `flow_updates` and `flow_settings`."""
        return [self.steps, self.solver, self.start, self.end]


def flow_controls(label: Callable[[str], Any], tab: str) -> FlowControls:
    """Steps, solver and the guidance interval; ranges and values follow the variant once the page is open."""
    steps = gr.Slider(
        1, 100, 30, step=1, label=label("steps"), info=label("steps_info"), visible=False, elem_id=f"{tab}-steps"
    )
    solver = gr.Dropdown(
        list(SOLVERS),
        value=SOLVERS[0],
        label=label("solver"),
        info=label("solver_info"),
        visible=False,
        elem_id=f"{tab}-solver",
    )
    with gr.Row():
        start = gr.Slider(
            0, 1, 0, step=0.05, label=label("guidance_start"), visible=False, elem_id=f"{tab}-start", min_width=120
        )
        end = gr.Slider(
            0, 1, 1, step=0.05, label=label("guidance_end"), visible=False, elem_id=f"{tab}-end", min_width=120
        )
    return FlowControls(steps, solver, start, end)


def flow_updates(page: PageContext, variant: Variant, language: str) -> list[dict[str, Any]]:
    """The variant's own ranges, values and solvers; what it does not have is hidden."""
    names = [(page.texts.named("solver", name, language), name) for name in variant.solvers]
    solver = gr.update(choices=names, value=variant.solvers[0], visible=True) if names else gr.update(visible=False)
    steps, start, end = (slider_update(variant.settings.get(name)) for name in ("steps", *INTERVAL))
    return [steps, solver, start, end]


def flow_settings(steps: Any, solver: str | None, start: Any, end: Any) -> dict[str, Any]:
    """The controls' values as a request takes them. Raises AppError for what is no number."""
    return {
        "steps": whole_number(steps, "The number of steps"),
        "solver": solver or SOLVERS[0],
        "guidance_interval": (
            number(start, "The start of the guidance interval"),
            number(end, "The end of the guidance interval"),
        ),
    }


def saved_picture(label: Callable[[str], Any], tab: str) -> tuple[gr.File, gr.HTML]:
    """Where a picture of this app is given to take its settings from, and what is said about it."""
    with gr.Accordion(label("from_png"), open=False, elem_id=f"{tab}-from"):
        drop = gr.File(label=label("drop_png"), file_types=[".png"], elem_id=f"{tab}-drop", height=130)
        return drop, gr.HTML(elem_id=f"{tab}-drop-note", padding=False)


def run_or_stop(running: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Updates of the run and the stop button: one of them is seen at a time."""
    return gr.update(visible=not running), gr.update(visible=running)
