"""Whether the chosen model fits this machine, when an unused model is unloaded, the doctor and the self-test."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.registry.types import Variant
from janus_app.types import PRECISIONS, Progress, Queued
from janus_app.ui.common import shown_jobs
from janus_app.ui.common.html import message
from janus_app.ui.common.jobs import FRAMES_PER_SECOND, Speed, progress_html, queue_line, size_text
from janus_app.ui.common.running import Stopped, until
from janus_app.ui.context import JOB, QUICK, PageContext, Updates, Values, attach

if TYPE_CHECKING:
    from janus_app.runtime.doctor import Finding

logger = logging.getLogger(__name__)
IDLE_MINUTES = (0, 5, 15, 60)  # 0 = never


@dataclass(frozen=True)
class Choice:
    """The dropdowns that say what to load, and where and how."""

    variant: gr.Dropdown
    device: gr.Dropdown
    precision: gr.Dropdown

    @property
    def all(self) -> set[Any]:
        return {self.variant, self.device, self.precision}


@dataclass(frozen=True)
class MachinePanel:
    """The parts of the panel under the model bar."""

    fit: gr.HTML
    idle: gr.Dropdown
    check: gr.Button
    selftest: gr.Button
    stop: gr.Button
    work: gr.HTML
    findings: gr.HTML
    report: gr.Textbox

    @property
    def tested(self) -> set[Any]:
        """What the doctor and a self-test change."""
        return {self.findings, self.report, self.check, self.selftest, self.stop, self.work}


def build(page: PageContext, fit: gr.HTML) -> MachinePanel:
    """`fit` says whether the choice fits; it stands beside the dropdowns."""
    label = page.texts.label
    with gr.Accordion(label("machine"), open=False, elem_id="model-machine", visible=not page.shared):
        idle = gr.Dropdown(
            [str(minutes) for minutes in IDLE_MINUTES],
            value="0",
            label=label("idle"),
            info=label("idle_info"),
            elem_id="machine-idle",
        )
        with gr.Row(elem_classes="files-buttons"):
            check = gr.Button(label("doctor"), size="sm", elem_id="machine-check")
            selftest = gr.Button(label("selftest"), size="sm", elem_id="machine-selftest")
            stop = gr.Button(label("stop"), size="sm", variant="stop", visible=False, elem_id="machine-stop")
        work = gr.HTML(elem_id="machine-work", padding=False)
        findings = gr.HTML(elem_id="machine-findings", padding=False)
        report = gr.Textbox(
            label=label("doctor_report"), lines=6, buttons=["copy"], visible=False, elem_id="machine-report"
        )
    return MachinePanel(fit, idle, check, selftest, stop, work, findings, report)


@dataclass(frozen=True, eq=False)
class MachineHandlers:
    page: PageContext
    panel: MachinePanel
    choice: Choice

    def opened(self, values: Values, request: gr.Request) -> Updates:
        """The devices of this machine, the precisions, and after how long an unused model is unloaded."""
        say, language = self.page.texts.say, self.page.language(request)
        minutes = int(self.page.session.idle_minutes or 0)
        idle = [
            (say("idle_minutes", language, minutes=m) if m else say("idle_never", language), str(m))
            for m in sorted({*IDLE_MINUTES, minutes})
        ]
        devices = [(say("auto", language) if d == "auto" else d, d) for d in self.page.session.device_names()]
        return {
            self.choice.device: gr.update(choices=devices),
            self.panel.idle: gr.update(choices=idle, value=str(minutes)),
            **self.choose(values, request),
        }

    def choose(self, values: Values, request: gr.Request) -> Updates:
        """Another model or device."""
        name, device = values[self.choice.variant], values[self.choice.device]
        choices = precision_choices(self.page, name, device, self.page.language(request))
        return {self.choice.precision: gr.update(choices=choices), **self.judge(values, request)}

    def judge(self, values: Values, request: gr.Request) -> Updates:
        """Another precision."""
        name, device, precision = (values[c] for c in (self.choice.variant, self.choice.device, self.choice.precision))
        return {self.panel.fit: fit_html(self.page, name, device, precision, self.page.language(request))}

    def set_idle(self, values: Values) -> None:
        self.page.session.idle_minutes = float(values[self.panel.idle]) or None

    def examine(self, request: gr.Request) -> Iterator[Updates]:
        """Each finding of the doctor as soon as it is made, and at the end all of them as text to paste."""
        yield from self._shown(self._examine, self.page.language(request))

    def _examine(self, language: str, stopped: Stopped) -> Iterator[Updates]:
        from janus_app.runtime.doctor import as_text, examine

        panel, say, line = self.panel, self.page.texts.say, ""
        found: list[Finding] = []
        yield self._begun(message(say("doctor_at_work", language)))
        try:
            for finding in examine(Path("outputs"), port=None, hub=self.page.session.hub):
                found.append(finding)
                yield {panel.findings: findings_html(found, language)}
                if stopped():
                    line = message(say("stopped", language))
                    break
        except Exception as error:
            line = message(self._reason(error, language), "error")
        report = gr.update(value=as_text(found, language), visible=True)
        yield {**self._testing(running=False), panel.work: line, panel.report: report}

    def selftest(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """The lines of the self-test on the chosen device, one after the other, and at the end as text to paste."""
        yield from self._shown(partial(self._selftest, values[self.choice.device]), self.page.language(request))

    def _shown(self, work: Callable[[str, Stopped], Iterator[Updates]], language: str) -> Iterator[Updates]:
        """The views of `work`, which goes on where the browser tab is closed or refreshed."""

        def refused(reason: str) -> Updates:
            return {**self._testing(running=False), self.panel.work: message(reason, "error")}

        yield from shown_jobs.show_on(self.page, "machine", partial(work, language), refused, language)

    def _begun(self, line: str) -> Updates:
        panel = self.panel
        return {
            **self._testing(running=True),
            panel.work: line,
            panel.findings: "",
            panel.report: gr.update(visible=False),
        }

    def _selftest(self, device: str, language: str, stopped: Stopped) -> Iterator[Updates]:
        from janus_app.runtime.findings import as_text
        from janus_app.runtime.selftest import Result, examine, verdict

        panel, say, speed = self.panel, self.page.texts.say, Speed()
        found: list[Result] = []
        last, line = 0.0, message(say("starting", language))
        yield self._begun(line)
        try:
            for item in until(stopped, self.page.session.exclusively(lambda: examine(device))):
                if isinstance(item, Result):
                    found.append(item)
                elif isinstance(item, Queued):
                    line = message(queue_line(item.place, self.page.texts, language))
                elif isinstance(item, Progress):
                    line = progress_html(item, speed, self.page.texts, language)
                if time.monotonic() - last >= 1 / FRAMES_PER_SECOND:
                    yield {panel.work: line, panel.findings: findings_html(found, language)}
                    last = time.monotonic()
        except Exception as error:
            yield {**self._testing(running=False), panel.work: message(self._reason(error, language), "error")}
            return
        ended = {**self._testing(running=False), panel.findings: findings_html(found, language)}
        if stopped():
            yield {**ended, panel.work: message(say("selftest_stopped", language))}
            return
        end = verdict(found).text(language)
        report = f"{as_text(found, language)}\n{end}"
        yield {**ended, panel.work: message(end), panel.report: gr.update(value=report, visible=True)}

    def rejoin(self) -> Iterator[Updates]:
        """The doctor or the self-test that this browser tab started before it was opened anew."""
        yield from shown_jobs.rejoin(self.page, "machine")

    def stop(self) -> None:
        """Stop the doctor or the self-test; its own last view says so."""
        self.page.runs.stop("machine")

    def _reason(self, error: Exception, language: str) -> str:
        """What a user reads of a failure. A bug is logged with its traceback."""
        if isinstance(error, AppError):
            return error.text(language)
        logger.error("a job of the machine panel failed", exc_info=error)
        return self.page.texts.say("error_bug", language, kind=type(error).__name__)

    def _testing(self, running: bool) -> Updates:
        panel = self.panel
        buttons: Updates = {button: gr.update(interactive=not running) for button in (panel.check, panel.selftest)}
        return {**buttons, panel.stop: gr.update(visible=running)}


def wire(handlers: MachineHandlers, demo: gr.Blocks, joined: Any) -> None:
    """Connect the events of the panel and of the dropdowns.

    `joined` is the event after which the page knows what this browser tab started before it was opened anew.
    """
    panel, choice = handlers.panel, handlers.choice
    judged = {choice.precision, panel.fit}
    attach(demo.load, handlers.opened, choice.all, {choice.device, panel.idle, *judged}, **QUICK)
    for dropdown in (choice.variant, choice.device):
        attach(dropdown.change, handlers.choose, choice.all, judged, **QUICK)
    attach(choice.precision.change, handlers.judge, choice.all, {panel.fit}, **QUICK)
    if not handlers.page.shared:  # nobody from outside may call these
        attach(panel.check.click, handlers.examine, None, panel.tested, **JOB)
        attach(panel.selftest.click, handlers.selftest, {choice.device}, panel.tested, **JOB)
        attach(panel.stop.click, handlers.stop, None, None, **QUICK)
        attach(joined.then, handlers.rejoin, None, panel.tested, **JOB)
        attach(panel.idle.change, handlers.set_idle, {panel.idle}, None, **QUICK)


def resolve(page: PageContext, name: str | None) -> Variant:
    """The variant of a name in the dropdown, on a shared page only of the catalog. Raises AppError."""
    return page.resolve(name)


def precision_choices(page: PageContext, name: str | None, device: str, language: str) -> list[tuple[str, str]]:
    """Each precision with the memory it needs at the peak of a usual job, and whether there is that much."""
    say = page.texts.say
    choices = [(say("auto", language), "auto")]
    try:
        options = page.session.plan_load(resolve(page, name), device)
    except AppError:
        return choices + [(precision, precision) for precision in PRECISIONS]
    for precision in options.precisions:
        plan = options.plan(precision)
        line = f"{precision} · {size_text(plan.need.total)}"
        choices.append((line if plan.fits else say("too_large", language, what=line), precision))
    return choices


def fit_html(page: PageContext, name: str | None, device: str, precision: str, language: str) -> str:
    """Whether the choice fits: a note if it can be loaded, a warning if it cannot."""
    try:
        text, fits = page.session.plan_load(resolve(page, name), device).judge(precision)
    except AppError as error:
        return message(error.text(language), "warning")
    return message(text.text(language), "note" if fits else "warning")


def findings_html(found: Sequence[Finding], language: str) -> str:
    """The doctor's findings as a list: level, subject, detail and, if needed, the remedy."""
    rows = []
    for finding in found:
        level, what, detail, remedy = map(escape, finding.texts(language).values())
        remedy = f" <p>{remedy}</p>" if remedy else ""  # the space is for those who hear or copy it
        rows.append(f'<li class="finding {level.lower()}"><b>{level}</b> <strong>{what}</strong> {detail}{remedy}</li>')
    return f'<ul class="findings">{"".join(rows)}</ul>'
