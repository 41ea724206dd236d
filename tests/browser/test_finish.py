"""The finish of the page: nothing jumps, errors are seen, the keyboard reaches everything, a phone has room."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from janus_app.errors import Message
from janus_app.runtime.weight_check import WeightCheck
from janus_app.ui.i18n import Texts
from tests.browser.steps import TABS, UNNAMED, go, open_drawer, open_settings, settle, until, wait_ended, wait_quiet
from tests.browser.test_history import drop
from tests.page_server import Served

pytestmark = pytest.mark.browser

# The sum of all layout shifts so far that the user did not cause, as the browser itself measures them.
SHIFT = """() => new Promise((give) => {
  let sum = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) sum += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
  setTimeout(() => give(sum), 200);
})"""
# Controls in sight that are less than 44 pixels high. A checkbox or radio button is as high as its label; what a slider
# sets, the number beside it sets too; the tools of Gradio's picture editor would not fit beside the picture.
SMALL = """() => [...document.querySelectorAll("button, [role=tab], select, summary, input, textarea")]
  .filter((e) => e.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && !e.disabled)
  .filter((e) => !["file", "range"].includes(e.type) && e.tabIndex >= 0)
  .map((e) => (["checkbox", "radio"].includes(e.type) && e.closest("label"))
    || (e.role === "combobox" && e.closest(".wrap")) || e)
  .filter((e) => e.getBoundingClientRect().height < 43.5)
  .map((e) => `${Math.round(e.getBoundingClientRect().height)} ${e.closest("[id]")?.id} ${e.outerHTML.slice(0, 90)}`)"""
FOCUS = """() => {
  const now = document.activeElement, box = now.getBoundingClientRect();
  return [now === document.body, now.closest("[id]")?.id, box.bottom > 0 && box.top < innerHeight];
}"""
# The sizes of all text in sight, in pixels; 0 hides the words of a button that is an icon.
SIZES = """() => [...new Set([...document.querySelectorAll("body *")]
  .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
  .map((e) => parseFloat(getComputedStyle(e).fontSize)))].sort((a, b) => a - b)"""
# Whether a caret is seen in what can be typed into, and in anything else.
CARETS = """() => [...document.querySelectorAll(".gradio-container, .gradio-container *")]
  .filter((e) => e.checkVisibility()).reduce((found, e) => {
    const typed = e.closest("input, textarea, [contenteditable=true]");
    found[typed ? 0 : 1] ||= getComputedStyle(e).caretColor !== "rgba(0, 0, 0, 0)";
    return found;
  }, [false, false])"""
# The pixels by which the words of the welcome stand out of its card.
OUTSIDE = """words => {
  const card = document.getElementById("welcome-card"), box = card.getBoundingClientRect();
  card.querySelector("p + p").textContent = words;
  const texts = [...card.querySelectorAll("p")].map((p) => p.getBoundingClientRect());
  return Math.max(...texts.map((p) => Math.max(box.top - p.top, p.bottom - card.getBoundingClientRect().bottom)));
}"""
# The tabs that lie behind a notice, and the controls in sight whose clicks a notice takes, its own button aside.
COVERED = """() => {
  const shown = (what) => [...document.querySelectorAll(what)].filter((e) => e.checkVisibility());
  const notices = shown(".toast-body, #model-told .message");
  const behind = (tab) => notices.some((notice) => {
    const [a, b] = [tab, notice].map((e) => e.getBoundingClientRect());
    return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  });
  const loses = (control) => {
    const box = control.getBoundingClientRect();
    const hit = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    return notices.some((notice) => notice.contains(hit) && !notice.contains(control)) && !hit.closest(".toast-close");
  };
  const tabs = shown("#tabs > .tab-wrapper [role=tab]").filter(behind);
  const controls = shown("button, input, textarea, select, summary").filter(loses);
  return [...tabs, ...controls].map((e) => e.outerHTML.slice(0, 120));
}"""
# The sliders whose number does not stand beside the middle of their name.
UNEVEN = """() => [...document.querySelectorAll(".head:has(> .tab-like-container)")].filter((e) => e.checkVisibility())
  .filter((e) => {
    const parts = ["[data-testid=block-info]", "input"].map((part) => e.querySelector(part).getBoundingClientRect());
    const [name, number] = parts.map((box) => box.y + box.height / 2);
    return Math.abs(name - number) > 2;
  }).map((e) => e.closest("[id]").id)"""
# The frames around fields within what unfolds, which has a frame itself.
FRAMED = """() => [...document.querySelectorAll(".gr-accordion :is(.form, .form > .block, .row > .block)")]
  .filter((e) => parseFloat(getComputedStyle(e).borderTopWidth))
  .map((e) => `${e.className} in ${e.closest("[id]").id}`)"""
MAX_PRESSES = 60  # of the Tab key until a control must be reached


def in_view(page: Any, place: str) -> bool:
    """Whether an element is inside the window, and not behind the bar at the top."""
    box = page.locator(place).first.bounding_box()
    return bool(box and box["y"] >= 0 and box["y"] + box["height"] <= page.viewport_size["height"])


def reach(page: Any, where: str) -> None:
    """Press Tab until the focus is inside `where`; it is always in sight and never lost."""
    for _ in range(MAX_PRESSES):
        page.keyboard.press("Tab")
        lost, name, seen = page.evaluate(FOCUS)
        assert not lost, f"the focus is lost on the way to {where}"
        if page.evaluate("where => !!document.activeElement?.closest(where)", where):
            assert seen, f"the focus in {where} is out of sight: {name}"
            return
    raise AssertionError(f"{MAX_PRESSES} presses of Tab do not reach {where}")


def test_nothing_jumps_and_the_keyboard_reaches_each_tab(visit: Any) -> None:
    page = visit()
    page.wait_for_selector("#draw-run:visible")
    settle(page)
    assert page.evaluate(SHIFT) < 0.1
    for tab, places in {
        "draw": ("#draw-prompt", "#draw-run"),
        "edit": ("#edit-editor", "#edit-method", "#edit-prompt", "#edit-run", "#edit-settings"),
        "chat": ("#chat-box",),
        "history": ("#history-words", "#history-model", "#history-stars"),
        "compare": ("#compare-prompt", "#compare-run"),
    }.items():
        page.locator(f"#tab-{tab}-button").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector(f"#tab-{tab}-button[aria-selected=true]")
        wait_quiet(page)  # what is asked for when a tab opens may replace what has the focus
        settle(page)
        for place in places:
            reach(page, place)
        assert set(page.evaluate(SIZES)) <= {0, 13, 14, 16, 20}, tab
        assert page.evaluate(CARETS) == [True, False], tab
    open_drawer(page)
    assert page.locator("#topbar").bounding_box()["height"] == 44
    offer = Texts("en").say("welcome_get", "en", title="Janus-Pro-1B", size="4.2 GB", fit="fits this machine as int8")
    assert page.evaluate(OUTSIDE, f"{offer} Licence: DeepSeek Model License v1.0") <= 0
    page.keyboard.press("Escape")
    page.wait_for_selector("#model-drawer:not(.open)", state="attached")
    until(lambda: not page.evaluate(FOCUS)[0], page, lambda: "closing the drawer loses the focus")


def test_focus_goes_to_stop_while_something_is_drawn_and_back(visit: Any, served: Served) -> None:
    page = visit()
    page.wait_for_selector("#draw-run:visible")
    settle(page)
    with pytest.MonkeyPatch.context() as slowly:
        slowly.setattr(served.session, "pace", 0.5)
        page.locator("#draw-run").focus()
        page.keyboard.press("Enter")
        page.wait_for_function("document.activeElement.id === 'draw-stop'")
        page.keyboard.press("Enter")
        page.wait_for_function("document.activeElement.id === 'draw-run'")
    # A press beside all buttons is no reason to give it back.
    page.mouse.click(720, 500)
    page.evaluate("document.body.append(document.createElement('p'))")
    wait_quiet(page)
    assert page.evaluate("document.activeElement === document.body")


def test_error_is_beside_its_button_and_in_view(visit: Any, served: Served) -> None:
    page = visit(viewport={"width": 1024, "height": 560})
    for tab, run in (("draw", "draw-run"), ("edit", "edit-run"), ("compare", "compare-run")):
        go(page, tab)
        settle(page)
        if tab != "edit":  # its method needs strokes, and there are none
            page.fill(f"#{tab}-prompt textarea", " ")
        page.click(f"#{run}")
        wait_ended(page, "error", tab)
        error = f"#{tab}-notes .message.error"
        until(lambda error=error: in_view(page, error), page, lambda tab=tab: f"the error of {tab} is out of sight")
        button, told = (page.locator(place).bounding_box() for place in (f"#{run}", error))
        distance = max(told["y"] - button["y"] - button["height"], button["y"] - told["y"] - told["height"])
        assert distance < 120, f"the error of {tab} is {distance} pixels from its button"
        if tab == "edit":  # where the user takes another way, nothing must be painted any more
            page.locator("#edit-method label").last.click()
            page.wait_for_selector(error, state="detached")


def test_notices_cover_no_tab_and_take_no_click_meant_for_a_control(
    visit: Any, served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = WeightCheck((Message("model_output_not_finite", where="logits"),))
    monkeypatch.setattr(served.session, "_weight_check", wrong)
    monkeypatch.setattr(gr, "Warning", partial(gr.Warning, duration=None))  # stays until it is closed
    page = visit()
    page.wait_for_selector("#model-told .message")
    (tmp_path / "letter.png").write_text("Dear model")
    drop(page, tmp_path / "letter.png")
    page.wait_for_selector(".toast-body")
    for width, height in ((1440, 900), (1024, 768), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        for tab in TABS:
            go(page, tab)
            settle(page)
            assert in_view(page, "#model-told .message") and in_view(page, ".toast-body")
            assert page.evaluate(COVERED) == [], f"{tab} at {width} pixels"
        go(page, "draw")
        settle(page)
        assert in_view(page, "#draw-run"), f"the prompt makes room at {width} pixels"
        open_drawer(page)
        assert in_view(page, "#model-told .message")
        page.locator("#model-list button[data-model]").first.click(trial=True)
        box = page.locator("#model-told .message").bounding_box()
        middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
        assert page.evaluate("at => Boolean(document.elementFromPoint(...at).closest('#model-told'))", middle)
        page.keyboard.press("Escape")
        page.wait_for_selector("#model-drawer", state="hidden")
    page.click(".toast-close")
    page.wait_for_selector(".toast-body", state="detached")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_fits_a_phone_with_room_for_fingers_and_every_control_has_a_name(visit: Any, theme: str) -> None:
    page = visit(f"?__theme={theme}", viewport={"width": 390, "height": 844})
    for tab in TABS:
        go(page, tab)
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
        assert page.evaluate(UNNAMED) == [], tab
        assert page.evaluate(SMALL) == [], tab
        assert page.evaluate(UNEVEN) == [], tab
    assert page.locator("#side-a-guidance .head").count()
    go(page, "edit")
    open_settings(page, "edit")
    page.wait_for_selector("#edit-settings .form", state="attached")
    assert page.evaluate(FRAMED) == []
