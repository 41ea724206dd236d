"""Words that would like to be a program, wherever the page shows words: typed, stored, and read from files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from janus_app.outputs.conversations import ChatMessage, Conversations, new_conversation, new_id
from janus_app.outputs.store import output_path, save_png
from tests.browser.test_compare import COMPARE, pick
from tests.browser.test_history import drop, loaded
from tests.browser.test_session import draw, go, wait_done
from tests.page_server import Served
from tests.samples import METADATA

pytestmark = pytest.mark.browser
# Each way in calls the same bell; the last two would work inside an attribute and a link.
EVIL = (
    "<img src=x onerror='window.rung=1'><script>window.rung=2</script><svg onload='window.rung=3'></svg>"
    "\"><b onmouseover='window.rung=4' autofocus tabindex=0 onfocus='window.rung=5'>x</b> "
    '[link](javascript:window.rung=6) ![a](x"onerror="window.rung=7) $$\\href{javascript:window.rung=8}{y}$$'
)
# Every element of the page with a handler or an address that is a program; Gradio's own pages have none.
ARMED = """() => [...document.querySelectorAll("*")].filter((element) =>
  [...element.attributes].some((a) => /^on/i.test(a.name) || /^\\s*javascript:/i.test(a.value))
  || (element.tagName === "SCRIPT" && element.textContent.includes("rung"))).map((element) => element.outerHTML)"""


def ask(page: Any, words: str) -> None:
    page.fill("#chat-box textarea", words)
    page.keyboard.press("Control+Enter")
    page.wait_for_function("document.querySelector('#chat-box textarea').value === ''")
    page.wait_for_selector("#chat-box .submit-button:visible")


def unharmed(page: Any, where: str) -> None:
    page.wait_for_timeout(300)
    assert page.evaluate("window.rung") is None, where
    assert page.evaluate(ARMED) == [], where


@pytest.fixture
def evil_file(served: Served) -> Iterator[Any]:
    """A picture in the outputs folder whose record is hostile wherever a record holds free words."""
    settings = {"guidance": 3.0, "method": EVIL[:60], "temperature": 0.5}
    record = replace(
        METADATA, prompt=EVIL, negative=EVIL, title=EVIL[:150], source_prompt=EVIL, seed=666, settings=settings
    )
    served.outputs.mkdir(exist_ok=True)
    file = save_png(output_path(served.outputs, record), Image.new("RGB", (96, 96), "red"), record)
    yield file
    file.unlink(missing_ok=True)


def test_words_stay_words_everywhere(visit: Any, served: Served, evil_file: Any) -> None:
    talk = new_conversation().with_message(ChatMessage(new_id(), "", "user", EVIL))
    talk = talk.with_message(ChatMessage(new_id(), talk.head, "assistant", EVIL, model=EVIL))
    conversations = Conversations(served.data / "conversations")
    conversations.save(talk)
    page = visit()
    page.locator("#chat-list label", has_text="onerror").first.click()
    page.wait_for_selector("#chat-bot .bot")
    unharmed(page, "a stored conversation, its title and the model's words")
    page.fill("#chat-name input", EVIL)
    page.keyboard.press("Enter")
    unharmed(page, "a conversation's name")
    page.click("#chat-clear")
    page.wait_for_function("!document.querySelector('#chat-bot .bot.message')")
    ask(page, EVIL)
    page.wait_for_selector("#chat-bot .bot.message")
    unharmed(page, "a question")
    ask(page, "/draw " + EVIL)
    loaded(page, "#chat-bot .bot")
    unharmed(page, "a picture drawn in the chat, its alternative text")

    go(page, 1)
    draw(page, EVIL, 1, 6)
    wait_done(page)
    unharmed(page, "a drawing")
    page.click("#draw-tokens")
    page.wait_for_selector("#tokens-map img")
    unharmed(page, "the token view")
    page.click("#draw-to-edit")
    page.wait_for_selector("#edit-editor canvas")
    unharmed(page, "the editor")

    go(page, 3)
    page.wait_for_selector("#history-gallery img")
    page.fill("#history-words input, #history-words textarea", "666")
    page.wait_for_selector("#history-count:has-text('of 1')")
    page.locator("#history-gallery button").first.click()
    page.wait_for_selector("#history-detail dd")
    unharmed(page, "the history and a record in words")
    page.locator("#history-more > .label-wrap").click()
    page.click("#history-export-cli")
    page.wait_for_selector("#history-export textarea")
    unharmed(page, "an export")
    drop(page, evil_file)
    page.wait_for_function("document.querySelector('#draw-prompt textarea').value.includes('onerror')")
    unharmed(page, "a file's record in the controls")

    go(page, COMPARE)
    page.get_by_role("tab", name="Grid of settings").click()
    pick(page, "#grid-x", "What to draw")
    page.wait_for_timeout(300)
    page.fill("#grid-x-values textarea, #grid-x-values input", f"a red circle | {EVIL}")
    page.click("#grid-run")
    page.wait_for_selector("#grid-table th")
    unharmed(page, "a grid being drawn")
    page.wait_for_selector("#grid-sheet img")
    unharmed(page, "a grid's sheet")
