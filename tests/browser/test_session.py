"""A user's session on the page, in a real Chromium with a real session (tiny checkpoints of random weights)."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from janus_app.errors import Message
from janus_app.outputs.metadata import read_metadata
from janus_app.types import Event, Notice, Progress, drain
from janus_app.ui.common.running import Run
from janus_app.ui.tabs.models import model_drawer, model_line
from tests.browser.steps import (
    ENGLISH,
    TABS,
    answer,
    captions,
    choose,
    draw,
    go,
    into_editor,
    newest,
    open_drawer,
    open_settings,
    paint,
    reopen,
    set_number,
    settle,
    until,
    wait_done,
    wait_ended,
    wait_nothing_runs,
    wait_quiet,
)
from tests.browser.test_edits import release
from tests.browser.test_history import late_answer, stored
from tests.page_server import Served

pytestmark = pytest.mark.browser


def test_chat_draw_cancel_edit_restore_and_switch_in_one_session(
    visit: Any, served: Served, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit()

    # Chat about two pictures over two turns; the answer streams and the context fills.
    go(page, "chat")
    page.set_input_files("#chat-box input[type=file]", pictures)
    page.wait_for_function(
        "document.querySelectorAll('#chat-box .thumbnail-item, #chat-box .thumbnail-image').length >= 2"
    )
    assert answer(page, "What is different?", 1)
    first = page.inner_text("#chat-context")
    assert page.evaluate("window.seen.answers.size") >= 3, "the answer did not stream"
    assert page.locator("#chat-bot .user.message img, #chat-bot .user img").count() >= 2
    assert answer(page, "And now?", 2)
    used = [int(re.search(r"(\d+) of 512", text)[1]) for text in (first, page.inner_text("#chat-context"))]  # type: ignore[index]
    assert used[1] > used[0]

    # Draw two pictures and watch them grow.
    go(page, "draw")
    draw(page, "a red circle", 2, 1234)
    wait_done(page)
    assert page.evaluate("window.seen.sheets.size") >= 4, "no rows appeared"
    assert captions(page) == ["seed 1234", "seed 1235"]
    assert any("tokens" in line and "Drawing" in line for line in page.evaluate("window.seen.status"))

    # Cancel a third midway, with the key; slowly, because a busy machine takes a moment to react.
    before = set(served.outputs.glob("*.png"))
    with monkeypatch.context() as slowly:
        slowly.setattr(served.session, "pace", 0.5)
        draw(page, "never finished", 16, 99_000)
        page.wait_for_selector("#draw-easel img")
        page.keyboard.press("Escape")
        wait_ended(page, "stopped")
    until(lambda: served.session.state.phase == "ready", page, lambda: "Stop did not free the session")
    assert set(served.outputs.glob("*.png")) == before

    # Send the first picture to the editor, paint, draw the region anew.
    page.click("#draw-runs [data-picture='0']")
    paint(page, into_editor(page, lambda: page.click("#draw-to-edit")))
    open_settings(page, "edit")
    set_number(page, "#edit-count", 8)
    page.click("#edit-run")
    wait_done(page, "edit")
    page.wait_for_selector("#edit-compare img")
    assert page.locator("#edit-sides span:visible").all_inner_texts() == ["Before", "After"]
    drawn = sorted(served.outputs.glob("*.png"), key=lambda file: file.stat().st_mtime_ns)[-8:]
    edits = [read_metadata(file) for file in drawn]
    assert {(e.verb, e.prompt, e.settings["method"]) for e in edits} == {("edit", "a red circle", "region")}
    varying = sum(len(set(cell)) > 1 for cell in zip(*(e.image_tokens for e in edits), strict=True))
    assert 0 < varying < len(edits[0].image_tokens) / 2, "eight seeds differ, and only in the painted region"
    original = next(served.outputs.glob("*_1234.png"))

    # Restore the settings from the saved file, and draw it again bit for bit from its tokens.
    go(page, "draw")
    page.fill("#draw-prompt textarea", "something else")
    open_settings(page, "draw")
    page.locator("#draw-from > .label-wrap").click()
    page.set_input_files("#draw-drop input[type=file]", str(original))
    page.wait_for_selector("#draw-drop-note .message.done")
    assert page.input_value("#draw-prompt textarea") == "a red circle"
    assert page.input_value("#draw-seed input") == "1234"
    page.click("#draw-exact")
    wait_done(page)
    again = newest(served.outputs)
    assert again != original
    assert ImageChops.difference(Image.open(again), Image.open(original)).getbbox() is None

    # Switch the variant: settings and examples follow.
    choose(page, "Tiny B")
    page.wait_for_selector("#draw-example-0:has-text('Tiny B')")
    assert served.session.state.variant_id == "tiny-b"
    drain(served.session.load("tiny-a", device="cpu"))


# A line on which the end of the stream of outcomes comes two seconds late.
LATE_END = """const ask = window.fetch; window.fetch = async (...request) => {
  const answer = await ask(...request);
  if (!(request[0] instanceof Request) || !request[0].url.includes("/queue/data")) return answer;
  window.ends = 0;
  const read = new TextDecoder(), write = new TextEncoder();
  const transform = async (part, out) => {
    const text = read.decode(part, { stream: true }), end = text.indexOf('data: {"msg":"close_stream"');
    out.enqueue(write.encode(end < 0 ? text : text.slice(0, end)));
    if (end < 0) return;
    window.ends += 1;
    await new Promise((go) => setTimeout(go, 2000));
    out.enqueue(write.encode(text.slice(end)));
  };
  return new Response(answer.body.pipeThrough(new TransformStream({ transform })), answer);
};"""


def test_page_hears_of_a_job_that_it_asks_for_while_the_last_one_is_ending(visit: Any) -> None:
    page = visit(script=LATE_END)
    draw(page, "a red circle", 1, 71)
    wait_done(page)
    page.wait_for_function("window.ends")
    draw(page, "a red circle", 1, 72)
    wait_done(page)
    assert captions(page)[0] == "seed 72"
    wait_quiet(page)


# A line on which the answers to questions for the queue come when the test lets them, `window.late` no more.
LATE_ANSWER = """const ask = window.fetch; window.fetch = async (...request) => {
  const answer = await ask(...request);
  while (window.late && String(request[0]).includes("/queue/join")) await new Promise((go) => setTimeout(go, 10));
  return answer;
};"""


def test_stream_of_outcomes_ends_where_a_job_is_over_before_the_page_knows_its_id(visit: Any, served: Served) -> None:
    page = visit("#edit", script=LATE_ANSWER)
    wait_quiet(page)
    with served.session.held():
        go(page, "draw")
        draw(page, "a red circle", 1, 73)
        page.wait_for_selector("#draw-stop:visible")
        page.evaluate("window.late = true")
        go(page, "edit")
        with page.expect_response(lambda answer: "/queue/join" in answer.url):
            page.click("#edit-start [data-start='beach']")
    go(page, "draw")
    wait_done(page)
    page.evaluate("window.late = false")
    wait_quiet(page)
    go(page, "edit")
    page.click("#edit-undo-back")  # the next job of the queue
    page.get_by_text(ENGLISH["undo_top"]).wait_for()
    wait_quiet(page)
    assert not page.errors


def test_two_browser_tabs_wait_for_each_other_and_do_not_mix(visit: Any, served: Served) -> None:
    one, two = visit(), visit()
    for page in (one, two):
        go(page, "draw")
    draw(one, "first visitor", 16, 40_000)
    one.wait_for_selector("#draw-stop:visible")
    draw(two, "second visitor", 2, 50_000)
    wait_done(one)
    wait_done(two)
    assert any("in line" in line for line in two.evaluate("window.seen.status")), "the place in the queue was not shown"
    assert captions(one) == [f"seed {40_000 + i}" for i in range(16)]
    assert captions(two) == ["seed 50000", "seed 50001"]
    assert read_metadata(next(served.outputs.glob("*_50001.png"))).prompt == "second visitor"


def test_bad_input_gives_a_sentence_and_the_page_still_works(visit: Any, tmp_path: Path) -> None:
    page = visit()
    go(page, "draw")
    draw(page, "   ", 1, 5)
    assert "empty" in wait_ended(page, "error")
    open_settings(page, "draw")
    page.locator("#draw-from > .label-wrap").click()
    foreign = tmp_path / "foreign.png"
    Image.new("RGB", (20, 20)).save(foreign)
    page.set_input_files("#draw-drop input[type=file]", str(foreign))
    page.wait_for_selector("#draw-drop-note .message.error")
    draw(page, "<b>bold</b> circle", 1, 5)
    wait_done(page)
    assert page.locator("#draw-detail b").count() == 0
    go(page, "edit")
    page.fill("#edit-prompt textarea", "a blue star")
    page.click("#edit-run")
    assert "Nothing is painted" in wait_ended(page, "error", "edit")
    page.click("#edit-editor button[aria-label='Clear canvas']")
    page.click("#edit-run")
    assert "no picture to edit" in wait_ended(page, "error", "edit")


def test_chinese_browser_gets_chinese(visit: Any) -> None:
    page = visit(locale="zh-CN")
    go(page, "draw")
    page.wait_for_selector("#draw-run:has-text('开始绘画')")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    for tab in TABS:
        go(page, tab)
        settle(page)
        words = page.inner_text("body").replace("DeepSeek Model License", "")  # a proper name
        english = re.findall(r"\b(?:Draw|Edit|Load|Stop|Settings|Seed|Prompt|Model|Chat|Upload)\b", words)
        assert not english, english
    go(page, "draw")
    draw(page, " ", 1, 1)
    page.wait_for_selector("#draw-notes .message.error:has-text('请先输入')")


def test_selftest_shows_its_lines_survives_a_refresh_and_stops_on_request(visit: Any) -> None:
    page = visit()
    open_drawer(page)
    page.click("#model-machine button")
    page.click("#machine-selftest")
    page.wait_for_selector("#machine-findings .finding.ok >> nth=1")  # the machine, the ceilings
    assert page.is_visible("#machine-work [role=progressbar]")
    reopen(page)
    open_drawer(page)
    page.click("#model-machine button")
    page.wait_for_selector("#machine-findings .finding.ok >> nth=1")
    page.click("#machine-stop")
    page.wait_for_selector("#machine-work:has-text('The self-test was stopped.')")
    page.wait_for_selector("#machine-selftest:enabled")
    page.wait_for_selector("#machine-stop", state="hidden")
    assert page.locator("#machine-findings .finding").count() >= 2, "what was found stays"


def test_drawing_survives_a_refresh_with_its_prompt_and_gallery_and_can_be_stopped_after(
    visit: Any, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, other = visit(), visit()
    for each in (page, other):
        go(each, "draw")
    draw(page, "drawn before", 1, 31_000)
    wait_done(page)
    with served.session.held():
        draw(page, "still drawing", 2, 32_000)
        page.wait_for_selector("#draw-stop:visible")
        page.fill("#draw-prompt textarea", "not sent yet")
        set_number(page, "#draw-count", 3)
        go(page, "chat")
        page.fill("#chat-box textarea", "before the refresh")
        with late_answer(page, served, "join_again") as held:
            page.reload()
            until(lambda: held, page, lambda: "the page does not ask what it showed before")
            page.wait_for_selector("#chat-box textarea")
            page.fill("#chat-box textarea", "entered meanwhile")
        page.wait_for_function("document.querySelector('#draw-prompt textarea').value === 'not sent yet'")
        wait_put_back(page, "#draw-count", "3")
        assert page.input_value("#chat-box textarea") == "entered meanwhile"
        go(page, "draw")
        page.wait_for_selector("#draw-stop:visible")
        page.wait_for_selector("#draw-easel .easel")
        assert gallery(page) == [["seed 31000"]]
        reopen(other)
        assert not gallery(other) and not other.locator("#draw-stop").is_visible(), "another tab joined the job"
    wait_done(page)
    assert gallery(page) == [["seed 32000", "seed 32001"], ["seed 31000"]]

    # A refresh shows what was drawn, and Stop ends a job that was joined again.
    stop, stopped = Run.stop, threading.Event()
    monkeypatch.setattr(Run, "stop", lambda run: (stop(run), stopped.set()))
    with served.session.held():
        draw(page, "never finished", 1, 33_000)
        page.wait_for_selector("#draw-stop:visible")
        reopen(page)
        page.click("#draw-stop")
        assert stopped.wait(60)
    wait_ended(page, "stopped")
    assert gallery(page) == [["seed 32000", "seed 32001"], ["seed 31000"]]
    assert not list(served.outputs.glob("*_33000.png"))
    assert not page.errors + other.errors, "errors in the console"


def test_edit_survives_a_refresh_with_its_prompt_and_the_tree_of_its_pictures(visit: Any, served: Served) -> None:
    page = visit("#edit")
    go(page, "edit")
    paint(page, into_editor(page, lambda: page.click("#edit-start [data-start='beach']")))
    page.fill("#edit-prompt textarea", "a red boat")
    with served.session.held():
        page.click("#edit-run")
        page.wait_for_selector("#edit-easel .easel")
        reopen(page)
        page.wait_for_selector("#edit-stop:visible")
        page.wait_for_selector("#edit-easel .easel")
        assert page.input_value("#edit-prompt textarea") == "a red boat"
        assert page.locator("#edit-undo button").count() == 1, "the picture that is edited"
    wait_done(page, "edit")
    for _ in range(2):  # where it ended, and after another refresh
        page.wait_for_selector("#edit-undo button.here[data-step='2']")
        page.wait_for_selector("#edit-compare img:visible")
        assert page.locator("#edit-run").is_visible() and page.locator("#edit-undo button").count() == 2
        reopen(page)


def test_settings_and_picture_of_the_edit_tab_survive_a_refresh_before_and_while_it_runs(
    visit: Any, served: Served
) -> None:
    page = visit("#edit")
    go(page, "edit")
    into_editor(page, lambda: page.click("#edit-start [data-start='beach']"))
    page.locator("#edit-method label", has_text="Image to image").click()
    wait_quiet(page)  # the examples of that way have arrived
    page.fill("#edit-prompt textarea", "a red boat")
    open_settings(page, "edit")
    numbers = {"#edit-strength": "0.35", "#edit-guidance": "7", "#edit-seed": "4321"}
    page.locator("#edit-fresh input").uncheck()
    page.locator("#edit-go-on input").uncheck()
    for place, value in numbers.items():
        set_number(page, place, float(value))

    def as_entered(running: bool = False) -> None:
        settle(page)  # the page has taken what was entered
        wait_quiet(page, running)
        reopen(page)
        page.wait_for_selector("#edit-undo button.here")
        page.wait_for_selector("body:not(.arriving)")
        page.wait_for_selector("#edit-settings > .label-wrap.open")  # as it was left
        for place, value in numbers.items():
            wait_put_back(page, place, value)
        wait_quiet(page, running)
        assert page.locator("#edit-method label:has-text('Image to image') input").is_checked()
        assert not page.locator("#edit-go-on input").is_checked() and not page.locator("#edit-fresh input").is_checked()
        assert {place: page.input_value(f"{place} input[type=number]") for place in numbers} == numbers
        assert page.locator("#edit-undo button").count() == 1, "the picture to edit"

    as_entered()
    assert page.input_value("#edit-prompt textarea") == "a red boat"
    with served.session.held():
        page.click("#edit-run")
        page.wait_for_selector("#edit-easel .easel")
        page.fill("#edit-prompt textarea", "not sent yet")
        as_entered(running=True)
        page.wait_for_selector("#edit-stop:visible")
        page.wait_for_selector("#edit-easel .easel")
        assert page.input_value("#edit-prompt textarea") == "not sent yet"
    wait_done(page, "edit")
    wait_quiet(page)  # the strip has the result
    page.click("#edit-run")
    wait_done(page, "edit")
    before, after = (read_metadata(file) for file in sorted(served.outputs.glob("*_4321*.png"), key=modified)[-2:])
    assert (before.prompt, after.prompt) == ("a red boat", "not sent yet")
    for record in (before, after):
        assert (record.settings["method"], record.settings["strength"]) == ("variation", 0.35)
        assert (record.settings["guidance"], record.seed) == (7, 4321)
    wait_quiet(page)
    assert page.locator("#edit-undo li li").count() == 2, "both were made from the same picture"
    assert not page.errors


def test_new_chat_takes_the_next_question_at_once_while_an_answer_is_written(visit: Any, served: Served) -> None:
    page = visit()
    go(page, "chat")
    with served.session.held(3):  # longer than a stopped answer is waited for
        page.fill("#chat-box textarea", "asked before")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#chat-status:has-text('tokens')")
        page.click("#chat-clear")
        page.wait_for_selector("#chat-bot .message", state="detached")
        page.wait_for_selector("#chat-box .submit-button:visible")
        page.fill("#chat-box textarea", "asked after")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#chat-bot .user.message:has-text('asked after')")
    page.wait_for_selector("#chat-context .meter")
    wait_nothing_runs(page)
    wait_quiet(page)
    assert page.locator("#chat-bot .user.message").count() == 1 and page.is_visible("#chat-box .submit-button")
    assert page.locator("#chat-list li:has-text('asked after')").count() == 1
    until(lambda: "asked before" in str(stored(served)), page, lambda: "what was written before is lost")


def test_what_clear_took_from_the_editor_stays_away_after_a_refresh(visit: Any) -> None:
    page = visit("#edit")
    go(page, "edit")
    for clear in ("#edit-undo-reset", "#edit-editor button[aria-label='Clear canvas']"):
        into_editor(page, lambda: page.click("#edit-start [data-start='beach']"))
        page.click(clear)
        page.wait_for_selector("#edit-undo button.here", state="detached")
        wait_quiet(page)
        for when in ("before", "after"):
            page.fill("#edit-prompt textarea", "a red boat")
            page.click("#edit-run")
            assert "no picture to edit" in wait_ended(page, "error", "edit"), (clear, when)
            reopen(page)
            page.wait_for_selector("#edit-editor .canvas.empty")
            wait_quiet(page)


def test_no_status_outlives_a_job_that_was_stopped_or_failed(
    visit: Any, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the fit advisor says of every model takes seconds, and the page would still be asking.
    monkeypatch.setattr(model_drawer, "fits", lambda page, variants: iter(()))
    page, session, fail = visit("#edit"), served.session, threading.Event()
    page.locator("#edit-method label", has_text="Image to image").click()  # of the example, nothing painted
    page.fill("#edit-prompt textarea", "a red boat")

    def endless(*given: Any, **more: Any) -> Iterator[Event]:
        yield Notice(Message("prompt_cut", limit=9, end="a"))
        while not fail.wait(0.2):
            yield Progress("draw", 1, 9, "tokens", "a detail")
        raise RuntimeError("broken")

    def chat() -> None:
        page.fill("#chat-box textarea", "What is it?")
        page.wait_for_selector("#chat-box .submit-button:visible")
        page.keyboard.press("Control+Enter")

    def grid() -> None:
        page.get_by_role("tab", name="Grid of settings").click()
        page.click("#grid-run")

    def load() -> None:
        open_drawer(page)
        page.locator("#model-list button", has_text="Tiny B").click()

    kinds = (
        ("draw", lambda: page.click("#draw-run"), "#draw-stop", "#draw-status"),
        ("edit", lambda: page.click("#edit-run"), "#edit-stop", "#edit-status"),
        ("chat", chat, "[data-chat-stop]", "#chat-bot"),
        ("compare", lambda: page.click("#compare-run"), "#compare-stop", "#compare-status"),
        ("compare", grid, "#grid-stop", "#compare-status"),
        ("compare", load, "#model-cancel", "#model-work"),
    )
    monkeypatch.setattr(session, "run", endless)
    monkeypatch.setattr(session, "load", endless)
    for ending in ("stopped", "failed"):
        for tab, begin, stop, place in kinds:
            go(page, tab)
            if begin is not grid and tab == "compare":
                page.get_by_role("tab", name="Side by side").click()
            fail.clear()
            begin()
            page.wait_for_selector(f"{place} [role=progressbar]")
            page.click(stop) if ending == "stopped" else fail.set()
            wait_nothing_runs(page)
            wait_quiet(page)
            wait_nothing_runs(page)
        if page.locator("#model-drawer.open").count():
            page.click("#model-head [data-janus=drawer]")
            page.wait_for_selector("#model-drawer", state="hidden")


def modified(file: Path) -> int:
    return file.stat().st_mtime_ns


def gallery(page: Any) -> list[list[str]]:
    """The lines under the pictures of each run in the draw tab, the newest run first."""
    return [run.locator(".line").all_inner_texts() for run in page.locator("#draw-runs .run").all()]


def wait_put_back(page: Any, place: str, value: str) -> None:
    box = f"{place} input[type=number]"
    page.wait_for_function("([box, value]) => document.querySelector(box)?.value === value", arg=[box, value])


SHIFTS = """window.shifted = 0;
new PerformanceObserver((seen) => {
  for (const shift of seen.getEntries()) if (!shift.hadRecentInput) window.shifted += shift.value;
}).observe({type: "layout-shift", buffered: true});"""


def test_address_names_the_tab_and_the_page_opens_without_jumping(visit: Any) -> None:
    page = visit()
    assert page.url.endswith("#draw")
    go(page, "chat")
    page.wait_for_function("location.hash === '#chat'")
    page.add_init_script(SHIFTS)
    page.reload()
    page.wait_for_selector(".state-line.ready")
    page.wait_for_selector("#tab-chat-button[aria-selected=true]")
    page.go_back()
    page.wait_for_selector("#tab-draw-button[aria-selected=true]")
    page.go_forward()
    page.wait_for_selector("#tab-chat-button[aria-selected=true]")
    go(page, "draw")
    page.reload()
    page.wait_for_selector(".state-line.ready")
    wait_quiet(page)
    assert page.evaluate("window.shifted") < 0.1, "the page jumps while it opens"
    assert page.locator("#topbar").bounding_box()["height"] == 44
    open_drawer(page)
    page.wait_for_function("document.querySelector('#model-drawer').contains(document.activeElement)")
    page.keyboard.press("Escape")
    page.wait_for_selector("#model-drawer", state="hidden")
    page.wait_for_function("document.activeElement.id === 'model-change'")


MISS = """() => {
  const itsFetch = window.fetch; let missed = 0;
  window.fetch = async (...request) => {
    const answer = await itsFetch(...request);
    if (!/\\/run\\//.test(String(request[0]))) return answer;
    const text = await answer.clone().text();
    if (!text.includes("state-line") || missed++ > 1) return answer;
    return Response.json({ data: JSON.parse(text).data.map(() => ({ __type__: "update" })) });
  };
}"""


def test_state_of_the_model_is_shown_where_its_first_answers_were_missed(
    visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_line, "size_text", lambda size: "1.4 GB")  # a state that does not change by itself
    page = visit(script=f"({MISS})()")
    assert "Tiny A" in page.inner_text("#model-state")


# Svelte makes an object reactive with a proxy; `trigger_mode` is what only events have.
REACTIVE = """window.reactive = { events: 0, others: 0 };
window.Proxy = new Proxy(Proxy, { construct: (made, [target, ...more]) => {
  window.reactive["trigger_mode" in target ? "events" : "others"] += 1;
  return new made(target, ...more);
} });"""


def test_events_of_the_page_are_not_made_reactive_one_by_one(visit: Any) -> None:
    page = visit(script=REACTIVE)
    assert page.evaluate("window.reactive.others") > 0, "this version of Gradio uses no proxies"
    assert page.evaluate("window.reactive.events") == 0


def test_a_drawing_that_is_asked_for_while_the_page_opens_waits_for_the_settings(visit: Any, served: Served) -> None:
    page = visit()
    wait_quiet(page)
    fits = "draw-fitted"
    setters = {n for n, fn in served.demo.fns.items() if fits in [getattr(part, "elem_id", "") for part in fn.outputs]}
    held: list[Any] = []

    def hold(route: Any) -> None:
        asked = route.request.post_data_json["fn_index"] in setters
        held.append(route) if asked and "released" not in held else route.continue_()

    queued: list[str] = []

    def joins(request: Any) -> None:
        if "/queue/join" in request.url:
            queued.append(served.demo.fns[request.post_data_json["fn_index"]].name)

    page.route("**/run/predict", hold)
    page.reload()
    page.on("request", joins)
    page.wait_for_selector("#draw-run:visible")
    until(lambda: held, page, lambda: "nothing sets the controls")
    page.fill("#draw-prompt textarea", "three purple houses")
    page.click("#draw-run")
    page.wait_for_selector("#draw-run[aria-busy=true]")
    assert "draw" not in queued, "the server is asked before the limits of the settings are there"
    release(held)
    wait_done(page)
    assert queued.count("draw") == 1


@pytest.mark.parametrize(
    ("late", "there"),
    [
        ("tab-key", "#draw-guidance"),  # the model's settings are not asked for yet
        ("draw-guidance", "#draw-guidance"),  # they are on their way
        ("model-seen", "#draw-example-0:has-text('Tiny A')"),  # they are there, and will be asked for once more
    ],
)
def test_what_is_entered_while_the_page_opens_stays(visit: Any, served: Served, late: str, there: str) -> None:
    page = visit()
    open_settings(page, "draw")  # this browser remembers it
    wait_quiet(page)
    setters = {n for n, fn in served.demo.fns.items() if late in [getattr(part, "elem_id", "") for part in fn.outputs]}
    held: list[Any] = []

    def hold(route: Any) -> None:
        asked = route.request.post_data_json["fn_index"] in setters
        held.append(route) if asked and "released" not in held else route.continue_()

    page.route("**/run/predict", hold)
    page.reload()
    page.wait_for_selector(f"{there}:visible")
    until(lambda: held, page, lambda: f"nothing sets {late}")
    set_number(page, "#draw-guidance", 7)
    release(held)
    page.wait_for_selector(".state-line.ready")
    wait_quiet(page)
    assert page.input_value("#draw-guidance input[type=number]") == "7"

    choose(page, "Tiny B")  # what was entered for one model is not for another
    wait_put_back(page, "#draw-guidance", "4")
