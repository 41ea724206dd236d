"""Does the chosen model fit this machine: the advice before a load, rest when nobody uses it, and the doctor."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.registry.types import Variant
from janus_app.types import PRECISIONS
from janus_app.ui.common.html import message
from janus_app.ui.common.jobs import size_text
from janus_app.ui.context import JOB, QUICK, PageContext

IDLE_MINUTES = (0, 5, 15, 60)  # 0 = never


class MachinePanel:
    """Built under the model bar. It fills the device and precision dropdowns and keeps the advice beside them true."""

    def __init__(
        self, page: PageContext, demo: gr.Blocks, variant: gr.Dropdown, device: gr.Dropdown, precision: gr.Dropdown
    ) -> None:
        self._page = page
        label = page.texts.label
        self._fit = gr.HTML(elem_id="model-fit", padding=False)
        with gr.Accordion(label("machine"), open=False, elem_id="model-machine", visible=not page.shared):
            self._idle = gr.Dropdown(
                [str(minutes) for minutes in IDLE_MINUTES],
                value="0",
                label=label("idle"),
                info=label("idle_info"),
                elem_id="machine-idle",
            )
            self._check = gr.Button(label("doctor"), size="sm", elem_id="machine-check")
            self._findings = gr.HTML(elem_id="machine-findings", padding=False)
            self._report = gr.Textbox(
                label=label("doctor_report"), lines=6, buttons=["copy"], visible=False, elem_id="machine-report"
            )
        chosen = [variant, device, precision]
        demo.load(self._opened, chosen, [device, precision, self._fit, self._idle], **QUICK)
        for widget in (variant, device):
            widget.change(self._choose, chosen, [precision, self._fit], **QUICK)
        precision.change(self._judge, chosen, self._fit, **QUICK)
        if not page.shared:  # whoever is not at this machine has no handler to call
            self._check.click(self._examine, None, [self._findings, self._report, self._check], **JOB)
            self._idle.change(self._rest, self._idle, None, **QUICK)

    def _opened(self, name: str | None, device: str, precision: str, request: gr.Request) -> tuple[Any, ...]:
        say, language = self._page.texts.say, self._page.language(request)
        idle = [
            (say("idle_minutes", language, minutes=m) if m else say("idle_never", language), str(m))
            for m in IDLE_MINUTES
        ]
        kept = int(self._page.session.idle_minutes or 0)
        if kept not in IDLE_MINUTES:
            idle.append((say("idle_minutes", language, minutes=kept), str(kept)))
        devices = [(say("auto", language) if d == "auto" else d, d) for d in self._page.session.device_names()]
        choices, fit = self._choose(name, device, precision, request)
        return gr.update(choices=devices), choices, fit, gr.update(choices=idle, value=str(kept))

    def _choose(self, name: str | None, device: str, precision: str, request: gr.Request) -> tuple[Any, ...]:
        language = self._page.language(request)
        return (
            gr.update(choices=precision_choices(self._page, name, device, language)),
            self._judge(name, device, precision, request),
        )

    def _judge(self, name: str | None, device: str, precision: str, request: gr.Request) -> str:
        return fit_html(self._page, name, device, precision, self._page.language(request))

    def _rest(self, minutes: str) -> None:
        self._page.session.idle_minutes = float(minutes) or None

    def _examine(self, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Each finding as soon as it is made, and at the end the same as text to paste."""
        from janus_app.runtime.doctor import as_text, examine

        language = self._page.language(request)
        busy = message(self._page.texts.say("doctor_at_work", language))
        found = []
        yield busy, gr.update(visible=False), gr.update(interactive=False)
        for finding in examine(Path("outputs"), port=None, hub=self._page.session.hub):
            found.append(finding)
            yield findings_html(found, language) + busy, gr.skip(), gr.skip()
        yield (
            findings_html(found, language),
            gr.update(value=as_text(found, language), visible=True),
            gr.update(interactive=True),
        )


def _variant(page: PageContext, name: str | None) -> Variant:
    if page.shared and (name or "") not in page.catalog:
        raise AppError("On a shared page only the models of the list can be chosen.")
    return page.catalog.resolve(name or "")


def precision_choices(page: PageContext, name: str | None, device: str, language: str) -> list[tuple[str, str]]:
    """Each precision with what it needs at the peak of a usual job, and whether that is there."""
    say = page.texts.say
    choices = [(say("auto", language), "auto")]
    try:
        options = page.session.plan_load(_variant(page, name), device)
    except AppError:
        return choices + [(precision, precision) for precision in PRECISIONS]
    for precision in PRECISIONS:
        plan = options.plan(precision)
        line = f"{precision} · {size_text(plan.need.total)}"
        choices.append((line if plan.fits else say("too_large", language, what=line), precision))
    return choices


def fit_html(page: PageContext, name: str | None, device: str, precision: str, language: str) -> str:
    """The advisor's sentence on what is chosen: a note where it can be loaded, a warning where it cannot."""
    try:
        text, fits = page.session.plan_load(_variant(page, name), device).judge(precision)
    except AppError as error:
        return message(page.texts.sentence(str(error), language), "warning")
    return message(text.text(language), "note" if fits else "warning")


def findings_html(found: list[Any], language: str) -> str:
    """The doctor's findings as a list: level, what, detail and, where needed, the remedy."""
    rows = []
    for finding in found:
        level, what, detail, remedy = map(escape, finding.texts(language).values())
        remedy = f"<p>{remedy}</p>" if remedy else ""
        rows.append(f'<li class="finding {level.lower()}"><b>{level}</b> <strong>{what}</strong> {detail}{remedy}</li>')
    return f'<ul class="findings">{"".join(rows)}</ul>'
