"""The draw tab: picture first, runs that never mix, the lightbox, and the same on a phone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from janus_app.outputs.metadata import read_metadata
from janus_app.types import drain
from janus_app.ui.common import jobs
from tests.browser.steps import captions, choose, draw, go, newest, open_drawer, say, wait_done, wait_quiet
from tests.page_server import Served
from tests.planner import OTHER, PLAN, PROMPT, taught_planner
from tests.test_adapters import EMBEDDED, pair, write_adapter
from training.planner import scene_of
from training.world import Scene, read_grid

pytestmark = pytest.mark.browser

# Visible buttons of the canvas and its bar that a finger would miss.
SMALL = """() => [...document.querySelectorAll("#draw-stage button, #draw-bar button")]
  .filter((e) => e.checkVisibility() && !e.classList.contains("tile") && e.getBoundingClientRect().height < 44)
  .map((e) => e.id || e.innerText)"""
LARGE = "document.querySelector('#draw-picture .large img')"


def headings(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("#draw-runs .run-heading span").all_inner_texts()]


def in_view(page: Any, *places: str) -> bool:
    height = page.viewport_size["height"]
    boxes = [page.locator(place).bounding_box() for place in places]
    return all(box["y"] >= 0 and box["y"] + box["height"] <= height for box in boxes)


def test_runs_stay_apart_and_the_chosen_picture_is_large(visit: Any, served: Served) -> None:
    page = visit(viewport={"width": 1024, "height": 768})
    go(page, "draw")
    page.wait_for_function("document.querySelector('#draw-prompt textarea').value === 'a Tiny A circle'")
    page.wait_for_selector("#draw-picture .empty")
    assert in_view(page, "#draw-stage", "#draw-prompt", "#draw-run"), "one must scroll to see picture and prompt"
    draw(page, "a red circle", 2, 610)
    wait_done(page)
    draw(page, "a blue star", 1, 620)
    wait_done(page)
    page.wait_for_function(f"{LARGE}.src.includes('_620')")
    assert headings(page) == ["a blue star", "a red circle"] and captions(page) == ["seed 620"]
    assert in_view(page, "#draw-stage", "#draw-verbs", "#draw-run")

    # Another picture: it is large, and what was said of the last job is gone.
    page.click("#draw-runs .tile >> nth=1")
    page.wait_for_function(f"{LARGE}.src.includes('_610')")
    page.wait_for_function("!document.querySelector('#draw-status').innerText.trim()")
    assert page.locator("#draw-picture .tile").count() == 2, "the strip beside it shows its run"

    # The lightbox goes through all runs; the picture it shows is the chosen one when it closes.
    page.click("#draw-picture [data-enlarge]")
    page.wait_for_selector("#lightbox p:has-text('96 × 96 · 2 / 3')")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#lightbox p:has-text('3 / 3')")
    page.click("#lightbox [data-box=native]")
    page.wait_for_function("document.querySelector('#lightbox .view img').getBoundingClientRect().width === 96")
    page.keyboard.press("Escape")
    page.wait_for_selector("#lightbox", state="hidden")
    page.wait_for_function(f"{LARGE}.src.includes('_611')")
    assert page.evaluate("document.activeElement !== document.body"), "the focus is lost"


def test_offered_prompt_follows_the_model_until_it_is_drawn(visit: Any, served: Served) -> None:
    page = visit()
    prompt = "document.querySelector('#draw-prompt textarea').value"
    page.wait_for_function(f"{prompt} === 'a Tiny A circle'")
    choose(page, "Tiny B")
    page.wait_for_function(f"{prompt} === 'a Tiny B circle'")
    page.click("#draw-run")
    wait_done(page)
    choose(page, "Tiny A")
    page.wait_for_selector("#draw-example-0:has-text('Tiny A')")
    wait_quiet(page)
    assert page.evaluate(prompt) == "a Tiny B circle"


def test_words_and_questions_that_the_model_does_not_know_are_named(visit: Any, served: Served) -> None:
    drain(served.session.load("janus-embedded", device="cpu"))
    page = visit()
    page.fill("#draw-prompt textarea", "an astronaut and a red cat")
    page.wait_for_selector("#draw-unknown:has-text('does not know: astronaut. Try')")
    draw(page, "an astronaut and a red cat", 1, 660)
    wait_done(page)
    page.wait_for_selector("#draw-notes:has-text('does not know: astronaut. Try')")
    assert not page.inner_text("#draw-unknown").strip(), "it is said twice"
    page.click("#draw-ask")
    page.wait_for_selector("#chat-box img")
    say(page, "what colour is her hat")
    page.wait_for_selector("#chat-notes:has-text('Try for example: What colour is')")


def test_prompt_stays_at_hand_on_a_phone(visit: Any) -> None:
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True)
    go(page, "draw")
    draw(page, "a green square", 2, 630)
    wait_done(page)
    page.wait_for_function(f"{LARGE}.src.includes('_630')")
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert in_view(page, "#draw-prompt", "#draw-run"), "the prompt is scrolled away"
    page.click("#draw-run")  # the page goes to what is drawn now
    page.wait_for_function("document.querySelector('#draw-stage').getBoundingClientRect().top >= 0")
    wait_done(page)
    assert page.evaluate(SMALL) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def drawn_scene(served: Served) -> tuple[str, Scene | None]:
    """The plan in the record of the newest picture, and the scene that its image tokens are."""
    record = read_metadata(newest(served.outputs))
    return record.plan, read_grid(np.array(record.image_tokens))


def test_plan_is_shown_while_it_is_written_drawn_changed_and_drawn_again(
    visit: Any, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.session.catalog.include(taught_planner(tmp_path))
    page = visit()
    go(page, "draw")
    assert not page.locator("#draw-think").is_visible() and not page.locator("#draw-plan").is_visible()
    choose(page, "Planner")
    wait_quiet(page)  # the page sets the controls for the model
    shown = page.locator("#draw-plan textarea")
    monkeypatch.setattr(jobs, "FRAMES_PER_SECOND", 1e6)  # else the last words before the job is held might not be shown
    with served.session.held(after=9):
        draw(page, PROMPT, 1, 640)
        page.wait_for_function("document.querySelector('#draw-plan textarea')?.value.split(' ').length > 5")
        begun = shown.input_value()
        assert PLAN.startswith(begun) and begun != PLAN
        assert page.is_visible("#draw-stop") and not page.locator("#draw-runs .tile").count()
    monkeypatch.undo()
    wait_done(page)
    assert shown.input_value() == PLAN
    assert drawn_scene(served) == (PLAN, scene_of(PLAN))

    # Another plan for the same prompt, then the first picture and its plan again.
    page.fill("#draw-plan textarea", OTHER)
    page.click("#draw-plan-run")
    wait_done(page)
    assert drawn_scene(served) == (OTHER, scene_of(OTHER))
    assert read_metadata(newest(served.outputs)).seed == 640
    page.click("#draw-runs .run >> nth=1 >> .tile >> nth=0")
    page.wait_for_function("plan => document.querySelector('#draw-plan textarea').value === plan", arg=PLAN)
    page.locator("#draw-think input").uncheck()
    page.click("#draw-run")
    wait_done(page)
    assert read_metadata(newest(served.outputs)).plan == ""
    page.wait_for_selector("#draw-plan", state="hidden")

    # The drawer of the model merges an adapter, and says beside it why another one does not fit.
    side = json.loads((EMBEDDED / "config.json").read_text("utf-8"))["language_config"]["hidden_size"]
    write_adapter(tmp_path / "bold", pair(shape=(side, side)))
    write_adapter(tmp_path / "large", pair(shape=(2 * side, side)))
    open_drawer(page)
    page.click("#model-adapters-frame > .label-wrap")
    box = page.locator("#model-adapters input")
    for name in ("large", "bold=0.5"):
        box.fill(str(tmp_path / name))
        box.press("Enter")
        page.click("#model-adapters-use")
        if name == "large":
            page.wait_for_selector("#model-adapters-note .error:has-text('large')")
            page.locator("#model-adapters .token-remove").first.click()
    page.wait_for_selector(".state-line.ready:has-text('bold=0.5')")
    assert [str(adapter) for adapter in served.session.state.adapters] == ["bold=0.5"]
    drain(served.session.load("tiny-a", device="cpu"))
