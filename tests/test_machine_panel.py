"""The machine panel: whether a model fits, the precisions to choose from, the doctor, the self-test, a silent job."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from janus_app.errors import Message
from janus_app.hub import Hub
from janus_app.registry.catalog import load_catalog
from janus_app.runtime import doctor, fit, selftest
from janus_app.runtime.devices import Memory
from janus_app.runtime.doctor import Finding
from janus_app.runtime.selftest import result
from janus_app.runtime.session import ModelSession
from janus_app.runtime.watchdog import explain
from janus_app.types import PRECISIONS, Event, Progress
from janus_app.ui.common.saved_images import SavedImages
from janus_app.ui.context import PageContext
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.models import files_panel, machine_panel
from janus_app.ui.tabs.models.files_panel import FilesHandlers
from janus_app.ui.tabs.models.machine_panel import (
    Choice,
    MachineHandlers,
    findings_html,
    fit_html,
    precision_choices,
)
from tests.test_running import visitor


@pytest.fixture
def page(tmp_path: Path) -> PageContext:
    catalog = load_catalog()
    return PageContext(ModelSession(catalog, Hub()), catalog, Texts(), SavedImages(tmp_path, tmp_path))


def test_fit_and_precisions_follow_the_choice(page: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "device_memory", lambda device: Memory(int(12e9), int(16e9)))
    html = fit_html(page, "janus-pro-7b", "cpu", "auto", "en")
    assert "message note" in html and re.search("(bf16|fp32) needs", html) and "recommended" in html
    html = fit_html(page, "janus-pro-7b", "cpu", "fp32", "en")
    assert "message warning" in html and re.search("Choose (int8|nf4)", html)
    assert "it fits" in fit_html(page, "janus-pro-7b", "cpu", "nf4", "en")
    assert "message warning" in fit_html(page, "no-such-model", "cpu", "auto", "en")
    choices = {value: words for words, value in precision_choices(page, "janus-pro-7b", "cpu", "en")}
    assert tuple(choices) == ("auto", *PRECISIONS)
    assert "does not fit" in choices["fp32"] and "does not fit" not in choices["nf4"]
    assert [value for _, value in precision_choices(page, "no-such-model", "cpu", "en")] == ["auto", *PRECISIONS]


def test_fit_and_silence_are_translated(page: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    for free in (64e9, 12e9, 1e9):
        monkeypatch.setattr(fit, "device_memory", lambda device, free=free: Memory(int(free), int(64e9)))
        for precision in ("auto", "fp32"):
            text, _ = page.session.plan_load(page.catalog["janus-pro-7b"], "cpu").judge(precision)
            assert text.text("zh-CN") != text.text("en")
    for stage, busy, scarce in (
        ("download", False, False),
        ("read", False, False),
        ("draw", True, True),
        ("draw", True, False),
        ("", False, False),
    ):
        text = explain(stage, 30, busy=busy, scarce=scarce)
        assert text.text("zh-CN") != text.text("en")


def test_findings_are_escaped() -> None:
    html = findings_html([Finding("WARN", "<b>x</b>", Message("a & b"), Message("do <this>"))], "en")
    assert "<b>x</b>" not in html and "a &amp; b" in html and "do &lt;this&gt;" in html and "finding warn" in html


def panel_of(page: PageContext) -> tuple[MachineHandlers, gr.Blocks]:
    with gr.Blocks() as demo:
        choice = Choice(*(gr.Dropdown(["cpu"], value="cpu") for _ in range(3)))
        handlers = MachineHandlers(page, machine_panel.build(page, gr.HTML()), choice)
        machine_panel.wire(handlers, demo, demo.load(lambda: None))
    return handlers, demo


def test_selftest_shows_each_line_and_ends_with_a_report_to_copy(
    page: PageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "CHECKS", selftest.CHECKS[:2])
    monkeypatch.setattr(result, "SMALL_SECONDS", 1e9)
    handlers, _ = panel_of(page)
    panel, device = handlers.panel, handlers.choice.device
    *_, last = handlers.selftest({device: "cpu"}, None)  # type: ignore[arg-type]
    assert not last[panel.stop]["visible"] and last[panel.selftest]["interactive"]
    assert last[panel.findings].count("finding ok") == 2 and "Verdict: 2 checks passed" in last[panel.work]
    report = last[panel.report]["value"]
    assert "Ceilings" in report and report.endswith("left out.") and last[panel.report]["visible"]
    *_, refused = handlers.selftest({device: "cuda:7"}, None)  # type: ignore[arg-type]
    assert "message error" in refused[panel.work] and refused[panel.selftest]["interactive"]


def test_buttons_come_back_after_a_bug(page: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> Iterator[Finding]:
        yield Finding("OK", "first", Message("a & b"))
        raise ZeroDivisionError

    monkeypatch.setattr(doctor, "examine", fails)
    monkeypatch.setattr(selftest, "examine", fails)
    handlers, _ = panel_of(page)
    panel = handlers.panel
    *_, last = handlers.examine(None)  # type: ignore[arg-type]
    assert last[panel.check]["interactive"] and "ZeroDivisionError" in last[panel.work]
    assert "finding ok" in last[panel.findings] and "first" in last[panel.report]["value"]
    *_, last = handlers.selftest({handlers.choice.device: "cpu"}, None)  # type: ignore[arg-type]
    assert last[panel.check]["interactive"] and last[panel.selftest]["interactive"]
    assert "ZeroDivisionError" in last[panel.work]


def test_selftest_goes_on_without_its_tab_and_the_next_opening_can_stop_it(page: PageContext) -> None:
    handlers, _ = panel_of(page)
    panel = handlers.panel
    work = (Progress("draw", done, 2) for done in range(2))
    with closing(page.session.exclusively(lambda: work)) as job:
        next(job)
        with visitor("first"):
            key = page.runs.join("")
            test: Any = handlers.selftest({handlers.choice.device: "cpu"}, None)  # type: ignore[arg-type]
            first = next(view for view in test if "You are next in line" in view[panel.work])
        assert first[panel.stop]["visible"] and not first[panel.selftest]["interactive"]
        test.close()  # what Gradio does when the tab is closed or refreshed
        with visitor("second"):
            page.runs.join(key)
            _, now, *_ = islice(handlers.rejoin(), 2)
            assert "You are next in line" in now[panel.work] and now[panel.stop]["visible"]
            assert page.session.state.queue == 1
            handlers.stop()
            *_, last = handlers.rejoin()
        assert "The self-test was stopped." in last[panel.work]
        assert not last[panel.stop]["visible"] and last[panel.selftest]["interactive"]
        assert page.session.state.queue == 0


def test_doctor_goes_on_without_its_tab_and_the_next_opening_can_stop_it(
    page: PageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def held(*_: object, **__: object) -> Iterator[Finding]:
        yield Finding("OK", "first", Message("a"))
        assert go_on.wait(60)
        yield Finding("OK", "second", Message("b"))
        yield Finding("OK", "third", Message("c"))

    monkeypatch.setattr(doctor, "examine", held)
    handlers, _ = panel_of(page)
    panel = handlers.panel
    with visitor("first"):
        key = page.runs.join("")
        check: Any = handlers.examine(None)  # type: ignore[arg-type]
        next(view for view in check if "first" in view[panel.findings])
    check.close()  # what Gradio does when the tab is closed or refreshed
    with visitor("second"):
        page.runs.join(key)
        _, now = islice(handlers.rejoin(), 2)
        assert "first" in now[panel.findings] and "Checking" in now[panel.work]
        assert now[panel.stop]["visible"] and not now[panel.check]["interactive"]
        handlers.stop()
        go_on.set()
        *_, last = handlers.rejoin()
    assert "Stopped." in last[panel.work] and "third" not in last[panel.findings]
    assert "second" in last[panel.report]["value"] and last[panel.check]["interactive"]
    assert not last[panel.stop]["visible"]


def test_work_on_files_goes_on_without_its_tab_and_the_next_opening_shows_its_end(
    page: PageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, name = threading.Event(), "janus-embedded"

    def held(_: Hub, variant: object) -> Iterator[Event]:
        yield Progress("verify", 1, 2, "bytes")
        assert go_on.wait(60)
        yield Progress("verify", 2, 2, "bytes")

    monkeypatch.setattr(Hub, "verify", held)
    with gr.Blocks():
        panel = files_panel.build(page)
    handlers = FilesHandlers(page, panel, panel.chosen)
    with visitor("first"):
        key = page.runs.join("")
        views: Any = handlers.verify({panel.chosen: name}, None)  # type: ignore[arg-type]
        next(views)
    views.close()
    with visitor("second"):
        page.runs.join(key)
        _, now = islice(handlers.rejoin(), 2)
        assert handlers.busy and now[panel.stop]["visible"] and now[panel.chosen]["value"] == name
        assert not any(now[button]["interactive"] for button in (panel.verify, panel.delete, panel.take))
        assert not now[panel.sure]["visible"], "a question that was asked before could be answered during the job"
        go_on.set()
        *_, last = handlers.rejoin()
        assert "every file has the right hash" in last[panel.work]
        assert not handlers.busy and not last[panel.stop]["visible"] and last[panel.take]["interactive"]
        assert list(handlers.rejoin()) == [{panel.work: last[panel.work]}], "the files may have changed since"
        go_on.clear()
        views = handlers.verify({panel.chosen: name}, None)  # type: ignore[arg-type]
        next(views)
        handlers.stop()
        go_on.set()
        *_, last = views
        assert "Stopped" in last[panel.work] or "stopped" in last[panel.work]


@pytest.mark.parametrize("shared", [False, True])
def test_visitors_of_a_shared_page_cannot_start_the_selftest(page: PageContext, shared: bool) -> None:
    _, demo = panel_of(replace(page, shared=shared))
    names = {function.name for function in demo.fns.values()}
    assert ("selftest" in names) != shared
