"""The small parts of the page, each on its own."""

from __future__ import annotations

import ast
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image

from janus_app.errors import AppError, Message
from janus_app.outputs.conversations import ChatMessage, new_conversation, new_id
from janus_app.outputs.library import library
from janus_app.paths import ASSETS
from janus_app.registry.catalog import MANIFEST, load_catalog
from janus_app.types import Finished, GenerateRequest, Notice, Preview, Progress, Queued, TextDelta
from janus_app.ui import context
from janus_app.ui.common import jobs
from janus_app.ui.common.html import message
from janus_app.ui.i18n import FOLDER, Texts, match_language
from janus_app.ui.tabs.chat.reply import save
from janus_app.ui.tabs.chat.transcript import command, sight, turns
from janus_app.ui.tabs.edit.editor import MAX_MASK_SIDE, painted
from janus_app.ui.tabs.models import model_drawer
from tests.samples import png_uri


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("/draw a red circle", ("draw", "a red circle")),
        ("  /EDIT\na blue one", ("edit", "a blue one")),
        ("/draw", ("draw", "")),
        ("/画一只猫", ("draw", "一只猫")),
        ("/改 蓝色", ("edit", "蓝色")),
        ("/drawing is fun", None),
        ("please /draw it", None),
        ("", None),
    ],
)
def test_chat_commands_are_parsed_in_both_languages(text: str, means: tuple[str, str] | None) -> None:
    assert command(text) == means


def test_only_questions_carry_pictures_to_the_model(tmp_path: Path) -> None:
    files = []
    for number, colour in enumerate(("red", "lime", "blue", "cyan", "pink", "gold")):
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{number}.png")
        files.append(str(tmp_path / f"{number}.png"))
    talk = new_conversation()
    for role, text, shown in (
        ("user", "hello", files[5:]),
        ("assistant", "hi", ()),
        *(turn for file in files[:5] for turn in (("user", f"/draw {file}", ()), ("assistant", "", (file,)))),
        ("user", "Which is best?", ()),
    ):
        talk = talk.with_message(ChatMessage(new_id(), talk.head, role, text, tuple(shown)))  # type: ignore[arg-type]
    (question,) = turns(talk)
    assert [image.getpixel((0, 0)) for image in question.images] == [(255, 192, 203)], "it is about the newest picture"
    assert sight(talk.at(talk.path[-2].id), (), whole=False) == [files[4]], "what the page says that the model will see"
    assert sight(talk.at(talk.path[-2].id), files[:2], whole=False) == files[:2], "or the pictures of the question"
    first, answer, last = turns(talk, whole=True)
    assert (first.text, answer.text, last.text) == ("hello", "hi", "Which is best?")
    assert len(first.images) == 1 and not answer.images
    assert [image.getpixel((0, 0)) for image in last.images] == [
        (0, 255, 0), (0, 0, 255), (0, 255, 255), (255, 192, 203),
    ]  # fmt: skip


def test_conversation_that_cannot_be_saved_is_reported(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file in the place of the folder")
    kept = library(tmp_path / "outputs", tmp_path / "data")
    page: Any = SimpleNamespace(library=kept, texts=Texts("zh-CN"))
    talk = new_conversation().with_message(ChatMessage(new_id(), "", "user", "hello"))
    assert "message error" in save(page, talk, "en") and "was not saved" in save(page, talk, "en")
    assert "无法写入" in save(page, talk, "zh-CN")
    assert save(SimpleNamespace(library=None), talk, "en") == ""  # type: ignore[arg-type]


def test_languages_have_the_same_strings_and_places() -> None:
    english = json.loads((FOLDER / "en.json").read_text("utf-8"))
    chinese = json.loads((FOLDER / "zh-CN.json").read_text("utf-8"))
    chinese.pop("variants")
    assert english.keys() == chinese.keys()

    def places(text: str) -> list[str]:
        return sorted(re.findall(r"\{(\w+)\}", text))

    for key, text in english.items():
        assert places(text) == places(chinese[key]), key


def test_manifest_texts_are_translated_for_every_built_in_model() -> None:
    fields = ("tagline", "status", "notes", "licence_note")
    rows = {row["id"]: row for row in yaml.safe_load(MANIFEST.read_text("utf-8"))["variants"]}
    translated = json.loads((FOLDER / "zh-CN.json").read_text("utf-8"))["variants"]
    for model, row in rows.items():
        for field in fields:
            own = translated[model].get(field, "")
            assert bool(row.get(field)) == bool(re.search(r"[\u4e00-\u9fff]", own)), (model, field)
    assert translated.keys() - rows.keys() == {model_drawer.FOLDER}


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_about_line_translates_built_in_models_and_leaves_user_rows(language: str, tmp_path: Path) -> None:
    catalog = load_catalog()
    page: Any = SimpleNamespace(catalog=catalog, texts=Texts())
    built_in = catalog["janus-pro-1b"]
    mine = replace(built_in, id="mine", status="As I typed it.")
    catalog.include(mine)
    html = model_drawer.about_html(page, built_in, language)
    assert (escape(built_in.status) in html) == (language == "en")
    assert "As I typed it." in model_drawer.about_html(page, mine, language)


def test_every_string_of_the_page_exists_and_is_used() -> None:
    source = "".join(file.read_text("utf-8") for file in Path("janus_app/ui").rglob("*.py"))
    english = set(json.loads((FOLDER / "en.json").read_text("utf-8")))
    asked = set(re.findall(r"(?:label|say)\(\s*[\"'](\w+)[\"']", source))
    assert asked <= english
    # Prefixes of names that are put together at run time.
    made = (
        "span_",
        "measure_",
        "stage_",
        "state_",
        "doing_",
        "does_",
        "models_",
        "setting_",
        "method_",
        "solver_",
        "strength_",
        "image_guidance_",
        "way_",
        "editor_",
        "edit_after",
        "edit_instruction",
    )
    unused = {key for key in english if not key.startswith(made) and not re.search(f"[\"']{key}[\"']", source)}
    assert not unused


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh-CN"),
        ("zh-TW", "zh-CN"),
        ("de,fr;q=0.5", "en"),
        ("", "en"),
        ("de,zh;q=0.1", "zh-CN"),
    ],
)
def test_language_follows_the_browser(header: str, language: str) -> None:
    assert match_language(header) == language


@pytest.mark.parametrize("source", sorted(Path("janus_app/ui").rglob("*.py")), ids=lambda file: str(file))
def test_texts_are_looked_up_by_key_and_never_by_their_english_words(source: Path) -> None:
    """An error is shown by its code: `str(error)` or `str(message)` would be English in every language."""
    tree = ast.parse(source.read_text("utf-8"))
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        assert ast.unparse(call) not in ("str(error)", "str(message)"), f"{source}:{call.lineno}"
    if source.name == "i18n.py":
        assert "re" not in {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
        chinese = json.loads((FOLDER / "zh-CN.json").read_text("utf-8"))
        assert all(re.fullmatch(r"[a-z][a-z0-9_ ]*", key) for key in chinese), "a key that is an English sentence"


def test_text_from_outside_is_escaped() -> None:
    assert "<script>" not in message("<script>alert(1)</script>", "error")


def test_events_become_few_frames_and_nothing_is_lost() -> None:
    picture = Image.new("RGB", (8, 8))

    def events() -> Iterator[Any]:
        yield Queued(2)
        yield Notice(Message("take care"))
        for i in range(500):
            yield TextDelta("x")
            yield Progress("draw", i, 500, "tokens")
        yield Preview((picture,), 500, 500)
        yield Finished(text="x" * 500)

    frames = list(jobs.watch(events, Texts(), "en"))
    assert "number 2 in line" in frames[0].status
    assert len(frames) < 20, "frames must be dropped, not queued"
    assert frames[-1].text == "x" * 500 and frames[-1].finished and frames[-1].notices == ("take care",)


def test_progress_alone_comes_four_times_a_second_and_anything_new_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long step may follow, so that its name and the words before it must not wait for the next event."""
    clock = [100.0]
    monkeypatch.setattr("janus_app.ui.common.jobs.time.monotonic", lambda: clock[0])

    def events() -> Iterator[Any]:
        steps = [*(Progress("draw", i, 20, "tokens") for i in range(20)), Progress("decode", 0, 1, "pictures")]
        for event in (*steps, Notice(Message("take care")), Progress("decode", 1, 1, "pictures")):
            clock[0] += 0.11
            yield event

    *frames, end = jobs.watch(events, Texts(), "en")
    shown = [(frame.progress.stage, frame.progress.done, len(frame.notices)) for frame in frames if frame.progress]
    assert shown == [*(("draw", i, 0) for i in range(0, 20, 3)), ("decode", 0, 0), ("decode", 0, 1)]
    assert end.progress and end.progress.done == 1


def test_waiting_job_shows_its_place_once_a_second_and_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten events a second give one frame a second: frames take server time away from the running job."""
    clock = iter(range(10_000))
    monkeypatch.setattr("janus_app.ui.common.jobs.time.monotonic", lambda: 1 + next(clock) / 10)

    def waiting() -> Iterator[Any]:
        yield from (Queued(2) for _ in range(100))
        yield from (Queued(1) for _ in range(100))
        yield Finished()

    lines = [frame.status for frame in jobs.watch(waiting, Texts(), "en")]
    places = [line for line in lines if "in line" in line]
    assert "number 2 in line" in places[0] and "next in line" in places[-1]
    assert 18 <= len(places) <= 24
    changed = next(n for n, line in enumerate(places) if "next in line" in line)
    assert 9 <= changed <= 12


def test_progress_of_answers_and_drawings_shows_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drawing also shows the time left; the length of an answer is not known."""
    clock = iter(range(1000))
    monkeypatch.setattr("janus_app.ui.common.jobs.time.monotonic", lambda: next(clock) / 2)

    def answer() -> Iterator[Any]:
        yield from (TextDelta("x", (i,)) for i in range(30))

    def picture() -> Iterator[Any]:
        yield from (Progress("draw", i, 60, "tokens") for i in range(30))

    said, drawn = (list(jobs.watch(events, Texts(), "en"))[-1].status for events in (answer, picture))
    assert "Writing · 30 tokens · 1.0 tokens/s" in said and "left" not in said
    assert "Drawing · 29 / 60 tokens · 1.0 tokens/s · 31 s left" in drawn

    def known(left: float, language: str = "en") -> str:
        events = (Progress("draw", i, 60, "tokens", seconds_left=left) for i in range(30))
        return list(jobs.watch(lambda: events, Texts(), language))[-1].status

    assert "1.0 tokens/s · 1:30 min left" in known(90.0), "who draws knows of previews and of the decoding at the end"
    assert "left" not in known(0.0)
    assert "剩余 1 分 30 秒" in known(90.0, "zh-CN")


def test_errors_and_bugs_end_in_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    def refused() -> Iterator[Any]:
        raise AppError("Do this instead.")

    def broken() -> Iterator[Any]:
        yield TextDelta("so far")
        raise ZeroDivisionError("secret detail")

    assert list(jobs.watch(refused, Texts(), "en"))[-1].error == "Do this instead."
    last = list(jobs.watch(broken, Texts(), "en"))[-1]
    assert last.text == "so far" and "ZeroDivisionError" in last.error and "secret" not in last.error
    assert "secret detail" in caplog.text, "the log must have the traceback"


def test_closing_a_watched_job_closes_its_events() -> None:
    closed = threading.Event()

    def work() -> Iterator[Any]:
        try:
            while True:
                yield TextDelta("x")
        finally:
            closed.set()

    watching = jobs.watch(work, Texts(), "en")
    next(watching)
    watching.close()  # type: ignore[attr-defined]
    assert closed.is_set()


def test_mask_is_what_was_painted_on_the_picture_that_is_shown() -> None:
    layer = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    layer.paste((255, 64, 129, 255), (10, 5, 20, 15))
    layer.putpixel((0, 0), (255, 64, 129, 127))  # the soft rim of a stroke
    shown = {"picture": "one"}
    mask = painted({"picture": "one", "mask": png_uri(layer)}, shown, (80, 40))
    assert mask is not None and mask.size == (80, 40)
    assert mask.getbbox() == (20, 10, 40, 30) and set(mask.tobytes()) == {0, 255}
    assert painted({"picture": "another", "mask": png_uri(layer)}, shown, (80, 40)) is None
    assert f"MASK_SIDE = {MAX_MASK_SIDE};" in (ASSETS / "page" / "strokes.js").read_text("utf-8")
    nothing = png_uri(Image.new("RGBA", (40, 20)))
    for value in (None, shown, {"picture": "one", "mask": ""}, {"picture": "one", "mask": nothing}):
        assert painted(value, shown, (80, 40)) is None


@pytest.mark.parametrize("mask", ["x", "data:image/png;base64,####", png_uri(Image.new("RGBA", (1025, 1))), ["x"], 5])
def test_mask_that_no_editor_makes_is_refused(mask: Any) -> None:
    with pytest.raises(AppError, match="cannot be read"):
        painted({"picture": "one", "mask": mask}, {"picture": "one"}, (8, 8))


def test_number_too_large_for_a_float_is_refused_with_a_sentence() -> None:
    for read in (context.number, context.whole_number):
        with pytest.raises(AppError, match="1000"):
            read(10**400, "input_seed")
    with pytest.raises(AppError) as caught:
        GenerateRequest("A house.", guidance=10**400)
    assert caught.value.code == "number_out_of_range"
