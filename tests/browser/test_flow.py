"""The dropdown switches to a flow model, which draws, edits by all its methods and chats, in a real Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from janus_app.outputs.metadata import ImageMetadata, read_metadata
from janus_app.types import drain
from tests.browser.steps import (
    answer,
    choose_stepwise,
    draw,
    go,
    into_editor,
    newest,
    open_settings,
    paint,
    set_number,
    wait_done,
)
from tests.page_server import Served

pytestmark = pytest.mark.browser

TITLE, ID, STEPS = "JanusFlow embedded", "janusflow-embedded", 4
BRUSH = "#edit-editor button[aria-label=Brush]"


def edit(page: Any, served: Served, method: str, prompt: str) -> tuple[Path, ImageMetadata]:
    """Choose a method, describe the picture, run. Returns the new file and its metadata."""
    page.locator("#edit-method label", has_text=method).click()
    page.fill("#edit-prompt textarea", prompt)
    before = newest(served.outputs)
    page.click("#edit-run")
    wait_done(page, "edit")
    page.wait_for_selector("#edit-compare img")
    file = newest(served.outputs)
    assert file != before
    return file, read_metadata(file)


def test_flow_model_draws_edits_and_chats(visit: Any, served: Served) -> None:
    pytest.importorskip("diffusers")
    page = visit()
    page.set_default_timeout(90_000)
    # The draw tab has steps and a solver in place of the temperature.
    choose_stepwise(page, TITLE, ID)
    assert served.session.state.variant_id == ID
    assert page.locator("#draw-solver").is_visible()
    set_number(page, "#draw-steps", STEPS)
    draw(page, "a red house", 1, 77)
    wait_done(page)
    assert any("steps" in line and "Drawing" in line for line in page.evaluate("window.seen.status"))
    assert page.evaluate("window.seen.sheets.size") >= 1, "no preview was shown"
    original = newest(served.outputs)
    record = read_metadata(original)
    assert record.settings["steps"] == STEPS and record.settings["solver"] == "euler" and not record.image_tokens

    # Two descriptions: the first is the prompt of the drawn picture; nothing is painted.
    canvas = into_editor(page, lambda: page.click("#draw-to-edit"))
    page.locator("#edit-method label", has_text="Before/after prompts").click()
    page.wait_for_function("document.querySelector('#edit-source-prompt textarea')?.value == 'a red house'")
    assert not page.locator(BRUSH).is_visible()
    open_settings(page, "edit")
    page.locator("#edit-go-on input").uncheck()  # all edits below start from the same picture
    set_number(page, "#edit-steps", STEPS)
    assert not page.locator("#edit-solver").is_visible() and page.locator("#edit-strength").is_visible()
    _, record = edit(page, served, "Before/after prompts", "a blue house")
    assert record.settings["method"] == "flowedit" and record.source_prompt == "a red house"
    assert "solver" not in record.settings

    # If it is empty, the model describes the picture, and the page says so.
    page.fill("#edit-source-prompt textarea", "")
    _, record = edit(page, served, "Before/after prompts", "a blue house")
    assert record.source_prompt and "The model sees:" in page.inner_text("#edit-notes")

    # A painted part: all other pixels stay the same.
    page.locator("#edit-method label", has_text="Painted area").click()
    page.wait_for_selector("#edit-solver:visible")
    assert not page.locator("#edit-source-prompt").is_visible() and not page.locator("#edit-strength").is_visible()
    page.locator("#edit-view label", has_text="Edit further").click()
    page.locator(BRUSH).click()
    paint(page, canvas)
    file, record = edit(page, served, "Painted area", "a blue house")
    assert record.settings["method"] == "masked" and "strength" not in record.settings
    changed = (np.asarray(Image.open(file)) != np.asarray(Image.open(original))).any(-1)
    assert 0 < changed.mean() < 0.5, "only the painted part was drawn anew"

    _, record = edit(page, served, "Image to image", "a blue house")
    assert record.settings["method"] == "image to image" and record.settings["strength"] == 0.6

    go(page, "chat")
    assert answer(page, "What is this?", 1)
    drain(served.session.load("tiny-a", device="cpu"))
