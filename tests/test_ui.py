"""The page's handlers over HTTP, and its small parts: no browser here (tests/browser has one)."""

from __future__ import annotations

import contextlib
import io
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from janus_app.cli import main
from janus_app.errors import AppError
from janus_app.library import library
from janus_app.library.conversations import Conversations, Message, new_conversation, new_id
from janus_app.models.base import Finished, Notice, Preview, Progress, Queued, TextDelta
from janus_app.records import read_record
from janus_app.studio import drain
from janus_app.ui import jobs
from janus_app.ui.chat_work import save
from janus_app.ui.editor import picture_and_mask
from janus_app.ui.guard import HostGuard, answers_one_person, host_rules
from janus_app.ui.html import message
from janus_app.ui.i18n import FOLDER, Texts, match_language
from janus_app.ui.talk import command, turns
from tests.page_server import Served, serve

BRIEF = {"temperature": 0, "top_p": 0.95, "max_new_tokens": 24, "seed": 0, "model": "tiny-a"}  # of an answer
EASEL, STATUS, NOTES, GALLERY, SEED = 0, 1, 2, 3, 6  # places in what "draw" answers (states are not sent)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("page"), pace=0.005) as served:
        yield served


@pytest.fixture
def client(page: Served) -> Client:
    return Client(page.url, verbose=False)


def draw(client: Client, prompt: str = "a red circle", count: float = 2, seed: float = 7, **more: Any) -> Any:
    settings = {"guidance": 5, "temperature": 1, "new_seed": False, "model": "tiny-a"} | more
    return client.submit(prompt=prompt, count=count, seed=seed, **settings, api_name="/draw")


def gallery_of(job: Any) -> list[Path]:
    """The pictures of the one answer that carries the gallery."""
    for answer in job.outputs():
        shown = answer[GALLERY]
        pictures = shown.get("value") if isinstance(shown, dict) else shown
        if pictures:
            return [Path(item["image"]) for item in pictures]
    raise AssertionError(f"no pictures came: {job.outputs()[-2:]}")


def everything_said(job: Any) -> str:
    return json.dumps(job.outputs(), ensure_ascii=False)


def test_drawn_pictures_are_saved_with_records_and_served_byte_for_byte(page: Served, client: Client) -> None:
    job = draw(client, count=2, seed=41)
    job.result(timeout=60)
    served = gallery_of(job)
    saved = sorted(page.outputs.glob("*_4[12].png"))
    assert [file.read_bytes() for file in served] == [file.read_bytes() for file in saved]
    first, second = (read_record(file) for file in served)
    assert (first.seed, second.seed, first.model, first.prompt) == (41, 42, "tiny-a", "a red circle")
    assert len(first.image_tokens) == 36 and first.settings["guidance"] == 5
    assert "data:image/jpeg;base64" in everything_said(job), "no preview was shown"


def ask(client: Client, text: str, files: tuple[Path, ...] = ()) -> Any:
    given = [handle_file(str(file)) for file in files]
    return client.submit(message={"text": text, "files": given}, **BRIEF, api_name="/chat")


def context_used(answer: Any) -> int:
    found = re.search(r"(\d+) of 512 tokens used", json.dumps(answer))
    assert found, answer
    return int(found[1])


def test_a_picture_drawn_in_the_chat_can_be_asked_about_and_edited(page: Served, client: Client) -> None:
    words = context_used(ask(client, "What is it?").result(timeout=60))
    client.reset_session()
    drawn = ask(client, "/draw a red circle").result(timeout=60)
    assert [part["type"] for part in drawn[0][1]["content"]] == ["file"]
    asked = ask(client, "What is it?").result(timeout=60)
    assert [turn["role"] for turn in asked[0]] == ["user", "assistant"] * 2
    assert context_used(asked) > words + 30, "the drawn picture came along with the question"
    edited = ask(client, "/edit a blue circle").result(timeout=60)
    assert [part["type"] for part in edited[0][5]["content"]] == ["file"]
    assert "Keeps the top" in json.dumps(edited), "what this way of editing does is said"
    newest = max(page.outputs.glob("*.png"), key=lambda file: file.stat().st_mtime_ns)
    record = read_record(newest)
    assert (record.verb, record.prompt, record.settings["method"]) == ("edit", "a blue circle", "variation")
    (kept,) = Conversations(page.data / "conversations").find("/draw red circle").conversations
    said = [message.text for message in kept.path]
    assert [*said[:3], *said[4:]] == ["/draw a red circle", "", "What is it?", "/edit a blue circle", ""]
    assert Path(kept.path[5].pictures[0]).read_bytes() == newest.read_bytes()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("/draw", "Say what to draw"),
        ("/edit", "Say how the finished"),
        ("/edit a cat", "no picture in this conversation"),
    ],
)
def test_a_command_that_cannot_be_done_is_given_back_with_a_sentence(client: Client, text: str, sentence: str) -> None:
    job = ask(client, text)
    job.result(timeout=30)
    assert sentence in everything_said(job) and text in json.dumps(job.outputs()[-1])


def test_a_picture_of_a_batch_can_be_drawn_alone(page: Served, client: Client) -> None:
    both = draw(client, count=2, seed=300)
    both.result(timeout=60)
    alone = draw(client, count=1, seed=301)
    alone.result(timeout=60)
    assert read_record(gallery_of(both)[1]).image_tokens == read_record(gallery_of(alone)[0]).image_tokens


def test_answers_stream_and_tell_how_full_the_context_is(client: Client, tmp_path: Path) -> None:
    picture = tmp_path / "red.png"
    Image.new("RGB", (40, 30), "red").save(picture)
    question = {"text": "What is it?", "files": [handle_file(str(picture)), handle_file(str(picture))]}
    job = client.submit(message=question, **BRIEF, api_name="/chat")
    final = job.result(timeout=60)
    assert len(job.outputs()) >= 3, "the answer did not stream"
    talk = final[0]
    assert [turn["role"] for turn in talk] == ["user", "assistant"]
    assert [part["type"] for part in talk[0]["content"]] == ["file", "file", "text"]
    assert re.search(r"\d+ of 512 tokens used", json.dumps(final))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"prompt": "   "}, "is empty"),
        ({"prompt": "x" * 100_000}, "100,000 characters"),
        ({"seed": -1}, "Seed must be"),
        ({"seed": 2**53}, "Seed must be"),
        ({"negative": "y" * 9_000}, "negative prompt has 9,000"),
    ],
)
def test_bad_settings_become_sentences(client: Client, wrong: dict[str, Any], sentence: str) -> None:
    job = draw(client, **wrong)
    job.result(timeout=30)
    assert sentence in everything_said(job)
    assert "Traceback" not in everything_said(job)


@pytest.mark.parametrize("question", ["", "a.txt"])
def test_a_bad_question_is_given_back_with_a_sentence(client: Client, tmp_path: Path, question: str) -> None:
    files = []
    if question:
        (tmp_path / question).write_text("not a picture")
        files = [handle_file(str(tmp_path / question))]
    job = client.submit(message={"text": "" if not question else "keep me", "files": files}, **BRIEF, api_name="/chat")
    try:
        job.result(timeout=30)
    except Exception as refused:  # Gradio itself turns away files that are no pictures
        assert "Traceback" not in str(refused)
        return
    said = everything_said(job)
    assert "message error" in said
    assert not question or "keep me" in said


def test_two_visitors_wait_in_line_and_keep_their_own_seeds(page: Served) -> None:
    one, two = Client(page.url, verbose=False), Client(page.url, verbose=False)
    first = draw(one, prompt="one", count=16, seed=1000)
    time.sleep(0.2)
    second = draw(two, prompt="two", count=2, seed=5000)
    first.result(timeout=120)
    second.result(timeout=120)
    assert "You are next in line" in everything_said(second) or "number" in everything_said(second)
    mine = [read_record(file) for file in gallery_of(first)]
    theirs = [read_record(file) for file in gallery_of(second)]
    assert [(r.prompt, r.seed) for r in mine] == [("one", 1000 + i) for i in range(16)]
    assert [(r.prompt, r.seed) for r in theirs] == [("two", 5000), ("two", 5001)]


def test_a_cancelled_job_frees_the_studio_and_saves_nothing(page: Served, client: Client) -> None:
    before = set(page.outputs.glob("*.png"))
    job = draw(client, count=16, seed=77_000, prompt="never finished")
    wait_for(lambda: page.studio.state.phase == "busy" and job.outputs())  # until it hears, a client knows of no job
    job.cancel()
    wait_for(lambda: page.studio.state.phase == "ready" and page.studio.state.queue == 0)
    again = draw(client, count=1, seed=3)
    again.result(timeout=60)
    assert not [file for file in set(page.outputs.glob("*.png")) - before if "_77" in file.name]


def test_who_waits_and_is_cancelled_leaves_the_line(page: Served, client: Client) -> None:
    first = draw(client, count=16, seed=88_000)
    wait_for(lambda: page.studio.state.phase == "busy")
    second = draw(Client(page.url, verbose=False), count=1, seed=89_000)
    wait_for(lambda: page.studio.state.queue == 1 and second.outputs())
    second.cancel()
    wait_for(lambda: page.studio.state.queue == 0)
    assert not first.done(), "the one at work goes on"
    first.result(timeout=60)
    assert not list(page.outputs.glob("*_89000.png")) and len(list(page.outputs.glob("*_880[01]?.png"))) == 16


def wait_for(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def test_a_variant_is_switched_and_an_unknown_one_refused(page: Served, client: Client) -> None:
    job = client.submit(model="tiny-b", device="cpu", api_name="/load")
    job.result(timeout=60)
    assert page.studio.state.variant_id == "tiny-b"
    job = client.submit(model="tiny-zzz", device="cpu", api_name="/load")
    job.result(timeout=60)
    assert "no model called" in everything_said(job)
    assert page.studio.state.variant_id == "tiny-b", "a wrong name must not drop the model"
    job = client.submit(model="tiny-a", device="cuda:99", api_name="/load")
    job.result(timeout=60)
    assert "message error" in everything_said(job)
    drain(page.studio.load("tiny-a", device="cpu"))


def test_a_flow_model_draws_by_its_own_settings_and_the_same_again(page: Served, client: Client) -> None:
    pytest.importorskip("diffusers")
    client.submit(model="tiny-flow", device="cpu", api_name="/load").result(timeout=120)
    assert page.studio.state.variant_id == "tiny-flow"
    late = {"steps": 4, "guidance_start": 0.25}
    try:
        drawings = [
            draw(client, count=1, seed=21, guidance=2, **flow)
            for flow in (late | {"solver": "ab2"}, late | {"solver": "ab2"}, late, {"steps": 2})
        ]
        for job in drawings:
            job.result(timeout=120)
        first, again, other, short = (gallery_of(job)[0] for job in drawings)
        record = read_record(first)
        assert record.settings == {
            "guidance": 2,
            "steps": 4,
            "solver": "ab2",
            "guidance_start": 0.25,
            "guidance_end": 1,
        }
        assert read_record(short).settings == {"guidance": 2, "steps": 2, "solver": "euler"}
        pictures = [Image.open(file).tobytes() for file in (first, again, other)]
        assert pictures[0] == pictures[1] != pictures[2]
        said = everything_said(drawings[0])
        assert "Adams-Bashforth" in said and "guidance from 0.25 to 1" in said
        assert re.search(r"\d / 4 steps|\d of 4 steps", said), "progress is counted in steps"
        backwards = draw(client, count=1, steps=4, guidance_start=0.8, guidance_end=0.2)
        backwards.result(timeout=60)
        assert "end of the guidance interval" in everything_said(backwards)
    finally:
        drain(page.studio.load("tiny-a", device="cpu"))


def test_only_named_doors_are_open_to_programs(client: Client) -> None:
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {"/load", "/chat", "/draw"}
    with pytest.raises(Exception, match="Invalid function index"):
        client.predict(fn_index=0)


# The words of a door: where the command line has a flag for it, the flag's word.
FLAGS = {
    "/load": ["model", "device", "precision"],
    "/chat": ["temperature", "top_p", "max_new_tokens", "seed", "model"],
    "/draw": ["prompt", "negative", "count", "guidance", "temperature", "seed", "model", "steps", "solver", "turbo"],
}
OWN = {"/load": [], "/chat": ["message"], "/draw": ["new_seed", "guidance_start", "guidance_end"]}


def test_doors_speak_the_words_of_the_command_line(page: Served) -> None:
    """Gradio shows programs the names of the handlers' parameters, so those are part of what the page promises."""
    info = httpx.get(f"{page.url}/gradio_api/info").json()
    doors = info["named_endpoints"]
    for door, described in doors.items():
        assert sorted(told["parameter_name"] for told in described["parameters"]) == sorted(FLAGS[door] + OWN[door])
        (row,) = re.findall(rf"^\| `{door}` \| (.*) \|$", Path("docs/programs.md").read_text("utf-8"), re.MULTILINE)
        assert row.replace("`", "").split(", ") == [told["parameter_name"] for told in described["parameters"]]
    assert not info["unnamed_endpoints"]
    needed = {told["parameter_name"] for told in doors["/draw"]["parameters"] if not told["parameter_has_default"]}
    assert needed == {"prompt"}
    for door, verb in (("/load", "chat"), ("/chat", "chat"), ("/draw", "generate")):
        flags = {word.replace("-", "_") for word in re.findall(r"--([a-z-]+)", help_of(verb))}
        assert set(FLAGS[door]) <= flags


def test_the_program_of_the_docs_runs(page: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", Path("docs/programs.md").read_text("utf-8"), flags=re.DOTALL)
    Image.new("RGB", (40, 30), "green").save(tmp_path / "frogs.png")
    monkeypatch.chdir(tmp_path)
    kept = set(page.outputs.glob("*.png"))
    exec(program.replace("http://127.0.0.1:7860", page.url), {})
    made = sorted(
        (read_record(file) for file in set(page.outputs.glob("*.png")) - kept), key=lambda r: (r.verb, r.seed)
    )
    assert [(r.verb, r.prompt) for r in made] == [("edit", "two blue frogs"), *[("generate", "two green frogs")] * 2]
    assert [r.seed for r in made[1:]] == [7, 8]


def help_of(verb: str) -> str:
    with pytest.raises(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said:
        main([verb, "--help"])
    return said.getvalue()


def test_other_host_names_are_turned_away(page: Served) -> None:
    assert httpx.get(page.url, headers={"Host": "evil.example"}).status_code == 400
    assert httpx.get(page.url, headers={"Host": "127.0.0.1.evil.example"}).status_code == 400
    assert httpx.get(page.url).status_code == 200


def test_files_of_the_machine_are_not_served(page: Served, client: Client) -> None:
    draw(client, count=1, seed=9).result(timeout=60)
    saved = next(page.outputs.glob("*.png"))
    for path in ("/etc/passwd", str(saved), str(Path(__file__).resolve()), "../../../../etc/passwd"):
        assert httpx.get(f"{page.url}/gradio_api/file={path}").status_code in (403, 404), path


def test_uploads_are_bounded(page: Served) -> None:
    sent = httpx.post(f"{page.url}/gradio_api/upload", files={"files": ("big.png", b"0" * 21_000_000)}, timeout=60)
    assert sent.status_code == 413


def test_the_page_names_no_other_site_and_no_home_folder(page: Served) -> None:
    config = httpx.get(f"{page.url}/config").text
    assert str(Path.home()) not in config
    assert "googleapis" not in httpx.get(page.url).text


def test_a_shared_page_has_a_login_and_keeps_folders_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tunnel needs the network, so here it fails at once, as it does on a machine without one.
    monkeypatch.setattr("gradio.networking.setup_tunnel", _no_tunnel)
    with serve(tmp_path, share=True) as served:
        printed = capsys.readouterr().out
        login = re.search(r"user (\w+), password (\S+)", printed)
        assert login and "No public link" in printed
        assert httpx.get(f"{served.url}/config").status_code == 401
        visitor = Client(served.url, auth=(login[1], login[2]), verbose=False)
        job = visitor.submit(model=str(tmp_path), device="cpu", api_name="/load")
        try:
            job.result(timeout=30)
            assert "only the models of the list" in everything_said(job)
        except Exception as refused:  # Gradio may refuse a value that is no choice before we do
            assert "Traceback" not in str(refused)
        assert served.studio.state.variant_id == "tiny-a"


def _no_tunnel(*args: Any, **more: Any) -> str:
    raise RuntimeError("Could not create share link. No network.")


# ---- parts


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
def test_commands_of_the_chat(text: str, means: tuple[str, str] | None) -> None:
    assert command(text) == means


def test_the_model_reads_pictures_in_questions_only(tmp_path: Path) -> None:
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
        talk = talk.said(Message(new_id(), talk.head, role, text, tuple(shown)))  # type: ignore[arg-type]
    first, answer, last = turns(talk)
    assert (first.text, answer.text, last.text) == ("hello", "hi", "Which is best?")
    assert len(first.images) == 1 and not answer.images
    assert [image.getpixel((0, 0)) for image in last.images] == [
        (0, 255, 0), (0, 0, 255), (0, 255, 255), (255, 192, 203),
    ]  # fmt: skip


def test_a_conversation_that_cannot_be_kept_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file in the place of the folder")
    kept = library(tmp_path / "outputs", tmp_path / "data")
    page: Any = SimpleNamespace(library=kept, texts=Texts("zh-CN"))
    talk = new_conversation().said(Message(new_id(), "", "user", "hello"))
    assert "message error" in save(page, talk, "en") and "was not saved" in save(page, talk, "en")
    assert "无法写入" in save(page, talk, "zh-CN")
    assert save(SimpleNamespace(library=None), talk, "en") == ""  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "share", "login", "listed"),
    [
        ("127.0.0.1", False, False, True),
        ("localhost", False, False, True),
        ("0.0.0.0", False, False, False),
        ("0.0.0.0", False, True, True),
        ("127.0.0.1", True, True, False),
    ],
)
def test_what_is_kept_is_listed_for_one_person_only(host: str, share: bool, login: bool, listed: bool) -> None:
    assert answers_one_person(host, share, login) is listed


def test_languages_have_the_same_strings_and_places() -> None:
    english = json.loads((FOLDER / "en.json").read_text("utf-8"))
    chinese = json.loads((FOLDER / "zh-CN.json").read_text("utf-8"))
    sentences = chinese.pop("sentences")
    assert english.keys() == chinese.keys()

    def places(text: str) -> list[str]:
        return sorted(re.findall(r"\{(\w+)\}", text))

    for key, text in english.items():
        assert places(text) == places(chinese[key]), key
    for original, own in sentences.items():
        assert set(places(own)) <= set(places(original)), original


def test_every_string_the_page_asks_for_exists_and_none_is_idle() -> None:
    source = "".join(file.read_text("utf-8") for file in Path("janus_app/ui").glob("*.py"))
    english = set(json.loads((FOLDER / "en.json").read_text("utf-8")))
    asked = set(re.findall(r"(?:label|say)\(\s*[\"'](\w+)[\"']", source))
    assert asked <= english
    # Names put together while running.
    made = (
        "span_",
        "measure_",
        "stage_",
        "state_",
        "doing_",
        "setting_",
        "method_",
        "solver_",
        "strength_",
        "image_guidance_",
    )
    idle = {key for key in english if not key.startswith(made) and not re.search(f"[\"']{key}[\"']", source)}
    assert not idle


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


def test_known_sentences_are_translated_with_their_values() -> None:
    texts = Texts()
    said = texts.sentence("Seed must be a whole number from 0 to 4294967295, not -1.", "zh-CN")
    assert "0 到 4294967295" in said and "-1" in said
    assert texts.sentence("Something nobody translated.", "zh-CN") == "Something nobody translated."


def test_text_from_outside_is_escaped() -> None:
    assert "<script>" not in message("<script>alert(1)</script>", "error")


def test_events_become_few_frames_and_nothing_is_lost() -> None:
    picture = Image.new("RGB", (8, 8))

    def events() -> Iterator[Any]:
        yield Queued(2)
        yield Notice("take care")
        for i in range(500):
            yield TextDelta("x")
            yield Progress("draw", i, 500, "tokens")
        yield Preview((picture,), 500, 500)
        yield Finished(text="x" * 500)

    frames = list(jobs.watch(events, Texts(), "en"))
    assert "number 2 in line" in frames[0].status
    assert len(frames) < 20, "frames must be dropped, not queued"
    assert frames[-1].text == "x" * 500 and frames[-1].finished and frames[-1].notices == ("take care",)


def test_a_waiting_job_is_told_its_place_when_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten looks a second, and one frame a second: each costs the server time that belongs to the job at work."""
    clock = iter(range(10_000))
    monkeypatch.setattr("janus_app.ui.jobs.time.monotonic", lambda: 1 + next(clock) / 10)

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


def test_an_answer_and_a_picture_tell_their_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a picture also the time left; nobody knows how long an answer will be."""
    clock = iter(range(1000))
    monkeypatch.setattr("janus_app.ui.jobs.time.monotonic", lambda: next(clock) / 2)

    def answer() -> Iterator[Any]:
        yield from (TextDelta("x", (i,)) for i in range(30))

    def picture() -> Iterator[Any]:
        yield from (Progress("draw", i, 60, "tokens") for i in range(30))

    said, drawn = (list(jobs.watch(events, Texts(), "en"))[-1].status for events in (answer, picture))
    assert "Writing · 30 tokens · 1.0 tokens/s" in said and "left" not in said
    assert "Drawing · 29 / 60 tokens · 1.0 tokens/s · 31 s left" in drawn


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


def test_closing_a_watched_job_closes_the_work() -> None:
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


def test_the_mask_is_what_was_painted() -> None:
    layer = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    layer.paste((255, 64, 129, 153), (10, 5, 20, 15))
    picture, mask = picture_and_mask(
        {"background": Image.new("RGBA", (40, 20), "red"), "layers": [layer], "composite": None}
    )
    assert picture.mode == "RGB" and mask is not None
    assert mask.getbbox() == (10, 5, 20, 15) and set(mask.tobytes()) == {0, 255}
    assert (
        picture_and_mask({"background": picture, "layers": [Image.new("RGBA", (40, 20))], "composite": None})[1] is None
    )
    with pytest.raises(AppError, match="no picture to edit"):
        picture_and_mask(None)


@pytest.mark.parametrize(
    ("bound", "share", "host", "allowed"),
    [
        ("127.0.0.1", False, "localhost", True),
        ("127.0.0.1", False, "::1", True),
        ("127.0.0.1", False, "192.168.1.5", False),
        ("0.0.0.0", False, "192.168.1.5", True),
        ("0.0.0.0", False, "evil.example", False),
        ("127.0.0.1", True, "abc.gradio.live", True),
        ("127.0.0.1", True, "gradio.live.evil.example", False),
    ],
)
def test_host_names(bound: str, share: bool, host: str, allowed: bool) -> None:
    assert HostGuard(None, **host_rules(bound, share)).allows(host) is allowed


def test_a_shared_page_invites_by_link_and_code() -> None:
    from janus_app.ui.invitation import invitation, printed_invitation

    html = invitation("https://x.test/?a=1&b=2", "Open:", 'a "code"')
    assert '<a href="https://x.test/?a=1&amp;b=2">' in html and 'alt="a &quot;code&quot;"' in html
    assert 'src="data:image/svg+xml' in html
    lines = printed_invitation("https://x.test/").splitlines()
    assert lines[0] == "Shared at https://x.test/"
    assert len(lines) > 10, "no code of blocks"
