"""The compare tab, and what the browser remembers, in a real Chromium with tiny checkpoints."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image

from janus_app.outputs.metadata import read_metadata
from janus_app.workflows.grid import CHUNK
from tests.browser.steps import (
    UNNAMED,
    go,
    menu,
    open_settings,
    set_number,
    settle,
    until,
    wait_done,
    wait_nothing_runs,
    wait_quiet,
)
from tests.page_server import Served

pytestmark = pytest.mark.browser
COMPARE = "compare"


def pick(page: Any, place: str, name: str) -> None:
    page.locator(f"{place} input").click()
    page.get_by_role("option", name=name, exact=True).click()
    page.wait_for_function("!document.querySelector('[role=option]')")  # the list closes a moment later


def test_blind_pair_is_revealed_by_vote_and_grid_saves_its_sheet(visit: Any, served: Served) -> None:
    (served.data / "votes.json").unlink(missing_ok=True)
    page = visit()
    go(page, COMPARE)
    page.wait_for_selector("#compare-easel .empty")
    page.fill("#compare-prompt textarea", "a red circle")
    pick(page, "#side-a-model", "Tiny A")
    pick(page, "#side-b-model", "Tiny B")
    page.keyboard.press("Tab")
    page.locator("#compare-prompt textarea").focus()
    with served.session.held():  # a refresh loses neither the job, nor what was entered and not run yet
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#compare-stop:visible")
        page.fill("#compare-prompt textarea", "not run yet")
        set_number(page, "#side-b-guidance", 7.5)
        set_number(page, "#side-a-temperature", 0.2)
        settle(page)
        page.reload()
        page.wait_for_selector("#compare-stop:visible")
        assert not page.is_visible("#compare-run") and page.locator("#compare-status [role=progressbar]").count()
        page.wait_for_function("document.querySelector('#compare-prompt textarea').value === 'not run yet'")
        sides = [page.input_value(f"#side-{side}-model input") for side in "ab"]
        assert sides == ["Tiny A", "Tiny B"]
        assert page.input_value("#side-b-guidance input[type=number]") == "7.5"
        assert page.input_value("#side-a-temperature input[type=number]") == "0.2"
    page.wait_for_selector("#compare-votes:visible")
    wait_nothing_runs(page)
    captions = page.locator("#compare-pictures figcaption").all_inner_texts()
    assert [text.strip() for text in captions] == ["Left", "Right"]
    assert "Tiny" not in page.inner_text("#compare-sides"), "the sides are revealed before the vote"
    assert page.locator("#compare-copy:visible").count() == 0, "the copied settings would reveal the side"
    page.reload()
    page.click("#vote-left")
    page.wait_for_selector("#compare-told dl")
    page.reload()  # what was judged cannot be judged again
    page.wait_for_selector("#compare-told dl")
    revealed = page.inner_text("#compare-told")
    assert "Tiny A" in revealed and "Tiny B" in revealed and page.locator("#compare-votes:visible").count() == 0
    page.locator("#compare-pictures button").nth(1).click()  # chosen, and as large as the window
    page.wait_for_selector("#lightbox p:has-text('2 / 2')")
    page.keyboard.press("Escape")
    page.wait_for_selector("#compare-whose:has-text('right')")
    menu(page, "compare", "to-chat")
    page.wait_for_selector("#chat-box .thumbnail-item, #chat-box .thumbnail-image")
    go(page, COMPARE)
    page.click("#compare-over > .label-wrap")
    page.wait_for_selector("#compare-slider img >> nth=1")
    pictures = page.locator("#compare-slider img")
    until(
        lambda: pictures.nth(0).bounding_box() == pictures.nth(1).bounding_box(),
        page,
        lambda: f"not one over the other: {[one.bounding_box() for one in pictures.all()]}",
    )
    (pair,) = json.loads((served.data / "votes.json").read_text())["pairs"]
    assert pair["one_better"] + pair["other_better"] == 1 and pair["equal"] == 0
    seed = page.input_value("#compare-seed input")
    assert {read_metadata(file).model for file in served.outputs.glob(f"*_{seed}.png")} == {"tiny-a", "tiny-b"}
    assert served.session.state.variant_id == "tiny-a", "the model loaded before was not restored"

    page.get_by_role("tab", name="Grid of settings").click()
    pick(page, "#grid-y", "Seed")
    page.fill("#grid-x-values textarea, #grid-x-values input", "1, 3")
    wait_quiet(page)  # the examples of the chosen setting have arrived
    page.fill("#grid-y-values textarea, #grid-y-values input", "31..32")
    with served.session.held():
        page.click("#grid-run")
        page.wait_for_selector("#grid-table td")
        page.reload()
        page.wait_for_selector("#grid-table td >> nth=3")
    page.get_by_role("tab", name="Grid of settings").click()
    page.wait_for_selector("#grid-sheet img")
    assert page.input_value("#grid-y-values textarea, #grid-y-values input") == "31..32"
    wait_nothing_runs(page)
    (sheet,) = served.outputs.glob("*_grid.png")
    facts = json.loads(Image.open(sheet).info[CHUNK])
    records = [[read_metadata(served.outputs / name) for name in row] for row in facts["files"]]
    drawn = [[(r.seed, r.settings["guidance"]) for r in row] for row in records]
    assert drawn == [[(31, 1), (31, 3)], [(32, 1), (32, 3)]]
    page.fill("#grid-x-values textarea, #grid-x-values input", "1, two")
    page.click("#grid-run")
    page.wait_for_selector("#compare-notes .message.error:has-text('is not a number')")
    assert page.evaluate(UNNAMED) == []


def test_browser_remembers_settings_theme_and_closed_welcome(visit: Any, served: Served) -> None:
    page = visit()
    page.click("#welcome-card [data-janus=welcomed]")
    page.wait_for_selector("#welcome", state="hidden")
    page.locator("h1").click()
    page.keyboard.press("1")
    page.wait_for_selector("#draw-run:visible")
    page.keyboard.press("r")
    page.wait_for_function("document.querySelector('#draw-prompt textarea')?.value.length > 10")
    open_settings(page, "draw")
    pick(page, "#draw-style", "pencil drawing")
    page.wait_for_function("document.querySelector('#draw-prompt textarea')?.value.startsWith('pencil drawing of')")
    pick(page, "#draw-preset", "careful")
    page.wait_for_function("document.querySelector('#draw-temperature input[type=number]')?.value == '0.7'")
    set_number(page, "#draw-count", 1)
    page.click("#draw-run")
    wait_done(page)
    page.click("#draw-last-seed")
    page.wait_for_function("!document.querySelector('#draw-fresh input').checked")
    before = set(served.outputs.glob("*_x2.png"))
    menu(page, "draw", "upscale-2")
    page.wait_for_selector("#draw-upscaled .message.done")
    (copy,) = set(served.outputs.glob("*_x2.png")) - before
    assert Image.open(copy).size == (192, 192) and read_metadata(copy).settings["upscaled"] == 2
    menu(page, "draw", "export-curl")
    page.wait_for_function("document.querySelector('#draw-export textarea')?.value.includes('/call/v2/draw')")
    assert served.url in page.input_value("#draw-export textarea")

    page.locator("h1").click()
    page.keyboard.press("?")
    page.wait_for_selector("#keys-sheet:visible")
    assert page.evaluate(UNNAMED) == []
    page.keyboard.press("Escape")
    dark = page.evaluate("document.body.classList.contains('dark')")
    page.keyboard.press("d")
    page.reload()
    page.wait_for_selector(".state-line.ready")
    page.wait_for_function(f"document.body.classList.contains('dark') !== {json.dumps(dark)}")
    assert not page.is_visible("#welcome")
    page.locator("h1").click()
    page.keyboard.press("1")
    assert page.locator("#draw-drawer:visible").count(), "the drawer is not as it was left"
    page.wait_for_function("document.querySelector('#draw-temperature input[type=number]')?.value == '0.7'")
    page.wait_for_function("document.querySelector('#draw-count input[type=number]')?.value == '1'")
    page.click("[data-janus=keys]")
    page.click("[data-janus=forget]")
    page.wait_for_selector("#welcome-card:visible")
    go(page, "draw")
    page.wait_for_selector(".state-line.ready")
    page.wait_for_function("document.querySelector('#draw-temperature input[type=number]')?.value == '1'")


def test_compare_tab_fits_a_phone_in_chinese(visit: Any) -> None:
    page = visit(locale="zh-CN", viewport={"width": 390, "height": 844})
    go(page, COMPARE)
    page.wait_for_selector("#compare-easel .empty")
    for part in ("并排", "参数网格"):
        page.get_by_role("tab", name=part).click()
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate(UNNAMED) == []
