"""Drawing jobs that go on without their browser tab, with a real session and tiny checkpoints of random weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio.context import LocalContext
from PIL import Image

from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.outputs.conversations import Conversation
from janus_app.outputs.image_io import open_picture
from janus_app.outputs.library import library
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession
from janus_app.types import Event, GenerateRequest, Progress, Request, TextDelta, drain
from janus_app.ui.common import running
from janus_app.ui.common.actions import browser_download
from janus_app.ui.common.drawing import draw_on
from janus_app.ui.common.running import Runs, pictures_of
from janus_app.ui.common.saved_images import SavedImages
from janus_app.ui.context import PageContext, Updates, Values
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.chat.panels import chat_panel, new_conversation_state
from janus_app.ui.tabs.chat.reply import Replies
from janus_app.ui.tabs.chat.tab import ChatHandlers
from janus_app.ui.tabs.chat.transcript import question
from janus_app.ui.tabs.edit.editor import FIRST_EXAMPLE, example_file, for_editor
from janus_app.ui.tabs.edit.panels import build_panels
from janus_app.ui.tabs.edit.tab import EditHandlers
from janus_app.ui.tabs.edit.undo import Tree, digest
from janus_app.ui.tabs.edit.undo_panel import UndoHandlers
from tests.page_server import GOLDEN
from tests.samples import png_uri


class HeldSession(ModelSession):
    """A session whose jobs wait in their fifth step until the test lets them go on."""

    reached: threading.Event
    go: threading.Event
    ended: threading.Event

    def run(self, request: Request) -> Iterator[Event]:
        steps = 0
        try:
            for event in super().run(request):
                steps += isinstance(event, Progress | TextDelta)
                if steps == 5:
                    self.reached.set()
                    assert self.go.wait(60)
                yield event
        finally:
            self.ended.set()


@pytest.fixture(scope="module")
def session() -> HeldSession:
    session = HeldSession(load_catalog(), Hub())
    drain(session.load(str(GOLDEN / "janus_pro_1b" / "checkpoint"), device="cpu"))
    return session


@pytest.fixture
def page(session: HeldSession, tmp_path: Path) -> PageContext:
    session.reached, session.go, session.ended = threading.Event(), threading.Event(), threading.Event()
    return PageContext(session, session.catalog, Texts("en"), SavedImages(tmp_path / "outputs", tmp_path / "served"))


@contextmanager
def visitor(name: str) -> Iterator[None]:
    """The requests of a browser tab's opening, whose Gradio session is `name`."""
    token = LocalContext.request.set(SimpleNamespace(session_hash=name))  # type: ignore[arg-type]
    try:
        yield
    finally:
        LocalContext.request.reset(token)


def start(page: PageContext, seed: int = 7) -> Any:
    """Start a drawing and look at its first view; returns the views."""
    views: Any = draw_on(page, "draw", None, lambda: GenerateRequest("a red circle", count=2, seed=seed), "en")
    next(views)
    return views


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the condition was not met"
        time.sleep(0.01)


def test_a_drawing_goes_on_without_its_tab_and_is_found_by_the_next_opening(
    page: PageContext, session: HeldSession
) -> None:
    with visitor("first"):
        key = page.runs.join("")
        views = start(page)
    assert session.reached.wait(60)
    views.close()  # what Gradio does when the tab is closed or refreshed
    with visitor("second"):
        next_key = page.runs.join(key)
        (run,) = page.runs.of("draw")
        follower = run.follow()
        shown = next(follower)
        assert not run.ended and shown.preview_grid and not shown.saved, "the latest previews, though seen before"
        session.go.set()
        *_, last = follower
        assert last.saved and [picture.metadata.seed for picture in last.saved] == [7, 8]
        assert "Done: 2" in last.status and len(list(page.images.outputs.glob("*.png"))) == 2
    with visitor("third"):
        assert page.runs.join(next_key) not in (key, next_key, "")
        assert pictures_of(page.runs.of("draw")) == list(last.saved)


def test_only_the_key_of_a_tab_finds_its_runs_and_a_duplicated_tab_does_not_mix(
    page: PageContext, session: HeldSession
) -> None:
    session.go.set()
    with visitor("one"):
        key = page.runs.join("")
        assert [view.saved is not None for view in start(page)][-1]
    for name, given in (("other", ""), ("guess", "one"), ("wrong", key[:-1] + "?")):
        with visitor(name):
            page.runs.join(given)
            assert not page.runs.of("draw")
    with visitor("duplicate"):
        page.runs.join(key)
        list(start(page, seed=20))
        assert [run.seed for run in page.runs.of("draw")] == [7, 20]
    with visitor("one"):
        assert [run.seed for run in page.runs.of("draw")] == [7]


def test_stop_after_joining_ends_the_job_within_a_step_and_says_so(page: PageContext, session: HeldSession) -> None:
    with visitor("first"):
        key = page.runs.join("")
        start(page).close()
    assert session.reached.wait(60)
    with visitor("second"):
        page.runs.join(key)
        assert page.runs.stop("draw") and not page.runs.stop("edit")
        session.go.set()
        (run,) = page.runs.of("draw")
        *_, last = run.follow()
        assert "Stopped" in last.status and last.saved is None and not page.runs.stop("draw")
    assert session.ended.is_set() and session.state.phase == "ready" and not session.state.queue
    assert not list(page.images.outputs.glob("*.png"))


@pytest.mark.parametrize("shared", [True, False])
def test_unwatched_drawing_is_stopped_on_a_shared_page_alone(
    page: PageContext, session: HeldSession, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "PATIENCE", 0.0)
    page = PageContext(session, session.catalog, page.texts, page.images, shared=shared)
    with visitor("gone"):
        start(page).close()
        session.go.set()
        (run,) = page.runs.of("draw")
        wait_for(lambda: run.ended)
    assert len(run.saved) == (0 if shared else 2)


def test_too_many_jobs_and_bugs_end_in_a_sentence(
    page: PageContext, session: HeldSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session.go.set()
    with visitor("one"):
        with monkeypatch.context() as patched:
            patched.setattr(SavedImages, "keep", lambda *given: 1 / 0)
            *_, last = start(page)
            assert "message error" in last.notes and "ZeroDivisionError" in last.notes
        monkeypatch.setattr(running, "MAX_RUNNING", 0)
        (last,) = draw_on(page, "draw", None, lambda: GenerateRequest("a"), "en")
        assert "Too many jobs" in last.notes + last.status


def editing(page: PageContext) -> tuple[EditHandlers, Values, Image.Image]:
    """The edit tab, the values of its controls with a picture of which half is painted, and the picture."""
    with gr.Blocks():
        panels = build_panels(page, browser_download())
        handlers = EditHandlers(page, panels, gr.Dropdown(), UndoHandlers(page, panels))
    red = Image.new("RGB", (96, 96), (200, 30, 30))
    tree, _ = Tree().with_given(red, page.images)
    layer = Image.new("RGBA", red.size)
    layer.paste((255, 64, 129, 255), (0, 0, 48, 96))
    method, settings = panels.method, panels.settings
    parts = {*settings.controls.all, method.source_prompt, settings.strength, settings.image_guidance}
    values: dict[Any, Any] = {part: part.value for part in parts}
    values |= {panels.source.editor: tree.shown() | {"mask": png_uri(layer)}, panels.source.tree: tree}
    values |= {panels.source.more: None, method.method: "region", panels.right.results.items: []}
    values |= {handlers.variant: None, settings.controls.prompt: "a red circle"}
    return handlers, values, red


def test_an_edit_goes_on_without_its_tab_and_the_next_opening_has_the_tree_of_its_pictures(
    page: PageContext, session: HeldSession
) -> None:
    handlers, values, red = editing(page)
    panels, settings, request = handlers.panels, handlers.panels.settings, None
    with visitor("first"):
        key = page.runs.join("")
        edit = handlers.edit(values, request)
        next(edit), next(edit)
        assert session.reached.wait(60)
        edit.close()  # what Gradio does when the tab is closed or refreshed
    with visitor("second"):
        key, rejoined = page.runs.join(key), handlers.rejoin(request)
        next(rejoined)
        first, follower = next(rejoined), iter(rejoined)
        assert first[panels.source.tree][1].digest == digest(red) and first[settings.buttons.stop]["visible"]
        session.go.set()
        shown: Updates = {}
        for updates in follower:
            shown |= updates
        assert [(step.number, step.parent) for step in shown[panels.source.tree].steps] == [(1, None), (2, 1)]
        assert len(shown[panels.right.results.items]) == 1 and shown[panels.right.view]["value"] == "comparison"
    with visitor("third"):
        page.runs.join(key)
        _, again = handlers.rejoin(request)
        assert [(step.number, step.parent) for step in again[panels.source.tree].steps] == [(1, None), (2, 1)]


@pytest.mark.parametrize("begun_again", [False, True])
def test_what_clear_took_away_stays_away_at_the_next_opening(
    page: PageContext, session: HeldSession, begun_again: bool
) -> None:
    handlers, values, _ = editing(page)
    panels, undo, request = handlers.panels, handlers.undo, None
    source = panels.source
    session.go.set()
    with visitor("first"):
        key = page.runs.join("")
        tree = [*handlers.edit(values, request)][-2][source.tree]
        cleared = undo.clear({source.tree: tree}, request)
        assert cleared[source.editor] is None and not cleared[source.tree].steps
        if begun_again:
            undo.start({source.tree: cleared[source.tree]}, request, SimpleNamespace(start=FIRST_EXAMPLE))
    with visitor("second"):
        page.runs.join(key)
        _, again = handlers.rejoin(request)
        undo.advance({source.tree: again[source.tree], panels.settings.go_on: True}, request)
        assert len(again[panels.right.results.items]) == 1, "the result is still among the pictures"
        assert panels.right.compare not in again, "there is nothing to compare it with"
        if begun_again:
            (step,) = again[source.tree].steps
            assert step.saved is None and again[source.editor] == for_editor(step.picture)
        else:
            assert not again[source.tree].steps and again[source.editor] is None


def test_an_emptied_editor_has_no_picture_until_the_next_one_is_chosen(
    page: PageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gr.Blocks():
        panels = build_panels(page, browser_download())
        undo = UndoHandlers(page, panels)
    assert Tree().picture().tobytes() == open_picture(example_file(FIRST_EXAMPLE)).tobytes()
    assert Tree().shown() == panels.source.editor.value, "the example that the editor opens with"
    tree, number = Tree().with_given(Image.new("RGB", (96, 96), "green"), page.images)
    monkeypatch.setattr(PageContext, "language", lambda *given: "en")
    request: Any = None
    emptied = undo.emptied({panels.source.tree: tree}, request)
    left = emptied[panels.source.tree]
    assert emptied[panels.method.source_prompt] == "" and left.steps == tree.steps
    with pytest.raises(AppError, match="no picture to edit"):
        left.picture()
    assert left.at(number).picture().getpixel((0, 0)) == (0, 128, 0)


@pytest.fixture
def chat(page: PageContext, tmp_path: Path) -> Replies:
    page = replace(page, library=library(tmp_path / "outputs", tmp_path / "data"))
    with gr.Blocks():
        return Replies(page, chat_panel(page, new_conversation_state()), gr.Dropdown())


def ask(chat: Replies, text: str = "What is this?") -> Any:
    settings = chat.panel.settings
    values = {part: getattr(part, "value", None) for part in vars(settings).values()}
    values |= {settings.max_new_tokens: 12, chat.variant: None, chat.panel.whole: False}
    before = Conversation("")
    return chat.reply(before, question(before, text, ()), values, "en")


def test_an_answer_goes_on_without_its_tab_and_the_next_opening_shows_it(chat: Replies, session: HeldSession) -> None:
    page, panel = chat.page, chat.panel
    with visitor("first"):
        key = page.runs.join("")
        answer = ask(chat)
        next(answer), next(answer)
        assert session.reached.wait(60)
        answer.close()
    with visitor("second"):
        key, rejoined = page.runs.join(key), chat.rejoin("en")
        next(rejoined)
        assert next(rejoined)[panel.conversation].path[0].text == "What is this?"
        session.go.set()
        *_, last = rejoined
        asked, said = last[panel.conversation].path
        assert said.role == "assistant" and said.text and "tokens used" in last[panel.context]
        (stored,) = page.library.conversations.find().conversations  # type: ignore[union-attr]
        assert [message.text for message in stored.path] == [asked.text, said.text]
    with visitor("third"):
        page.runs.join(key)
        _, again = chat.rejoin("en")
        assert again[panel.conversation] == last[panel.conversation]
        page.runs.show_talk(Conversation(""))
        assert [*chat.rejoin("en")][-1][panel.conversation] == Conversation(""), "another one was opened since"


def held_answer(chat: Replies, session: HeldSession) -> tuple[Any, Any]:
    """The views of an answer whose job is held in the middle, and the answer."""
    chat.page.runs.join("")
    answer = ask(chat)
    next(answer), next(answer)
    assert session.reached.wait(60)
    return answer, chat.page.runs.talk


@pytest.mark.parametrize("unwanted", [False, True])
def test_what_was_written_is_kept_when_an_answer_is_stopped_but_not_when_its_conversation_is_deleted(
    chat: Replies, session: HeldSession, unwanted: bool
) -> None:
    with visitor("only"):
        answer, talk = held_answer(chat, session)
        talk.unwanted = unwanted
        talk.stop()
        session.go.set()
        *_, last = answer
    assert session.ended.is_set() and talk.ended and session.state.phase == "ready"
    assert "Stopped" in str(last[chat.panel.bot]) and 'id="chat-status"' in str(last[chat.panel.bot])
    kept = chat.page.library.conversations.find().conversations  # type: ignore[union-attr]
    assert len(kept) == (0 if unwanted else 1) and (unwanted or kept[0].path[-1].role == "assistant")


def test_who_follows_an_answer_that_is_stopped_in_a_long_step_is_let_go_with_its_last_view(
    chat: Replies, session: HeldSession
) -> None:
    with visitor("only"):
        answer, talk = held_answer(chat, session)
        assert chat.page.runs.stop_answer() is talk, "whose last view says so, whatever was asked meanwhile"
        talk.leave({chat.panel.notes: "let go"})
        *_, last = answer  # ends while the step still runs
        assert last[chat.panel.notes] == "let go" and not talk.ended
        session.go.set()
        talk.wait(60)
    assert talk.ended and talk.shown[chat.panel.notes] == "let go", "the rest of the step is shown after the end"
    assert chat.page.library.conversations.find().conversations, "what was written is saved"  # type: ignore[union-attr]


@pytest.mark.parametrize("deleted", [False, True])
def test_who_follows_an_answer_is_shown_the_conversation_that_is_opened_in_its_place(
    chat: Replies, session: HeldSession, deleted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "STOP_SECONDS", 0.1)
    handlers, panel = ChatHandlers(chat.page, chat.panel, chat.variant, chat), chat.panel
    with visitor("only"):
        answer, talk = held_answer(chat, session)
        if deleted:
            chat.page.runs.stop_answer(unwanted=True)
        opened = handlers.cleared(None)  # type: ignore[arg-type]
        *_, last = answer  # ends while the step still runs
        assert not talk.ended and last[panel.bot] == [] and last[panel.conversation] == opened[panel.conversation]
        assert last[panel.box]["submit_btn"] and "value" not in last[panel.box], "what is typed meanwhile stays"
        assert chat.page.runs.talk == opened[panel.conversation], "for the next opening of the tab"
        session.go.set()
        talk.wait(60)
    kept = chat.page.library.conversations.find().conversations  # type: ignore[union-attr]
    assert len(kept) == (0 if deleted else 1)


def test_tabs_are_remembered_in_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "MAX_TABS", 3)
    runs = Runs()
    for number in range(10):
        with visitor(str(number)):
            runs.join("")
            for _ in range(40):
                runs.new("draw", 7, "", watched=False).ended = True
            assert len(runs.of("draw")) == running.MAX_RUNS
    assert len(runs._by_key) == len(runs._by_session) == 3
