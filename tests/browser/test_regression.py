"""The dropdown switches to a model that paints from vectors, which draws and chats and does not edit, in Chromium."""

from __future__ import annotations

from typing import Any

import pytest

from janus_app.outputs.metadata import read_metadata
from janus_app.types import drain
from tests.browser.steps import (
    ENGLISH,
    answer,
    choose_stepwise,
    draw,
    go,
    newest,
    set_number,
    wait_done,
)
from tests.page_server import Served

pytestmark = pytest.mark.browser

TITLE, ID, STEPS = "Pisces embedded", "pisces-embedded", 4


def test_pisces_draws_and_chats_and_offers_no_edits(visit: Any, served: Served, pictures: list[str]) -> None:
    pytest.importorskip("diffusers")
    page = visit()
    page.set_default_timeout(90_000)
    choose_stepwise(page, TITLE, ID)
    assert served.session.state.variant_id == ID
    assert not page.locator("#draw-solver").is_visible()
    set_number(page, "#draw-steps", STEPS)
    draw(page, "a red house", 2, 77)
    wait_done(page)
    assert page.evaluate("window.seen.sheets.size") >= 1, "no preview was shown"
    record = read_metadata(newest(served.outputs))
    assert (record.model, record.seed, record.settings["steps"]) == (ID, 78, STEPS)
    assert len(str(record.settings["vectors"])) == 64, "the record lacks the hash of the vectors"

    go(page, "chat")
    page.set_input_files("#chat-box input[type=file]", pictures[0])
    page.wait_for_selector("#chat-box .thumbnail-item, #chat-box .thumbnail-image")
    assert answer(page, "What colour is the background?", 1)

    go(page, "edit")
    page.wait_for_selector(f"#edit-method-note:has-text('{ENGLISH['edit_no_way']}')")
    drain(served.session.load("tiny-a", device="cpu"))
