"""WCAG 2.1 A and AA on every tab by axe-core, keyboard use, reduced motion and alternative texts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.conftest import WATCH
from tests.browser.steps import TABS, draw, go, menu, open_drawer, say, settle, wait_done, wait_quiet
from tests.page_server import Served

pytestmark = pytest.mark.browser
RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
MAX_PRESSES = 20  # of the Tab key until a control must be reached


def expand_all(page: Any) -> None:
    """Open every closed section of the shown tab; opening one may reveal others."""
    closed = page.locator("button.label-wrap:not(.open):visible")
    for _ in range(30):
        if not closed.count():
            break
        closed.first.click()
        settle(page)  # sections are half transparent while they open


def violations(page: Any) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options=RULES).response["violations"]
    return [f"{rule['id']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]


@pytest.mark.parametrize(("theme", "locale"), [("light", "en-US"), ("dark", "zh-CN"), ("light", "zh-CN")])
def test_every_tab_passes_the_wcag_rules(visit: Any, theme: str, locale: str) -> None:
    page = visit(f"?__theme={theme}", locale=locale)
    page.click("#draw-drawer-open")
    expand_all(page)
    assert violations(page) == [], "the drawer of settings"
    page.click("#draw-drawer-close")
    open_drawer(page)
    expand_all(page)
    assert violations(page) == [], "the drawer of the model"
    page.keyboard.press("Escape")
    page.wait_for_selector("#model-drawer", state="hidden")
    page.evaluate("document.getElementById('lightbox').showModal()")
    assert violations(page) == [], "the lightbox"
    page.keyboard.press("Escape")
    for tab in page.get_by_role("tab").all():
        tab.click()
        expand_all(page)
        assert violations(page) == [], tab.inner_text()


def use(page: Any) -> None:
    """A drawing, an edit, an answer and a comparison."""
    go(page, "draw")
    draw(page, "a red circle", 2, 670)
    wait_done(page)
    go(page, "edit")
    page.locator("#edit-method label").last.click()  # the whole picture, so that nothing must be painted
    wait_quiet(page)
    page.fill("#edit-prompt textarea", "a blue circle")
    page.click("#edit-run")
    wait_done(page, "edit")
    go(page, "compare")
    page.fill("#compare-prompt textarea", "a red circle")
    for side, title in (("a", "Tiny A"), ("b", "Tiny B")):
        page.locator(f"#side-{side}-model input").click()
        page.get_by_role("option", name=title, exact=True).click()
        page.wait_for_function("!document.querySelector('[role=option]')")
    page.click("#compare-run")
    page.wait_for_selector("#compare-votes:visible")
    go(page, "chat")
    say(page, "What is it?")


@pytest.mark.parametrize(("theme", "locale"), [("dark", "en-US"), ("light", "zh-CN")])
def test_a_page_that_was_used_passes_the_wcag_rules(visit: Any, theme: str, locale: str) -> None:
    page = visit(f"?__theme={theme}", locale=locale)
    use(page)
    for tab in TABS:
        go(page, tab)
        settle(page)
        assert violations(page) == [], tab
    go(page, "draw")
    page.click("#draw-picture [data-enlarge]")
    page.wait_for_selector("#lightbox[open] img")
    assert violations(page) == [], "the lightbox"
    page.keyboard.press("Escape")
    page.wait_for_selector("#lightbox", state="hidden")
    open_drawer(page)
    assert violations(page) == [], "the drawer of the model"


def test_wcag_check_finds_a_violation(visit: Any) -> None:
    page = visit()
    page.evaluate("document.getElementById('brand').insertAdjacentHTML('afterend', '<img src=\"data:,\">')")
    assert [found for found in violations(page) if found.startswith("image-alt")]


def test_reduced_motion_stops_animations(visit: Any) -> None:
    page = visit()
    unknown = "<div class='track'><div class='fill unknown'></div></div>"
    page.evaluate("html => document.getElementById('brand').insertAdjacentHTML('beforeend', html)", unknown)
    endless = "document.getAnimations().filter(a => a.effect.getTiming().iterations > 1).length"
    page.wait_for_function(f"{endless} > 0")
    page.emulate_media(reduced_motion="reduce")
    page.wait_for_function(f"{endless} === 0")


def test_alternative_text_is_the_prompt_until_the_model_describes_the_picture(visit: Any, served: Served) -> None:
    page = visit()
    go(page, "draw")
    draw(page, "a purple hill", 2, 68_300_000_017)
    wait_done(page)
    alts = "[...document.querySelectorAll('#draw-runs img')].map(picture => picture.alt)"
    page.wait_for_function(f"{alts}.length && {alts}.every(alt => alt === 'a purple hill')")
    menu(page, "draw", "alt-write")
    page.wait_for_selector("#draw-upscaled .message")
    page.wait_for_selector("#draw-upscaled .message.done")
    (file,) = served.outputs.glob(".descriptions/*_68300000017.txt")
    words = file.read_text("utf-8")
    assert words.strip()
    page.wait_for_function(f"words => {alts}.includes(words)", arg=words)
    assert page.evaluate(f"{alts}.includes('a purple hill')"), "the other picture keeps its prompt"
    go(page, "history")
    page.fill("#history-words input, #history-words textarea", "68300000017")
    page.wait_for_selector("#history-count:has-text('1 to 1')")
    page.locator("#history-runs .tile").first.click()
    page.wait_for_function("words => document.querySelector('#history-picture img')?.alt === words", arg=words)


def press_until(page: Any, key: str, where: str) -> None:
    """Press `key` until the focus is inside `where`."""
    for _ in range(MAX_PRESSES):
        page.keyboard.press(key)
        if page.evaluate("where => !!document.activeElement?.closest(where)", where):
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            border = page.evaluate("getComputedStyle(document.activeElement).boxShadow")
            assert outline != "none" or border != "none", f"the focus in {where} is invisible"
            return
    raise AssertionError(f"{MAX_PRESSES} presses of {key} do not reach {where}")


def test_drawing_and_stopping_work_by_keyboard_alone(
    visit: Any, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit()
    press_until(page, "Tab", "#tab-draw-button")
    page.keyboard.press("Enter")
    press_until(page, "Tab", "#draw-prompt")
    page.keyboard.type("a green square")
    with monkeypatch.context() as slowly:
        slowly.setattr(served.session, "pace", 0.5)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#draw-easel img")
        page.keyboard.press("Escape")
        page.wait_for_selector("#draw-run:visible")
    assert not page.locator("#draw-runs img").count()
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#draw-runs img")


SLOW = """const plain = window.fetch;
window.fetch = async (...request) => {
  if (request[1]?.method === "POST") await new Promise((done) => setTimeout(done, 900));
  return plain(...request);
}"""


def visit_slowly(visit: Any, served: Served, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page over a connection on which a press reaches the server late, before jobs that are not over by then."""
    monkeypatch.setattr(served.session, "pace", 0.2)
    page = visit()
    page.add_init_script(SLOW)
    page.reload()
    page.wait_for_selector(".state-line.ready")
    page.evaluate(WATCH)
    return page


def test_stopped_job_restarts_at_first_press_over_a_slow_connection(
    visit: Any, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit_slowly(visit, served, monkeypatch)
    go(page, "draw")
    draw(page, "a green square", 4, 9_100)
    page.wait_for_selector("#draw-easel img")
    page.keyboard.press("Escape")
    assert page.is_visible("#draw-stop"), "the job is over before the server says so"
    page.wait_for_selector("#draw-run:visible")
    stopped = page.inner_text("#draw-status")
    assert "Stopped" in stopped and page.evaluate("window.seen.status").pop() == stopped.strip()
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#draw-runs img")


def test_stopped_answer_is_over_when_the_server_says_so(
    visit: Any, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit_slowly(visit, served, monkeypatch)
    go(page, "chat")
    monkeypatch.setattr(served.session, "pace", 1.0)  # also a short answer is not over before it is stopped
    page.fill("#chat-box textarea", "What is a square?")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#chat-status .progress")
    page.wait_for_selector("#chat-box .stop-button")
    page.keyboard.press("Escape")
    assert page.is_visible("#chat-box .stop-button"), "the answer is over before the server says so"
    page.wait_for_selector("#chat-status:has-text('Stopped')")
    page.wait_for_selector("#chat-box .submit-button:visible")
    monkeypatch.setattr(served.session, "pace", 0.2)
    say(page, "What is a circle?")
