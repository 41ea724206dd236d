"""The machine panel: whether a model fits, the precisions to choose from, the doctor's findings, a silent job."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_app.errors import Message
from janus_app.hub import Hub
from janus_app.registry.catalog import load_catalog
from janus_app.runtime import fit
from janus_app.runtime.devices import Memory
from janus_app.runtime.doctor import Finding
from janus_app.runtime.session import ModelSession
from janus_app.runtime.watchdog import explain
from janus_app.types import PRECISIONS
from janus_app.ui.common.saved_images import SavedImages
from janus_app.ui.context import PageContext
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.models.machine_panel import findings_html, fit_html, precision_choices


@pytest.fixture
def page(tmp_path: Path) -> PageContext:
    catalog = load_catalog()
    return PageContext(ModelSession(catalog, Hub()), catalog, Texts(), SavedImages(tmp_path, tmp_path))


def test_fit_and_precisions_follow_the_choice(page: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "device_memory", lambda device: Memory(int(12e9), int(16e9)))
    html = fit_html(page, "janus-pro-7b", "cpu", "auto", "en")
    assert "message note" in html and "fp32 needs" in html and "recommended" in html
    html = fit_html(page, "janus-pro-7b", "cpu", "fp32", "en")
    assert "message warning" in html and "Choose nf4" in html
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
