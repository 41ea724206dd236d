"""Families edit in a real Chromium: three of them one picture in turn, while the user walks the tree of edits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from janus_app.outputs.metadata import ImageMetadata, read_metadata
from janus_app.registry.catalog import load_catalog
from janus_app.types import drain
from tests.browser.steps import (
    choose,
    draw,
    go,
    into_editor,
    newest,
    open_settings,
    paint,
    reopen,
    set_number,
    still_canvas,
    until,
    wait_done,
    wait_ended,
    wait_quiet,
)
from tests.page_server import Served

pytestmark = pytest.mark.browser

ASSETS = Path(__file__).parents[2] / "assets"
START = ASSETS / "examples" / "cat_and_balloons.png"
MINE = ASSETS / "drawn" / "janus-embedded.en.png"  # none of the pictures to start with
UNIPIC2 = Path(__file__).parents[1] / "golden" / "unipic2" / "ckpt_tiny"
METAQUERY = ("MetaQuery embedded", "metaquery-embedded")
STEPS = "e => e.map((b) => [Number(b.dataset.step), Number(b.closest('ol').parentElement.querySelector('button')?."
STEPS += "dataset.step || 0), b.classList.contains('here')])"
# The parts of the editor's tools that lie over its picture.
OVER = """() => {
  const picture = document.querySelector("#edit-editor .sheet").getBoundingClientRect();
  const covers = (tool) => tool.left < picture.right && tool.right > picture.left
    && tool.top < picture.bottom && tool.bottom > picture.top;
  return [...document.querySelectorAll("#edit-editor .tools :is(button, label, input)")]
    .filter((e) => e.offsetParent && covers(e.getBoundingClientRect())).map((e) => e.className);
}"""
# Tools that are cut off at the side of the stage.
CUT = """() => {
  const { left, right } = document.getElementById("edit-stage").getBoundingClientRect();
  return [...document.querySelectorAll("#edit-editor .tools :is(button, label)")].filter((e) => e.offsetParent)
    .filter((e) => e.getBoundingClientRect().left < left || e.getBoundingClientRect().right > right)
    .map((e) => e.className);
}"""
# How far the compared pictures are from where the editor shows its own, and the buttons that lie over them, in pixels.
APART = """() => {
  const shown = (image) => {
    const box = image.getBoundingClientRect();
    const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight);
    const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
    return new DOMRect(box.x + (box.width - width) / 2, box.y + (box.height - height) / 2, width, height);
  };
  const edited = document.querySelector("#edit-editor .sheet").getBoundingClientRect();
  const pair = [...document.querySelectorAll("#edit-compare img")].map(shown);
  const sides = ["left", "top", "right", "bottom"];
  const far = pair.flatMap((box) => sides.map((side) => Math.abs(box[side] - edited[side])));
  const meet = (a, b) => a.left < b.right && a.right > b.left && a.top < b.bottom && a.bottom > b.top;
  const over = [...document.querySelectorAll("#edit-compare .top-panel button")]
    .filter((button) => pair.some((box) => meet(box, button.getBoundingClientRect())));
  return [Math.round(Math.max(...far)), over.length];
}"""
SIZE = """() => {
  const { naturalWidth, naturalHeight } = document.querySelector("#edit-editor .sheet img");
  return [naturalWidth, naturalHeight];
}"""
# The share of the picture that is painted over, by columns: from the left to the right third.
PAINTED = """() => {
  const canvas = document.querySelector("#edit-editor canvas"), { width, height } = canvas;
  const data = canvas.getContext("2d").getImageData(0, 0, width, height).data, thirds = [0, 0, 0];
  for (let at = 0; at < width * height; at += 1)
    if (data[4 * at + 3] > 127) thirds[Math.floor(3 * (at % width) / width)] += 3 / (width * height);
  return thirds;
}"""


def strip(page: Any) -> tuple[dict[int, int], int]:
    """The tree in the strip: each picture's number with its parent's (0 = none), and the number in the editor."""
    rows = page.eval_on_selector_all("#edit-undo button", STEPS)
    here = [number for number, _, marked in rows if marked]
    return {number: 0 if parent == number else parent for number, parent, _ in rows}, (here or [0])[0]


def wait_here(page: Any, number: int) -> None:
    page.wait_for_selector(f"#edit-undo button.here[data-step='{number}']")
    page.wait_for_selector("body:not(.arriving)")


def load(page: Any, served: Served, title: str, name: str) -> None:
    choose(page, title)
    assert served.session.state.variant_id == name


def edit(page: Any, served: Served, prompt: str) -> ImageMetadata:
    """Run; returns the metadata of the new picture."""
    page.fill("#edit-prompt textarea", prompt)
    before = set(served.outputs.glob("*.png"))
    page.click("#edit-run")
    wait_done(page, "edit")
    assert set(served.outputs.glob("*.png")) - before
    page.wait_for_selector("#edit-compare img")
    record = read_metadata(newest(served.outputs))
    assert record.prompt == prompt
    return record


def test_three_families_edit_and_every_picture_stays_in_the_tree(
    visit: Any, served: Served, pictures: list[str]
) -> None:
    pytest.importorskip("diffusers")
    page = visit()
    page.set_default_timeout(90_000)

    # Janus: a painted region. The result becomes the next picture to edit.
    load(page, served, "Janus embedded", "janus-embedded")
    go(page, "edit")
    canvas = into_editor(page, lambda: page.set_input_files("#edit-editor input[type=file]", str(START)))
    assert "Paint over the area" in page.inner_text("#edit-method-note")
    page.locator("#edit-editor button[aria-label=Brush]").click()
    paint(page, canvas)
    record = edit(page, served, "a red cat to the left of a blue house")
    assert (record.model, record.settings["method"]) == ("janus-embedded", "region")
    wait_here(page, 2)
    assert strip(page) == ({1: 0, 2: 1}, 2)

    # JanusFlow: two descriptions; the first is the prompt of the picture. The tree survives the switch.
    load(page, served, "JanusFlow embedded", "janusflow-embedded")
    page.locator("#edit-method label", has_text="Before/after prompts").click()
    page.wait_for_selector("#edit-source-prompt:visible")
    assert page.input_value("#edit-source-prompt textarea") == "a red cat to the left of a blue house"
    assert "Paint" not in page.inner_text("#edit-method-note")
    assert not page.locator("#edit-editor button[aria-label=Brush]").is_visible()
    open_settings(page, "edit")
    set_number(page, "#edit-steps", 3)
    record = edit(page, served, "a red cat to the left of a green house")
    assert (record.settings["method"], record.source_prompt) == ("flowedit", "a red cat to the left of a blue house")
    wait_here(page, 3)

    # MetaQuery: an instruction, and a second picture to start from.
    load(page, served, *METAQUERY)
    page.wait_for_selector("#edit-prompt:has-text('What to change')")
    set_number(page, "#edit-steps", 2)
    assert page.locator("#edit-more").bounding_box()["height"] == 44
    assert page.locator("#edit-more label").evaluate("e => e.scrollHeight <= e.clientHeight"), "its words do not fit"
    page.set_input_files("#edit-more input[type=file]", pictures[:1])
    page.wait_for_selector("#edit-more img")
    record = edit(page, served, "make the cat blue")
    assert (record.model, record.settings["method"]) == (METAQUERY[1], "instruct")
    wait_here(page, 4)
    assert strip(page) == ({1: 0, 2: 1, 3: 2, 4: 3}, 4)
    assert not page.inner_text("#edit-undo").strip(), "something is written on the pictures"
    page.set_viewport_size({"width": 1440, "height": 900})
    page.evaluate("window.scrollTo(0, 0)")
    boxes = [page.locator(place).bounding_box() for place in ("#edit-undo-back", "#edit-undo-reset", "#edit-undo")]
    assert all(box["y"] + min(box["height"], 44) <= 900 for box in boxes), "undo and clear are out of sight"
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] and boxes[1]["x"] + boxes[1]["width"] <= boxes[2]["x"]

    # Back to the beginning; a new branch from there, while the beginning stays in the editor.
    for number in (3, 2, 1):
        page.click("#edit-undo-back")
        wait_here(page, number)
    page.locator("#edit-go-on input").uncheck()
    edit(page, served, "make it night")
    page.wait_for_selector("#edit-undo button[data-step='5']")
    assert strip(page) == ({1: 0, 2: 1, 3: 2, 4: 3, 5: 1}, 1)

    # A click shows any picture of the tree, beside the one it was made from.
    page.click("#edit-undo button[data-step='3']")
    wait_here(page, 3)
    page.click("#edit-details > .label-wrap")
    page.wait_for_selector("#edit-detail:has-text('JanusFlow embedded')")
    page.click("#edit-undo-reset")
    page.wait_for_selector("#edit-undo button", state="detached")


def test_one_click_switches_to_a_model_that_follows_an_instruction(visit: Any, served: Served) -> None:
    page = visit()
    go(page, "edit")
    page.locator("#edit-method label", has_text="Instruction").click()
    page.wait_for_selector("#edit-switch:visible")
    title = page.inner_text("#edit-switch").removeprefix("Switch to ")
    page.click("#edit-switch")
    page.wait_for_selector("#edit-switch", state="hidden")
    page.wait_for_selector(f".state-line.ready:has-text('{title}')")
    page.wait_for_selector("#edit-prompt:has-text('What to change')")
    page.wait_for_selector("#edit-run:visible")
    open_settings(page, "edit")
    set_number(page, "#edit-steps", 2)
    record = edit(page, served, "make the house blue")
    assert record.settings["method"] == "instruct" and record.model == served.session.state.variant_id
    assert "which is loaded now" not in page.inner_text("#edit-notes"), "the tab still wants the model before"
    shown = page.get_attribute("#edit-picture [data-full]", "data-full")
    page.click("#edit-ask")
    page.wait_for_selector(f"#chat-box img[src='{shown}']")


def test_suggestions_follow_the_picture_and_what_was_typed_stays(visit: Any, served: Served) -> None:
    page = visit()
    go(page, "edit")
    page.locator("#edit-method label", has_text="Instruction").click()
    page.wait_for_selector("#edit-examples button:has-text('make the house blue')")
    page.click("[data-start='beach']")
    page.wait_for_selector("#edit-examples button:has-text('remove the umbrella')")
    page.wait_for_function("document.querySelector('#edit-prompt textarea').value === 'remove the umbrella'")
    assert "house" not in page.inner_text("#edit-examples")
    page.fill("#edit-prompt textarea", "make the boat red")
    wait_quiet(page)
    into_editor(page, lambda: page.set_input_files("#edit-editor input[type=file]", str(MINE)))
    page.wait_for_selector("#edit-examples button", state="hidden")
    wait_quiet(page)
    assert page.input_value("#edit-prompt textarea") == "make the boat red"
    page.click("#edit-undo button[data-step='1']")
    page.wait_for_selector("#edit-examples button:has-text('make the dog pink')")
    assert page.input_value("#edit-prompt textarea") == "make the boat red"


def test_save_and_ask_take_the_picture_on_the_canvas(visit: Any, served: Served) -> None:
    page = visit()
    draw(page, "a red circle", 1, 4_500)
    wait_done(page)
    drawn = newest(served.outputs)
    into_editor(page, lambda: page.click("#draw-to-edit"))
    page.locator("#edit-method label", has_text="Image to image").click()
    edit(page, served, "a blue circle")
    result = newest(served.outputs)
    wait_here(page, 2)

    def saved() -> bytes:
        with page.expect_download() as download:
            page.click("#edit-save")
        wait_quiet(page)
        return Path(download.value.path()).read_bytes()

    assert saved() == result.read_bytes(), "the comparison shows the result"
    page.click("#edit-undo-back")
    wait_here(page, 1)
    assert page.is_visible("#edit-editor .sheet") and saved() == drawn.read_bytes()
    page.locator("#edit-view label").first.click()
    page.wait_for_selector("#edit-compare img:visible")
    assert saved() == result.read_bytes()
    page.click("#edit-undo button[data-step='1']")  # it is in the editor, which does not show it anew
    page.wait_for_selector("#edit-compare img", state="hidden")
    page.click("#edit-ask")
    page.wait_for_selector(f"#chat-box img[src*='{drawn.name}']")

    # A picture of the user: nothing was drawn that could be saved.
    go(page, "edit")
    into_editor(page, lambda: page.set_input_files("#edit-editor input[type=file]", str(START)))
    page.wait_for_selector("#edit-verbs", state="hidden")
    page.locator("#edit-view label").first.click()
    page.wait_for_selector("#edit-save:visible")
    assert saved() == result.read_bytes()


def test_unipic2_draws_in_a_size_of_its_own_and_edits_that_picture(visit: Any, served: Served) -> None:
    pytest.importorskip("diffusers")
    served.session.catalog.include(replace(load_catalog().resolve(str(UNIPIC2)), id="tiny-up", title="Tiny UniPic2"))
    drain(served.session.load("tiny-up", device="cpu"))
    page = visit()
    wait_quiet(page)
    open_settings(page, "draw")
    for place, value in (("#draw-width", 256), ("#draw-height", 320), ("#draw-steps", 2)):
        set_number(page, place, value)
    draw(page, "a fox", 1, 4_400)
    wait_done(page)
    drawn = read_metadata(newest(served.outputs))
    assert (drawn.family, drawn.size, drawn.settings["steps"]) == ("unipic2", (256, 320), 2)

    into_editor(page, lambda: page.click("#draw-to-edit"))
    open_settings(page, "edit")
    set_number(page, "#edit-steps", 2)
    edited = edit(page, served, "make it night")
    assert (edited.model, edited.settings["method"], edited.settings["steps"]) == ("tiny-up", "instruct", 2)
    assert edited.size == (320, 384), "the proportions are kept"

    drain(served.session.load("tiny-a", device="cpu"))  # of one size
    go(page, "draw")
    page.wait_for_selector("#draw-steps", state="hidden")
    assert not page.locator("#draw-width").is_visible() and not page.locator("#draw-height").is_visible()


def test_editor_takes_no_stroke_until_its_next_picture_is_there(visit: Any, served: Served) -> None:
    page = visit()
    go(page, "draw")
    draw(page, "a red circle", 1, 4_300)
    wait_done(page)
    held: list[Any] = []
    # A repeated test draws another file of the same seed.
    page.route("**/*_4300*.png", lambda route: route.continue_() if "released" in held else held.append(route))
    page.click("#draw-to-edit")
    page.wait_for_selector("body.arriving")
    until(lambda: held, page, lambda: "the editor did not ask for its picture")
    box = page.locator("#edit-editor .board").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    canvas = into_editor(page, lambda: release(held))
    assert max(page.evaluate(PAINTED)) == 0
    paint(page, canvas)
    page.click("#edit-run")
    wait_done(page, "edit")
    assert "Nothing is painted" not in page.inner_text("#edit-notes")


def test_strokes_can_be_taken_back_erased_swapped_and_survive_a_refresh(visit: Any) -> None:
    page = visit("#edit")
    canvas = still_canvas(page)
    act = "#edit-editor [data-act={}]".format

    def share() -> float:
        return sum(page.evaluate(PAINTED)) / 3

    assert share() == 0 and page.is_disabled(act("undo")) and page.is_disabled(act("redo"))
    paint(page, canvas)
    once = share()
    assert 0.01 < once < 0.2
    page.keyboard.press("]")
    stroke(page, canvas, 0.1, 0.9)
    twice = share()
    assert twice > once
    page.keyboard.press("Control+z")
    assert share() == pytest.approx(once, abs=1e-3)
    page.click(act("redo"))
    assert share() == pytest.approx(twice, abs=1e-3)
    page.click(act("invert"))
    assert share() == pytest.approx(1 - twice, abs=0.01)
    page.click(act("invert"))
    page.keyboard.press("e")
    assert page.get_attribute(act("eraser"), "aria-pressed") == "true"
    stroke(page, canvas, 0.1, 0.9)
    assert share() < twice
    page.keyboard.press("b")
    erased = page.evaluate(PAINTED)
    reopen(page)
    still_canvas(page)
    assert page.evaluate(PAINTED) == pytest.approx(erased, abs=1e-3)
    page.click(act("wipe"))
    assert share() == 0
    page.fill("#edit-prompt textarea", "a blue star")
    page.click("#edit-run")
    assert "Nothing is painted" in wait_ended(page, "error", "edit")

    # A larger view moves nothing that is painted, and a stroke there lands under the pointer.
    stroke(page, canvas, 0.1, 0.2)
    left = page.evaluate(PAINTED)
    width = canvas.bounding_box()["width"]
    for _ in range(3):
        page.click(act("in"))
    assert canvas.bounding_box()["width"] == pytest.approx(width * 1.25**3, abs=2)
    assert page.evaluate(PAINTED) == left
    board = page.locator("#edit-editor .board").bounding_box()
    page.mouse.click(board["x"] + board["width"] / 2, board["y"] + board["height"] / 2)
    middle = page.evaluate(PAINTED)
    assert middle[0] == left[0] and middle[1] > 0 and middle[2] == 0
    page.click(act("fit"))
    assert canvas.bounding_box()["width"] == pytest.approx(width, abs=1)


def test_two_fingers_zoom_and_paint_nothing(visit: Any) -> None:
    page = visit("#edit", viewport={"width": 390, "height": 844})
    canvas = still_canvas(page)
    width = canvas.bounding_box()["width"]
    page.evaluate(
        """() => {
          const canvas = document.querySelector("#edit-editor canvas"), box = canvas.getBoundingClientRect();
          canvas.setPointerCapture = () => {};
          const send = (type, pointerId, x) => canvas.dispatchEvent(new PointerEvent(type, {
            pointerId, pointerType: "touch", isPrimary: pointerId === 1, bubbles: true,
            clientX: box.x + x * box.width, clientY: box.y + box.height / 2 }));
          send("pointerdown", 1, 0.4);
          send("pointermove", 1, 0.38);
          send("pointerdown", 2, 0.6);
          send("pointermove", 1, 0.3);
          send("pointermove", 2, 0.7);
          send("pointerup", 1, 0.3);
          send("pointerup", 2, 0.7);
        }"""
    )
    assert canvas.bounding_box()["width"] > 1.5 * width
    assert max(page.evaluate(PAINTED)) == 0


def test_a_photo_and_a_pasted_picture_come_into_the_editor(visit: Any) -> None:
    page = visit("#edit")
    still_canvas(page)
    page.evaluate(
        """() => {
          const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 48 });
          setInterval(() => canvas.getContext("2d").fillRect(0, 0, 64, 48), 50);
          navigator.mediaDevices.getUserMedia = async () => canvas.captureStream(5);
        }"""
    )
    page.click("#edit-editor [data-act=photo]")
    page.wait_for_function("document.querySelector('#edit-editor video').videoWidth === 64")
    into_editor(page, lambda: page.click("#edit-editor dialog .primary"))
    assert page.evaluate(SIZE) == [64, 48]
    page.evaluate("() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new Error('none')); }")
    page.click("#edit-editor [data-act=photo]")
    page.wait_for_selector("#edit-editor dialog:has-text('No camera')")
    page.keyboard.press("Escape")

    pasted = """(data) => {
      const clipboardData = new DataTransfer();
      clipboardData.items.add(new File([new Uint8Array(data)], "pasted.png"));
      document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
    }"""
    into_editor(page, lambda: page.evaluate(pasted, list(MINE.read_bytes())))
    assert page.evaluate(SIZE) == [192, 192]


def stroke(page: Any, canvas: Any, start: float, end: float) -> None:
    """A level stroke over the middle of the picture, between two shares of its width."""
    box = canvas.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], y, steps=8)
    page.mouse.up()


def release(held: list[Any]) -> None:
    routes, held[:] = [*held], ["released"]
    for route in routes:
        route.continue_()


def test_editor_takes_every_picture_that_the_chat_takes(visit: Any, served: Served, tmp_path: Path) -> None:
    page = visit()
    go(page, "edit")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    files = {"two.tif": "TIFF", "cmyk.jpg": "JPEG", "pearl.jp2": "JPEG2000", "no-name": "PNG", "turned.webp": "WEBP"}
    for number, (name, format) in enumerate(files.items()):
        picture = Image.new("RGB", (40, 20), (40 * number, 90, 200))  # a known picture would not be sent again
        mode = "CMYK" if "cmyk" in name else "RGB"
        extra = {"exif": rotated.tobytes()} if format == "WEBP" else {}
        picture.convert(mode).save(tmp_path / name, format, **extra)
        into_editor(page, lambda name=name: give(page, tmp_path / name))
        size = page.evaluate(SIZE)
        assert size == ([20, 40] if format == "WEBP" else [40, 20]), name
        assert not page.inner_text("#edit-editor-note").strip()

    whole = START.read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    give(page, tmp_path / "cut.png")
    page.wait_for_selector("#edit-editor-note .message.error:has-text('cut.png')")
    (tmp_path / "letter").write_text("Dear sir,")
    give(page, tmp_path / "letter", drop=True)
    page.wait_for_selector("#edit-editor-note .message.error:has-text('letter')")
    into_editor(page, lambda: give(page, tmp_path / "two.tif", drop=True))
    assert not page.inner_text("#edit-editor-note").strip()


def test_tools_of_the_editor_lie_beside_its_picture(visit: Any, tmp_path: Path) -> None:
    page = visit()
    go(page, "edit")
    for name, size in (("square.png", (300, 300)), ("wide.png", (400, 150))):
        Image.new("RGB", size, (40, 120, 60)).save(tmp_path / name)
        into_editor(page, lambda name=name: give(page, tmp_path / name))
        for width, height in ((1440, 900), (1024, 768), (390, 844)):
            page.set_viewport_size({"width": width, "height": height})
            still_canvas(page)
            assert page.evaluate(OVER) == [] == page.evaluate(CUT), f"{name} at {width} pixels"


def test_comparison_stands_where_the_editor_stood(visit: Any, served: Served) -> None:
    page = visit(viewport={"width": 1024, "height": 768})
    go(page, "edit")
    still_canvas(page)
    page.locator("#edit-method label").last.click()  # needs no strokes
    edit(page, served, "a red circle")
    wait_here(page, 2)
    for width, height in ((1440, 900), (1024, 768), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        until(lambda: page.evaluate(APART)[0] <= 1, page, lambda: f"moved and covered: {page.evaluate(APART)}")
        assert page.evaluate(APART)[1] == 0, f"a button lies on the picture at {width} pixels"


def give(page: Any, file: Path, drop: bool = False) -> None:
    """Choose a file in the editor, or drop it there."""
    if not drop:
        page.set_input_files("#edit-editor input[type=file]", str(file))
        return
    page.evaluate(
        """([data, name]) => {
          const files = new DataTransfer();
          files.items.add(new File([new Uint8Array(data)], name));
          const event = new DragEvent("drop", {dataTransfer: files, bubbles: true, cancelable: true});
          document.querySelector("#edit-editor .board").dispatchEvent(event);
        }""",
        [list(file.read_bytes()), file.name],
    )
