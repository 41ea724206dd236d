"""Conversations and pictures after a restart, the history tab, and shared pages, in a real Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from janus_app.outputs.metadata import read_metadata
from janus_app.outputs.store import OutputStore, save_png
from janus_app.types import Finished, GenerateRequest, drain
from tests.browser.conftest import WATCH
from tests.browser.steps import choose_branch, go, menu, open_settings, say, settle, until, wait_done
from tests.page_server import Served, serve
from tests.samples import METADATA

pytestmark = pytest.mark.browser


@pytest.fixture
def enter(browser: Any) -> Iterator[Any]:
    """Open a page that the test serves itself; script errors fail the test at its end."""
    contexts: list[Any] = []
    errors: list[str] = []

    def open_page(served: Served, login: tuple[str, str] | None = None, **options: Any) -> Any:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)  # a busy machine of two cores
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(served.url)
        if login:
            page.fill("input[type=text], input:not([type])", login[0])
            page.fill("input[type=password]", login[1])
            page.keyboard.press("Enter")
        page.wait_for_selector(".state-line.ready")
        page.evaluate(WATCH)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors


def loaded(page: Any, place: str) -> None:
    """Wait until the first picture in `place` is decoded."""
    page.wait_for_function(f"document.querySelector('{place} img')?.naturalWidth > 0")


def stored(served: Served) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in served.data.glob("conversations/*/conversation.json")]


def test_conversation_and_picture_survive_a_restart(enter: Any, tmp_path: Path) -> None:
    with serve(tmp_path, pace=0.02) as first:
        page = enter(first)
        go(page, "chat")
        assert "saved here" in page.inner_text("#chat-list-note")

        # Draw in the chat with previews, and ask about the picture.
        say(page, "/draw a red circle")
        loaded(page, "#chat-bot .bot .chat-picture")
        assert page.evaluate("window.seen.sheets.size") >= 2, "no preview was shown"
        before = page.inner_text("#chat-context")
        say(page, "What is it?")
        page.wait_for_selector("#chat-context .meter")
        assert page.inner_text("#chat-context") != before
        answer = page.locator("#chat-bot .bot.message").last.inner_text()

        # Name the conversation; edit a message, which starts a branch.
        page.click("#chat-list li[aria-current] .of-row")
        page.click("#chat-list-menu [data-act=rename]")
        page.fill("#chat-list input.row", "The circle")
        page.keyboard.press("Enter")
        page.wait_for_selector("#chat-list li:has-text('The circle')")
        page.locator("#chat-bot button[aria-label=Edit]").last.click()
        page.locator("#chat-bot textarea").fill("And its colour?")
        page.locator("#chat-bot button[aria-label=Submit]").click()
        page.wait_for_selector("#chat-branch input")
        assert "What is it?" not in page.inner_text("#chat-bot")
        choose_branch(page, 0)
        page.wait_for_selector("#chat-bot .user.message:has-text('What is it?')")
        assert page.locator("#chat-bot .bot.message").last.inner_text() == answer

        # Stop a drawing in the chat; the conversation is kept.
        first.session.pace = 0.2
        page.fill("#chat-box textarea", "/draw never finished")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#chat-status .easel img")
        page.keyboard.press("Escape")
        page.wait_for_selector("#chat-status:has-text('Stopped')")
        assert page.locator("#chat-bot .working, #chat-bot [role=progressbar]").count() == 0
        assert len(list(first.outputs.glob("*.png"))) == 1

    with serve(tmp_path) as second:
        page = enter(second)
        go(page, "chat")
        page.locator("#chat-list button.row", has_text="The circle").click()
        loaded(page, "#chat-bot .bot .chat-picture")
        assert answer in page.inner_text("#chat-bot")

        # The picture is in the history too; deleting it there keeps the copy in the conversation.
        go(page, "history")
        loaded(page, "#history-runs")
        page.locator("#history-runs .tile").first.click()
        loaded(page, "#history-picture")
        page.click("#history-delete")
        page.click("#history-delete-yes")
        page.wait_for_selector("#history-blank .empty")
        assert not list(second.outputs.glob("*.png"))
        assert read_metadata(next(second.data.glob("conversations/*/pictures/*.png"))).prompt == "a red circle"

        # Deleting the conversation asks for confirmation.
        go(page, "chat")
        for act in ("no", "yes"):
            page.click("#chat-list li:has-text('The circle') .of-row")
            page.click("#chat-list-menu [data-act=delete]")
            page.click(f"#chat-list-menu [data-act={act}]")
            page.wait_for_selector("#chat-list-menu", state="hidden")
        page.wait_for_function("!document.querySelector('#chat-list').innerText.includes('The circle')")
        assert stored(second) == []


def asked(request: Any, served: Served) -> str:
    """The name of the handler that a request outside of the queue asks; "" for other requests."""
    name: str = served.demo.fns[request.post_data_json["fn_index"]].name if "/run/" in request.url else ""
    return name


# Whether anything fits a selector at any moment from now on.
SIGHTINGS = """place => {
  const look = () => { window.sighted ||= Boolean(document.querySelector(place)); };
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true});
}"""


@contextmanager
def late_answer(page: Any, served: Served, handler: str) -> Iterator[list[Any]]:
    """Hold the next answer of a handler back until the end of the block."""
    held: list[Any] = []

    def hold(route: Any) -> None:
        if asked(route.request, served) == handler and not held:
            held.extend((route, route.fetch()))
        else:
            route.continue_()

    page.route("**/run/*", hold)
    yield held
    held[0].fulfill(response=held[1])
    page.unroute("**/run/*")


def keep_drawn(served: Served, prompt: str, seed: int) -> Path:
    """Draw a picture without the page and save it in the outputs folder."""
    request = GenerateRequest(prompt, seed=seed)
    finished = drain(served.session.run(request))
    assert isinstance(finished, Finished)
    return OutputStore(served.outputs).save(finished)[0].file


def test_history_picture_can_be_marked_saved_discussed_and_redrawn(enter: Any, tmp_path: Path) -> None:
    with serve(tmp_path) as served:
        kept = keep_drawn(served, "a red circle", 5)
        page = enter(served)
        with late_answer(
            page, served, "here"
        ) as held:  # the list that the tab opens with comes after what was searched for
            go(page, "history")
            until(lambda: held, page, lambda: "the list is not asked for")
            page.fill("#history-words input", "blue")
            page.wait_for_selector("#history-blank .empty:has-text('No pictures match')")
            page.evaluate(SIGHTINGS, "#history-runs .tile")
        with page.expect_response(lambda response: asked(response.request, served) == "from_start"):
            page.fill("#history-words input", "green")
        settle(page)
        assert not page.evaluate("window.sighted"), "an older answer took the place of the newer one"
        page.fill("#history-words input", "RED circle")
        page.locator("#history-runs .tile").first.focus()
        page.keyboard.press("Enter")
        loaded(page, "#history-picture")
        page.click("#history-star")
        page.wait_for_selector("#history-runs .line:has-text('★')")
        with page.expect_download() as saved:
            page.click("#history-save")
        assert saved.value.suggested_filename == kept.name
        assert Path(saved.value.path()).read_bytes() == kept.read_bytes(), "the download differs from the saved file"

        menu(page, "history", "again")
        wait_done(page)
        (again,) = set(served.outputs.glob("*.png")) - {kept}
        assert read_metadata(again).image_tokens == read_metadata(kept).image_tokens
        go(page, "history")
        page.wait_for_selector("#history-count:has-text('1 to 2 of 2')")

        # Compare the opened picture with another one of the history.
        page.click("#history-compare-with")
        page.wait_for_selector("#history-whose:has-text('choose the picture')")
        page.locator("#history-runs .tile").first.click()
        page.wait_for_selector("#history-whose:has-text('Left: a red circle')")
        shown = "[...document.querySelectorAll('#history-both img')].filter(i => i.naturalWidth > 0).map(i => i.src)"
        page.wait_for_function(f"new Set({shown}).size == 2")
        page.click("#history-compare-with")
        page.wait_for_selector("#history-both", state="hidden")
        assert not page.inner_text("#history-whose").strip()

        page.click("#history-ask")
        page.wait_for_selector("#chat-box .thumbnail-item, #chat-box .thumbnail-image")
        say(page, "Is it round?")
        page.wait_for_selector("#chat-list li:has-text('Is it round?')")
        assert [len(message["pictures"]) for message in stored(served)[0]["messages"]] == [1, 0]


def test_shared_page_hides_what_other_visitors_made(
    enter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_tunnel(*args: Any, **more: Any) -> str:
        raise RuntimeError("Could not create share link. No network.")

    monkeypatch.setattr("gradio.networking.setup_tunnel", no_tunnel)
    (tmp_path / "outputs").mkdir()
    login = ("guest", "a long password")
    with serve(tmp_path, share=True, auth=login) as served:
        one, two = enter(served, login), enter(served, login)
        one.wait_for_selector("#banner .message.warning")  # the page says that there is no tunnel, and works
        go(one, "chat")
        say(one, "/draw my secret circle")
        loaded(one, "#chat-bot .bot .chat-picture")
        one.reload()
        one.wait_for_selector(".state-line.ready")
        two.reload()
        two.wait_for_selector(".state-line.ready")
        for page in (one, two):
            assert page.get_by_role("tab", name="History").count() == 0
            assert page.locator("#chat-side").count() == 0, "the list of conversations is shown"
            for tab in ("chat", "draw", "edit"):
                go(page, tab)
                settle(page)
                own = page is one and tab == "chat"  # where a refresh finds one's own chat again
                assert ("secret" in page.inner_text("body")) == own
        assert not (served.data / "conversations").exists()


def test_dropped_picture_restores_its_settings(visit: Any, served: Served, tmp_path: Path) -> None:
    record = replace(
        METADATA, verb="edit", prompt="a blue star", seed=77, image_tokens=(),
        settings={"guidance": 3.5, "temperature": 0.5, "method": "variation", "strength": 0.35},
    )  # fmt: skip
    edited = save_png(tmp_path / "edited.png", Image.new("RGB", (8, 8)), record)
    Image.new("RGB", (8, 8)).save(tmp_path / "mine.png")
    page = visit()
    drop(page, edited)
    page.wait_for_selector("#edit-prompt:visible")
    page.wait_for_function("document.querySelector('#edit-prompt textarea').value === 'a blue star'")
    open_settings(page, "edit")
    page.wait_for_selector("#edit-strength:visible")
    assert page.input_value("#edit-seed input") == "77"
    assert page.input_value("#edit-strength input[type=number]") == "0.35"
    assert page.input_value("#edit-guidance input[type=number]") == "3.5"

    # A picture of another program fills in the draw tab; in the edit tab's own drop area it fills in that.
    foreign = tmp_path / "other.jpg"
    words = "two green frogs\nNegative prompt: blur\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42"
    comment = Image.Exif()
    comment.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + words.encode("utf-16-be")
    Image.new("RGB", (8, 8)).save(foreign, exif=comment.tobytes())
    drop(page, foreign)
    page.wait_for_selector("#draw-prompt:visible")
    page.wait_for_function("document.querySelector('#draw-prompt textarea')?.value === 'two green frogs'")
    page.wait_for_function("document.querySelector('#draw-seed input')?.value === '42'")
    go(page, "edit")
    page.get_by_role("button", name="Settings from a saved picture").last.click()
    page.set_input_files("#edit-drop input[type=file]", str(foreign))
    page.wait_for_selector("#edit-drop-note .message.done:has-text('seed 42')")
    assert page.input_value("#edit-prompt textarea") == "two green frogs"

    drop(page, tmp_path / "mine.png")
    page.wait_for_selector("#chat-box .thumbnail-item, #chat-box .thumbnail-image")
    header = json.dumps({"x.lora_A.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "style.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    drop(page, tmp_path / "style.safetensors")
    page.wait_for_selector("text=LoRA adapter >> visible=true")


def drop(page: Any, file: Path) -> None:
    """Drop a file on the page's heading, which does not accept files itself."""
    data = list(file.read_bytes())
    page.evaluate(
        """([data, name]) => {
          const files = new DataTransfer();
          files.items.add(new File([new Uint8Array(data)], name, {type: "image/png"}));
          const event = new DragEvent("drop", {dataTransfer: files, bubbles: true, cancelable: true});
          document.querySelector("#brand h1").dispatchEvent(event);
        }""",
        [data, file.name],
    )
