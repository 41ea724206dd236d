"""What the browser tests do on the page, and how they wait for it: for conditions, never for a number of seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from janus_app.paths import ASSETS
from janus_app.ui.common.jobs import KNOWN_STAGES
from tests.browser.conftest import WATCH

ENGLISH = json.loads((ASSETS / "i18n" / "en.json").read_text("utf-8"))
TABS = ("draw", "edit", "chat", "history", "compare")
PATIENCE = 90  # seconds until a condition is given up; the browser and the page share two cores in CI

# The outcome of the tab's job as [kind, text], null while it runs. A message is an outcome once: SEEN marks it.
OUTCOME = """tab => {
  const fresh = (place) => [...document.querySelectorAll(place)].find((line) => !line.dataset.seen);
  const idle = document.getElementById(`${tab}-run`)?.offsetParent !== null;
  const refused = fresh(`#${tab}-notes .message.error, #${tab}-status .message.error`);
  const done = fresh(`#${tab}-status .message.done`);
  const note = fresh(`#${tab}-status .message.note`);
  if (refused) return ["error", refused.innerText];
  if (done && idle) return ["done", done.innerText];
  return note && idle && note.innerText.includes("Stopped") ? ["stopped", note.innerText] : null;
}"""
SEEN = "tab => document.querySelectorAll(`#${tab}-notes .message, #${tab}-status .message`)"
SEEN += ".forEach((line) => { line.dataset.seen = 'yes'; })"
# What a running job shows, anywhere on the page: moving bars, and lines that begin with what a job does.
RUNNING = """words => [
  ...document.querySelectorAll("[role=progressbar], .working"),
  ...[...document.querySelectorAll(".message")].filter((e) => words.some((word) => e.textContent.startsWith(word))),
].map((e) => e.outerHTML.slice(0, 200))"""
DOING = (
    *(ENGLISH[f"stage_{stage}"] for stage in KNOWN_STAGES if stage not in ("ready", "unloaded")),
    *(ENGLISH["starting"], ENGLISH["reading"], "Loading"),
)
# Visible controls a screen reader could not name.
UNNAMED = """() => [...document.querySelectorAll("button, input, textarea, select, [role=slider]")].filter((e) => {
  if (!e.checkVisibility({visibilityProperty: true}) || e.type === "hidden" || e.type === "file") return false;
  const labelled = e.labels?.length && [...e.labels].some((l) => l.innerText.trim());
  const by = e.getAttribute("aria-labelledby");
  const named = e.getAttribute("aria-label")?.trim() || e.title || (by && document.getElementById(by));
  const pictured = [...e.querySelectorAll("img")].some((image) => image.alt.trim());
  return !(e.innerText?.trim() || named || labelled || pictured);
}).map((e) => e.outerHTML.slice(0, 120))"""
# Two frames after everything that animates once has ended: nothing moves or fades any more.
SETTLED = """async () => {
  const frame = () => new Promise((next) => requestAnimationFrame(next));
  const moving = () => document.getAnimations().some((a) => a.playState === "running"
    && Number.isFinite(a.effect.getComputedTiming().endTime));
  do { await frame(); await frame(); } while (moving());
}"""


def until(condition: Callable[[], Any], page: Any, told: Callable[[], str]) -> Any:
    """Wait until `condition` gives something true, and return it. `told` describes the page if it never does."""
    last_try = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < last_try, told()
        page.evaluate("() => new Promise((next) => requestAnimationFrame(next))")
    return found


def settle(page: Any) -> None:
    """Wait until nothing on the page moves or fades."""
    page.evaluate(SETTLED)


def wait_quiet(page: Any, running: bool = False) -> None:
    """Wait until the page has the answer to everything it asked the server; conftest.py counts the open requests.

    While a job is `running`, the stream of its views stays open and is not waited for.
    """
    quiet = 0

    def enough() -> bool:
        nonlocal quiet
        asked = [request for request in page.asking if not (running and "/queue/data" in request.url)]
        quiet = 0 if asked else quiet + 1
        return quiet > 5  # an answer may lead to the next question a frame later

    until(enough, page, lambda: f"still asking: {open_requests(page)}")


def open_requests(page: Any) -> list[tuple[str, str]]:
    """The ends of the addresses that the page waits for, and the beginnings of what it sent there."""
    return [(request.url[-12:], (request.post_data or "")[:90]) for request in page.asking]


def outcome(page: Any, tab: str) -> tuple[str, str]:
    """Wait until the tab's job is done, refused or stopped; which of the three, and the message."""
    page.wait_for_function(OUTCOME, arg=tab)
    kind, text = page.evaluate(OUTCOME, tab)
    page.evaluate(SEEN, tab)
    return kind, text


def wait_done(page: Any, tab: str = "draw") -> None:
    """Wait until the tab's job is done. Fails at once, with the message, where it was refused or stopped."""
    kind, text = outcome(page, tab)
    assert kind == "done", f"{tab} ended as {kind}: {text}"
    wait_nothing_runs(page)


def wait_ended(page: Any, kind: str, tab: str = "draw") -> str:
    """Wait until the tab's job has ended as "error" or "stopped"; returns the message."""
    ended, text = outcome(page, tab)
    assert ended == kind, f"{tab} ended as {ended}: {text}"
    wait_nothing_runs(page)
    return text


def wait_nothing_runs(page: Any) -> None:
    """Wait until nothing on the page says that a job runs."""

    def left() -> Any:
        return page.evaluate(RUNNING, list(DOING))

    until(lambda: not left(), page, lambda: f"this outlives its job: {left()}")


def go(page: Any, tab: str) -> None:
    """Open a tab by its name."""
    page.click(f"#tab-{tab}-button")


def open_settings(page: Any, tab: str) -> None:
    """Open the drawer of settings of a tab, unless it is open."""
    if tab == "draw":
        if not page.locator("html.drawer-open").count():
            page.click("#draw-drawer-open")
        return
    if not page.locator(f"#{tab}-settings > .label-wrap.open").count():
        page.click(f"#{tab}-settings > .label-wrap")
    settle(page)


def set_number(page: Any, place: str, value: float) -> None:
    box = page.locator(f"{place} input[type=number]")
    box.fill(str(value))
    box.press("Tab")


def draw(page: Any, prompt: str, count: int, seed: int) -> None:
    """Fill in the draw tab and press the shortcut that runs it."""
    open_settings(page, "draw")
    page.fill("#draw-prompt textarea", prompt)
    set_number(page, "#draw-count", count)
    page.locator("#draw-fresh input").uncheck()
    set_number(page, "#draw-seed", seed)
    if page.viewport_size["width"] <= 900:  # there the drawer covers the prompt
        page.click("#draw-drawer-close")
    page.locator("#draw-prompt textarea").focus()
    page.keyboard.press("Control+Enter")


def captions(page: Any) -> list[str]:
    """The lines under the pictures of the newest run in the draw tab."""
    return [text.strip() for text in page.locator("#draw-runs .run >> nth=0 >> .line").all_inner_texts()]


def menu(page: Any, tab: str, act: str) -> None:
    """Choose a line of the menu "..." of the tab's picture."""
    page.click(f"#{tab}-menu-open")
    page.click(f"#{tab}-{act}")


def answer(page: Any, question: str, number: int) -> str:
    """Ask and wait for the answer to the question of that number; returns it."""
    page.fill("#chat-box textarea", question)
    page.keyboard.press("Control+Enter")
    page.wait_for_function(f"document.querySelectorAll('#chat-bot .user.message').length >= {number}")
    page.wait_for_selector("#chat-box .submit-button:visible")
    page.wait_for_selector("#chat-context .meter")
    wait_nothing_runs(page)
    text: str = page.locator("#chat-bot .bot.message").last.inner_text()
    return text


def say(page: Any, words: str) -> None:
    """Send a message in the chat tab and wait until its answer is complete."""
    page.fill("#chat-box textarea", words)
    page.wait_for_selector("#chat-box .submit-button:visible")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(f"#chat-bot .user.message:has-text('{words}')")
    page.wait_for_selector("#chat-box .submit-button:visible")


def choose_branch(page: Any, index: int) -> None:
    page.locator("#chat-branch input").click()
    page.get_by_role("option").nth(index).click()


def open_drawer(page: Any) -> None:
    """Open the drawer of the model, unless it is open."""
    if not page.locator("#model-drawer.open").count():
        page.click("#model-change")
    page.wait_for_selector("#model-drawer.open")
    settle(page)


def choose(page: Any, title: str) -> None:
    """Choose a model in the drawer, which loads it, and wait until it is loaded."""
    open_drawer(page)
    page.locator("#model-list button", has_text=title).click()
    loaded = page.locator(f".state-line.ready:has-text('{title}')")
    until(loaded.count, page, lambda: f"not loaded: {page.inner_text('#model-line')}; asking {open_requests(page)}")
    page.wait_for_selector(f"#model-list li.now:has-text('{title}')")
    page.click("#model-head [data-janus=drawer]")
    page.wait_for_selector("#model-drawer", state="hidden")


def choose_stepwise(page: Any, title: str, name: str) -> None:
    """Choose a model that draws in steps, and open the settings of the draw tab once they are those of the model."""
    choose(page, title)
    go(page, "draw")
    open_settings(page, "draw")
    page.wait_for_selector("#draw-steps:visible")
    # The page sets the controls once more when it learns, within a second, which model is loaded.
    page.wait_for_function(f"document.querySelector('#model-seen textarea, #model-seen input').value == '{name}'")
    page.wait_for_function("document.querySelector('#draw-prompt textarea').value !== 'a Tiny A circle'")
    wait_quiet(page)
    assert not page.locator("#draw-temperature").is_visible()


def newest(folder: Path) -> Path:
    return max(folder.glob("*.png"), key=lambda file: file.stat().st_mtime_ns)


def into_editor(page: Any, act: Callable[[], Any]) -> Any:
    """Do what puts a picture into the editor and wait until it is there and fills its frame; returns the canvas."""
    shown = page.evaluate("window.seen.shown")
    act()
    there = "window.seen.shown > shown && !document.body.classList.contains('arriving')"
    page.wait_for_function(f"shown => {there}", arg=shown)
    return still_canvas(page)


def still_canvas(page: Any) -> Any:
    """The picture in the editor and what is painted on it, once it stands still."""
    canvas = page.locator("#edit-editor .sheet")
    shots = [b""]

    def still() -> bool:
        shots.append(canvas.screenshot())
        return shots[-1] == shots[-2]

    until(still, page, lambda: "the picture in the editor never stands still")
    return canvas


def paint(page: Any, canvas: Any) -> None:
    """A corner of two strokes in the middle of the editor, seen in it."""
    box, before = canvas.bounding_box(), canvas.screenshot()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 60, y)
    page.mouse.down()
    page.mouse.move(x + 50, y, steps=6)
    page.mouse.move(x + 50, y + 50, steps=4)
    page.mouse.up()
    until(lambda: canvas.screenshot() != before, page, lambda: "no stroke appeared in the editor")


def reopen(page: Any) -> None:
    page.reload()
    page.wait_for_selector("button:is([id$=-run], [id$=-stop]):visible")
    page.evaluate(WATCH)
