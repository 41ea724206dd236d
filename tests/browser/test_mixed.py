"""The dropdown switches to models that draw inside the sequence of words: they chat about pictures, draw and edit."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from benchmarks.judge import look
from janus_app.outputs.metadata import ImageMetadata, read_metadata
from janus_app.types import drain
from tests.browser.steps import answer, choose_stepwise, draw, go, into_editor, newest, wait_done, wait_quiet
from tests.page_server import Served
from training.objects import COLOURS, THINGS

pytestmark = pytest.mark.browser


def shown(served: Served) -> list[tuple[str, str]]:
    """Colours and things of the newest picture on disk."""
    items = look(Image.open(newest(served.outputs))).scene.items
    return [(COLOURS[item.colour].name, THINGS[item.thing].name) for item in items]


def choose_and_draw(page: Any, served: Served, title: str, model: str) -> ImageMetadata:
    page.set_default_timeout(90_000)
    choose_stepwise(page, title, model)
    assert served.session.state.variant_id == model
    draw(page, "a red house", 1, 77)
    wait_done(page)
    record = read_metadata(newest(served.outputs))
    assert (record.model, record.seed, record.prompt) == (model, 77, "a red house")
    assert shown(served) == [("red", "house")]
    return record


def ask_about_it(page: Any, served: Served, question: str) -> str:
    go(page, "chat")
    page.set_input_files("#chat-box input[type=file]", str(newest(served.outputs)))
    page.wait_for_selector("#chat-box .thumbnail-item, #chat-box .thumbnail-image")
    return answer(page, question, 1)


def edit(page: Any, served: Served, way: str, text: str) -> ImageMetadata:
    """Change the newest picture on disk in the way of that name."""
    go(page, "edit")
    into_editor(page, lambda: page.set_input_files("#edit-editor input[type=file]", str(newest(served.outputs))))
    page.locator("#edit-method label", has_text=way).click()
    wait_quiet(page)
    page.fill("#edit-prompt textarea", text)
    page.click("#edit-run")
    wait_done(page, "edit")
    page.wait_for_selector("#edit-compare img")
    return read_metadata(newest(served.outputs))


@pytest.mark.parametrize(
    ("title", "model"),
    [("Transfusion embedded", "transfusion-embedded"), ("LMFusion embedded", "lmfusion-embedded")],
)
def test_it_draws_answers_about_the_picture_and_edits_it(visit: Any, served: Served, title: str, model: str) -> None:
    pytest.importorskip("diffusers")
    page = visit()
    choose_and_draw(page, served, title, model)
    assert page.evaluate("window.seen.sheets.size") >= 1, "no preview was shown"
    assert "house" in ask_about_it(page, served, "What is this?")

    record = edit(page, served, "Instruction", "make the house blue")
    assert (record.model, record.settings["method"]) == (model, "instruct")
    assert shown(served) == [("blue", "house")]
    drain(served.session.load("tiny-a", device="cpu"))


def test_llavafusion_draws_answers_as_its_base_does_and_redraws_a_noised_picture(visit: Any, served: Served) -> None:
    pytest.importorskip("diffusers")
    page = visit()
    choose_and_draw(page, served, "LLaVAFusion embedded", "llavafusion-embedded")
    assert "house" in ask_about_it(page, served, "What is this?")

    record = edit(page, served, "Image to image", "a blue house")
    assert (record.model, record.settings["method"]) == ("llavafusion-embedded", "image to image")
    drain(served.session.load("tiny-a", device="cpu"))
