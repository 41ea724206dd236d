"""The dropdown switches to models that paint from vectors: one draws, chats and edits, the other does not edit."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from benchmarks.judge import look
from janus_app.outputs.metadata import read_metadata
from janus_app.types import drain
from tests.browser.steps import (
    ENGLISH,
    answer,
    choose_stepwise,
    draw,
    go,
    into_editor,
    newest,
    set_number,
    wait_done,
)
from tests.page_server import Served
from training.objects import COLOURS, THINGS

pytestmark = pytest.mark.browser

TITLE, ID, STEPS = "Pisces embedded", "pisces-embedded", 4
METAMORPH = ("MetaMorph embedded", "metamorph-embedded")


def test_metamorph_answers_with_a_picture_and_draws_and_edits(visit: Any, served: Served) -> None:
    """The picture inside an answer stands in its bubble, and the next question is about it."""
    pytest.importorskip("diffusers")
    page = visit()
    page.set_default_timeout(90_000)
    choose_stepwise(page, *METAMORPH)
    assert served.session.state.variant_id == METAMORPH[1]

    go(page, "chat")
    answer(page, "Let's think about this visually: a green frog", 1)
    page.wait_for_selector("#chat-bot .bot .chat-picture")
    record = read_metadata(newest(served.outputs))
    assert record.model == METAMORPH[1] and len(str(record.settings["vectors"])) == 64
    assert "green" in answer(page, "What colour is the frog?", 2)

    go(page, "draw")
    draw(page, "a red house", 1, 77)
    wait_done(page)
    record = read_metadata(newest(served.outputs))
    assert (record.model, record.seed, record.prompt) == (METAMORPH[1], 77, "a red house")

    go(page, "edit")
    into_editor(page, lambda: page.set_input_files("#edit-editor input[type=file]", str(newest(served.outputs))))
    page.fill("#edit-prompt textarea", "make the house blue")
    page.click("#edit-run")
    wait_done(page, "edit")
    page.wait_for_selector("#edit-compare img")
    record = read_metadata(newest(served.outputs))
    assert (record.model, record.settings["method"]) == (METAMORPH[1], "instruct")
    (item,) = look(Image.open(newest(served.outputs))).scene.items
    assert (COLOURS[item.colour].name, THINGS[item.thing].name) == ("blue", "house")
    drain(served.session.load("tiny-a", device="cpu"))


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
