"""Script injection through every text that the page shows: typed, stored, and read from files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from janus_app.outputs.conversations import ChatMessage, Conversations, new_conversation, new_id
from janus_app.outputs.store import output_path, save_png
from tests.browser.steps import draw, go, menu, wait_done, wait_quiet
from tests.browser.test_compare import COMPARE, pick
from tests.browser.test_history import drop, loaded
from tests.page_server import Served
from tests.samples import METADATA

pytestmark = pytest.mark.browser
# Every payload that runs sets window.rung. The last ones aim at attributes, links and formulas.
SEED = 4_061_739_528_366  # no random seed of another test's picture holds these digits
EVIL = (
    "<img src=x onerror='window.rung=1'><script>window.rung=2</script><svg onload='window.rung=3'></svg>"
    "\"><b onmouseover='window.rung=4' autofocus tabindex=0 onfocus='window.rung=5'>x</b> "
    '[link](javascript:window.rung=6) ![a](x"onerror="window.rung=7) $$\\href{javascript:window.rung=8}{y}$$'
)
# All elements with an event handler or a javascript: URL; Gradio's own markup has none.
ARMED = """() => [...document.querySelectorAll("*")].filter((element) =>
  [...element.attributes].some((a) => /^on/i.test(a.name) || /^\\s*javascript:/i.test(a.value))
  || (element.tagName === "SCRIPT" && element.textContent.includes("rung"))).map((element) => element.outerHTML)"""


def ask(page: Any, words: str) -> None:
    page.fill("#chat-box textarea", words)
    page.keyboard.press("Control+Enter")
    page.wait_for_function("document.querySelector('#chat-box textarea').value === ''")
    page.wait_for_selector("#chat-box .submit-button:visible")


def assert_nothing_ran(page: Any, where: str) -> None:
    wait_quiet(page)
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    assert page.evaluate("window.rung") is None, where
    assert page.evaluate(ARMED) == [], where


@pytest.fixture
def evil_file(served: Served) -> Iterator[Any]:
    """A picture in the outputs folder with payloads in every free text of its metadata."""
    settings = {"guidance": 3.0, "method": EVIL[:60], "temperature": 0.5}
    record = replace(
        METADATA,
        **dict.fromkeys(("prompt", "negative", "source_prompt", "plan", "judgement"), EVIL),
        title=EVIL[:150],
        seed=SEED,
        settings=settings,
    )
    served.outputs.mkdir(exist_ok=True)
    file = save_png(output_path(served.outputs, record), Image.new("RGB", (96, 96), "red"), record)
    yield file
    file.unlink(missing_ok=True)


def test_text_from_outside_is_never_run(visit: Any, served: Served, evil_file: Any) -> None:
    talk = new_conversation().with_message(ChatMessage(new_id(), "", "user", EVIL))
    talk = talk.with_message(ChatMessage(new_id(), talk.head, "assistant", EVIL, model=EVIL))
    conversations = Conversations(served.data / "conversations")
    conversations.save(talk)
    page = visit()
    go(page, "chat")
    page.locator("#chat-list button.row", has_text="onerror").first.click()
    page.wait_for_selector("#chat-bot .bot")
    assert_nothing_ran(page, "a stored conversation, its title and the model's words")
    page.click("#chat-list li[aria-current] .of-row")
    page.click("#chat-list-menu [data-act=rename]")
    page.fill("#chat-list input.row", EVIL)
    page.keyboard.press("Enter")
    assert_nothing_ran(page, "a conversation's name")
    page.click("#chat-clear")
    page.wait_for_function("!document.querySelector('#chat-bot .bot.message')")
    ask(page, EVIL)
    page.wait_for_selector("#chat-bot .bot.message")
    assert_nothing_ran(page, "a question")
    ask(page, "/draw " + EVIL)
    loaded(page, "#chat-bot .bot")
    assert_nothing_ran(page, "a picture drawn in the chat, its alternative text")

    go(page, "draw")
    draw(page, EVIL, 1, 6)
    wait_done(page)
    assert_nothing_ran(page, "a drawing")
    menu(page, "draw", "tokens")
    page.wait_for_selector("#tokens-map img")
    assert_nothing_ran(page, "the token view")
    page.click("#draw-to-edit")
    page.wait_for_selector("#edit-editor canvas")
    assert_nothing_ran(page, "the editor")

    go(page, "history")
    page.wait_for_selector("#history-runs img")
    page.fill("#history-words input, #history-words textarea", str(SEED))
    page.wait_for_selector("#history-count:has-text('of 1')")
    page.locator("#history-runs .tile").first.click()
    page.wait_for_selector("#history-picture img")
    page.click("#history-details > .label-wrap")
    page.wait_for_selector("#history-detail dd")
    assert_nothing_ran(page, "the history and a record in words")
    menu(page, "history", "export-cli")
    page.wait_for_selector("#history-export textarea")
    assert_nothing_ran(page, "an export")
    drop(page, evil_file)
    page.wait_for_selector("#draw-prompt:visible")  # the dropped file opens the draw tab
    page.wait_for_function("document.querySelector('#draw-prompt textarea').value.includes('onerror')")
    assert_nothing_ran(page, "a file's record in the controls")

    go(page, COMPARE)
    page.get_by_role("tab", name="Grid of settings").click()
    pick(page, "#grid-x", "What to draw")
    wait_quiet(page)
    page.fill("#grid-x-values textarea, #grid-x-values input", f"a red circle | {EVIL}")
    page.click("#grid-run")
    page.wait_for_selector("#grid-table th")
    assert_nothing_ran(page, "a grid being drawn")
    page.wait_for_selector("#grid-sheet img")
    assert_nothing_ran(page, "a grid's sheet")
