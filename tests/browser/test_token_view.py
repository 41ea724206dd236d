"""The token view in a real Chromium, by mouse and by keyboard, and ranking; on a wide page, a phone, and in Chinese."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from janus_app.outputs.metadata import read_metadata
from janus_app.outputs.store import save_png
from tests.browser.steps import go, menu, open_settings, set_number, wait_done, wait_quiet
from tests.page_server import Served
from tests.samples import METADATA

pytestmark = pytest.mark.browser


def newest(served: Served) -> Any:
    return read_metadata(max(served.outputs.glob("*.png"), key=lambda file: file.stat().st_mtime_ns))


def draw_two(page: Any) -> None:
    go(page, "draw")
    page.fill("#draw-prompt textarea", "a small red house")
    open_settings(page, "draw")
    set_number(page, "#draw-count", 2)
    page.click("#draw-drawer-close")
    page.click("#draw-run")
    wait_done(page)


def inspect(page: Any) -> None:
    """Press the picture's button, which opens the view."""
    menu(page, "draw", "tokens")
    page.wait_for_function("document.querySelector('#tokens-map img')?.naturalWidth >= 576")
    page.wait_for_selector("#tokens-others .caption-label")


def test_picture_is_inspected_and_continued_from_a_patch(visit: Any, served: Served) -> None:
    page = visit()
    draw_two(page)
    page.click("#draw-runs .tile >> nth=1")
    page.wait_for_selector("#draw-picture .tile[aria-current=true] >> nth=0")
    page.click("#draw-details > .label-wrap")
    before = newest(served)
    seed = page.inner_text("#draw-detail dl >> text=/^\\d+$/")
    inspect(page)
    page.wait_for_selector(f"#tokens-status:has-text('Seed {seed}')")  # the chosen picture is inspected, not the first
    assert "bits" in page.inner_text("#tokens-legend")

    # A click on the map chooses the patch under it: column 3 of row 2 of the six.
    box = page.locator("#tokens-map img").bounding_box()
    page.locator("#tokens-map img").click(position={"x": box["width"] * 2.5 / 6, "y": box["height"] * 1.5 / 6})
    page.wait_for_function("document.querySelector('#tokens-patch input').value === '9'")
    page.wait_for_selector("#tokens-facts:has-text('9 (row 2, column 3)')")
    # So does a number, for keyboards; a number out of range is answered with a sentence.
    page.fill("#tokens-patch input", "99")
    page.wait_for_selector("#tokens-facts .message.error:has-text('1 to 36')")
    page.fill("#tokens-patch input", "14")
    page.wait_for_selector("#tokens-facts:has-text('14 (row 3, column 2)')")
    page.locator("#tokens-measure label", has_text="guidance gap").click()
    page.wait_for_selector("#tokens-legend:has-text('Your words'), #tokens-legend:has-text('your words')")

    tile = "#tokens-others .thumbnail-item"
    picture, words = (page.locator(f"{tile} {part}").first.bounding_box() for part in ("img", ".caption-label"))
    assert words["y"] >= picture["y"] + picture["height"], "the share stands on the picture"

    # The tokens before the patch are kept, the rest is drawn anew; then with another token in the patch.
    (old,) = [read_metadata(f) for f in served.outputs.glob(f"*_{seed}.png")]
    page.wait_for_selector("#tokens-others .caption-label:has-text('%')")
    page.click("#tokens-draw-on")
    page.wait_for_function(f"!document.querySelector('#draw-detail').innerText.includes('{before.seed}')")
    kept = newest(served)
    assert kept.settings["kept"] == 13 and kept.image_tokens[:13] == old.image_tokens[:13]
    assert kept.image_tokens != old.image_tokens and kept.seed != old.seed
    page.click("#tokens-others .thumbnail-item >> nth=2")
    page.wait_for_selector("#tokens-draw-with:not([disabled])")
    page.click("#tokens-draw-with")
    page.wait_for_function(f"!document.querySelector('#draw-detail').innerText.includes('{kept.seed}')")
    forced = newest(served)
    assert forced.settings["kept"] == 14 and forced.image_tokens[:13] == old.image_tokens[:13]
    assert forced.image_tokens[13] != old.image_tokens[13]


def test_pictures_are_ranked_and_none_is_removed(visit: Any, served: Served) -> None:
    page = visit(locale="zh-CN", viewport={"width": 390, "height": 844})
    draw_two(page)
    menu(page, "draw", "rank")
    page.wait_for_selector("#draw-runs .line:has-text('符合')")
    assert page.locator("#draw-runs .run .tile").count() == 2
    inspect(page)
    assert "比特" in page.inner_text("#tokens-legend")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the page is wider than the phone"


def test_flow_picture_has_no_token_view_and_says_why(visit: Any, served: Served) -> None:
    save_png(
        served.outputs / "flow.png", Image.new("RGB", (8, 8)),
        replace(METADATA, verb="generate", prompt="flowing", image_tokens=()),
    )  # fmt: skip
    page = visit()
    go(page, "history")
    page.wait_for_selector("#history-count:has-text(' to ')")
    wait_quiet(page)  # what opening the tab lists would come after what is searched for
    page.fill("#history-words input", "flowing")
    page.wait_for_selector("#history-count:has-text('1 to 1')")
    page.locator("#history-runs .tile").first.click()
    page.wait_for_selector("#history-picture img")
    menu(page, "history", "tokens")
    page.wait_for_selector("#tokens-status .message.error:has-text('token by token')")
    page.wait_for_selector("#draw-picture img")  # in a tab that was not opened before
    (served.outputs / "flow.png").unlink()
