"""Controls that the draw tab and the edit tab share. `tab` is the prefix of their element ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from janus_app.outputs.foreign_prompt import ForeignPrompt
from janus_app.registry.types import Variant
from janus_app.types import SOLVERS, GenerateRequest
from janus_app.ui.context import EXAMPLES, PageContext, Updates, Values, number, slider_update, whole_number

INTERVAL = ("guidance_start", "guidance_end")
SLIDERS = ("count", "guidance", "temperature", "steps", *INTERVAL)


def fitted_box(tab: str) -> gr.Textbox:
    """The id of the variant whose settings the controls of a tab are, as the browser shows them; hidden.

    It is empty while the page opens; assets/page/requests.js looks at it for what the user has entered by then.
    """
    return gr.Textbox("", visible="hidden", elem_id=f"{tab}-fitted", label=f"{tab}-fitted")


def ranges_only(updates: Updates) -> Updates:
    """The same updates without values."""
    return {part: {key: new for key, new in update.items() if key != "value"} for part, update in updates.items()}


def example_buttons(tab: str) -> list[gr.Button]:
    """The row of example prompts under the prompt."""
    with gr.Row(elem_classes="chips", elem_id=f"{tab}-examples"):
        return [
            gr.Button("", size="sm", visible=False, elem_id=f"{tab}-example-{i}", min_width=60) for i in range(EXAMPLES)
        ]


def seed_row(label: Callable[[str], Any], tab: str) -> tuple[gr.Number, gr.Checkbox]:
    """The seed, and whether each run takes a new one."""
    with gr.Row(elem_classes="seed-row"):
        seed = gr.Number(0, precision=0, label=label("seed"), elem_id=f"{tab}-seed", min_width=120)
        new_seed = gr.Checkbox(True, label=label("fresh_seed"), elem_id=f"{tab}-fresh", min_width=150)
    return seed, new_seed


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
    """Settings of models that draw in steps; hidden while the model shown draws tokens."""

    steps: gr.Slider
    solver: gr.Dropdown
    start: gr.Slider
    end: gr.Slider

    def settings(self, values: Values) -> dict[str, Any]:
        """The arguments of a request. Raises AppError for what is not a number."""
        return {
            "steps": whole_number(values[self.steps], "input_steps"),
            "solver": values[self.solver] or SOLVERS[0],
            "guidance_interval": (
                number(values[self.start], "input_guidance_start"),
                number(values[self.end], "input_guidance_end"),
            ),
        }


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


@dataclass(frozen=True)
class SizeControls:
    """Width and height of a drawing, for models that draw in several sizes; hidden for the others."""

    width: gr.Slider
    height: gr.Slider

    def size(self, values: Values) -> tuple[int, int]:
        """Raises AppError for what is not a number."""
        return whole_number(values[self.width], "input_width"), whole_number(values[self.height], "input_height")

    def restore(self, request: GenerateRequest) -> Updates:
        return dict(zip((self.width, self.height), request.size, strict=True)) if request.size else {}

    def variant_updates(self, variant: Variant) -> Updates:
        return {
            self.width: slider_update(variant.settings.get("width")),
            self.height: slider_update(variant.settings.get("height")),
        }


def size_controls(label: Callable[[str], Any], tab: str) -> SizeControls:
    """Ranges and values follow the variant once the page is open."""
    with gr.Row():
        return SizeControls(
            *(
                gr.Slider(
                    256, 1024, 512, step=16, label=label(side), visible=False, elem_id=f"{tab}-{side}", min_width=120
                )
                for side in ("width", "height")
            )
        )


@dataclass(frozen=True)
class RequestControls:
    """The controls that a drawing and an edit have in common."""

    prompt: gr.Textbox
    negative: gr.Textbox
    count: gr.Slider
    seed: gr.Number
    new_seed: gr.Checkbox
    guidance: gr.Slider
    temperature: gr.Slider
    flow: FlowControls

    @property
    def by_setting(self) -> dict[str, Component]:
        """The controls that a preset can set, by the name of the setting."""
        return {
            "count": self.count,
            "guidance": self.guidance,
            "temperature": self.temperature,
            "steps": self.flow.steps,
            "solver": self.flow.solver,
            "guidance_start": self.flow.start,
            "guidance_end": self.flow.end,
        }

    @property
    def all(self) -> set[Component]:
        return {self.prompt, self.negative, self.seed, self.new_seed, *self.by_setting.values()}

    def settings(self, values: Values, seed: Any) -> dict[str, Any]:
        """The arguments that GenerateRequest and EditRequest share. Raises AppError for what is not a number."""
        return {
            "prompt": values[self.prompt] or "",
            "negative": (values[self.negative] or "").strip(),
            "count": whole_number(values[self.count], "input_count"),
            "guidance": number(values[self.guidance], "input_guidance"),
            "temperature": number(values[self.temperature], "input_temperature"),
            "seed": whole_number(seed, "input_seed"),
            **self.flow.settings(values),
        }

    def restore(self, request: GenerateRequest, new_seed: bool = False) -> Updates:
        """The controls as they stood for one picture of a request, with its seed or a new one for each run."""
        return {
            self.prompt: request.prompt,
            self.negative: request.negative,
            self.count: 1,
            self.guidance: gr.update(value=request.guidance, maximum=max(10, request.guidance)),
            self.temperature: request.temperature,
            self.new_seed: new_seed,
            self.seed: request.seed,
            self.flow.steps: request.steps,
            self.flow.solver: request.solver,
            self.flow.start: request.guidance_interval[0],
            self.flow.end: request.guidance_interval[1],
        }

    def fill(self, found: ForeignPrompt) -> Updates:
        """The controls with what a picture of another program says; its settings mean nothing to these models."""
        seed: Updates = {} if found.seed is None else {self.seed: found.seed, self.new_seed: False}
        return {self.prompt: found.prompt, self.negative: found.negative, **seed}

    def variant_updates(self, page: PageContext, variant: Variant, language: str) -> Updates:
        """Ranges, defaults and solvers of a variant; settings that it does not have are hidden."""
        names = [(page.texts.named("solver", name, language), name) for name in variant.solvers]
        by_setting = self.by_setting
        return {
            **{by_setting[name]: slider_update(variant.settings.get(name)) for name in SLIDERS},
            self.flow.solver: gr.update(choices=names, value=names[0][1], visible=True)
            if names
            else gr.update(visible=False),
        }


@dataclass(frozen=True)
class RunButtons:
    """The run and the stop button of a tab: one of them is visible at a time."""

    run: gr.Button
    stop: gr.Button

    def updates(self, running: bool) -> Updates:
        return {self.run: gr.update(visible=not running), self.stop: gr.update(visible=running)}


def run_buttons(label: Callable[[str], Any], tab: str, run_label: str, scale: int | None = None) -> RunButtons:
    run = gr.Button(label(run_label), variant="primary", elem_id=f"{tab}-run", min_width=120, scale=scale)
    stop = gr.Button(label("stop"), variant="stop", elem_id=f"{tab}-stop", min_width=120, scale=scale, visible=False)
    return RunButtons(run, stop)


def saved_picture(label: Callable[[str], Any], tab: str) -> tuple[gr.File, gr.HTML]:
    """Inside an accordion: a drop area for a picture whose settings or prompt are taken over, and a note about it."""
    drop = gr.File(label=label("drop_png"), elem_id=f"{tab}-drop", elem_classes="dropzone", height=72)
    return drop, gr.HTML(elem_id=f"{tab}-drop-note", padding=False)


def foreign_line(page: PageContext, found: ForeignPrompt, language: str) -> str:
    """What was taken from a picture of another program."""
    key = "drop_foreign_no_seed" if found.seed is None else "drop_foreign"
    return page.texts.say(key, language, program=found.program, seed=found.seed)
