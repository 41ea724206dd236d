"""What visitors do on the page, over HTTP and without a browser (tests/browser has one)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from PIL import Image

from janus_app.outputs.conversations import Conversations
from janus_app.outputs.metadata import read_metadata
from janus_app.types import drain
from tests.page_client import act, ask, draw, gallery_of, outputs_text
from tests.page_server import Served, wait_until


def test_drawn_pictures_are_saved_with_metadata_and_served_byte_for_byte(page: Served, client: Client) -> None:
    job = draw(client, count=2, seed=41)
    job.result(timeout=60)
    served = gallery_of(job)
    saved = sorted(page.outputs.glob("*_4[12].png"))
    assert [file.read_bytes() for file in served] == [file.read_bytes() for file in saved]
    first, second = (read_metadata(file) for file in served)
    assert (first.seed, second.seed, first.model, first.prompt) == (41, 42, "tiny-a", "a red circle")
    assert len(first.image_tokens) == 36 and first.settings["guidance"] == 5
    assert "data:image/jpeg;base64" in outputs_text(job), "no preview was shown"


def context_used(answer: Any) -> int:
    found = re.search(r"(\d+) of 512 tokens used", json.dumps(answer))
    assert found, answer
    return int(found[1])


def test_picture_drawn_in_chat_can_be_discussed_and_edited(page: Served, client: Client) -> None:
    words = context_used(ask(client, "What is it?").result(timeout=60))
    client.reset_session()
    drawn = ask(client, "/draw a red circle").result(timeout=60)
    assert [part["type"] for part in drawn[0][1]["content"]] == ["component"]
    asked = ask(client, "What is it?").result(timeout=60)
    assert [turn["role"] for turn in asked[0]] == ["user", "assistant"] * 2
    assert context_used(asked) > words + 30, "the drawn picture is part of the question"
    edited = ask(client, "/edit a blue circle").result(timeout=60)
    assert [part["type"] for part in edited[0][5]["content"]] == ["component"]
    assert "Keeps the top" in json.dumps(edited), "the note of the edit method is shown"
    newest = max(page.outputs.glob("*.png"), key=lambda file: file.stat().st_mtime_ns)
    record = read_metadata(newest)
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
def test_command_that_fails_is_returned_to_the_box_with_a_sentence(client: Client, text: str, sentence: str) -> None:
    job = ask(client, text)
    job.result(timeout=30)
    last = json.dumps(job.outputs()[-1])
    assert sentence in outputs_text(job) and text in last
    assert "chat-status" not in last, "the state of a refused job stays on view"


def test_file_that_is_no_picture_leaves_the_message_box_with_a_sentence(client: Client, tmp_path: Path) -> None:
    (tmp_path / "fake.png").write_text("not a picture")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    files = [handle_file(str(tmp_path / name)) for name in ("fake.png", "red.png")]
    box, notes, sight, _ = act(client, "chat-acts", "files", chat_box={"text": "What is it?", "files": files}).result(
        30
    )
    assert box["text"] == "What is it?" and len(box["files"]) == 1
    assert "fake.png" in notes and "message error" in notes and sight.count("<img") == 1


def test_picture_of_a_batch_can_be_drawn_alone(page: Served, client: Client) -> None:
    both = draw(client, count=2, seed=300)
    both.result(timeout=60)
    alone = draw(client, count=1, seed=301)
    alone.result(timeout=60)
    assert read_metadata(gallery_of(both)[1]).image_tokens == read_metadata(gallery_of(alone)[0]).image_tokens


def test_answers_stream_and_report_the_used_context(client: Client, tmp_path: Path) -> None:
    picture = tmp_path / "red.png"
    Image.new("RGB", (40, 30), "red").save(picture)
    job = ask(client, "What is it?", [handle_file(str(picture)), handle_file(str(picture))])
    final = job.result(timeout=60)
    assert len(job.outputs()) >= 3, "the answer did not stream"
    assert "chat-status" in json.dumps(job.outputs()[:-1]) and "chat-status" not in json.dumps(final)
    talk = final[0]
    assert [turn["role"] for turn in talk] == ["user", "assistant"]
    assert [part["type"] for part in talk[0]["content"]] == ["component", "text"]
    assert talk[0]["content"][0]["value"].count("<img") == 2
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
    assert sentence in outputs_text(job)
    assert "Traceback" not in outputs_text(job)


@pytest.mark.parametrize("question", ["", "a.txt"])
def test_bad_question_is_returned_to_the_box_with_a_sentence(client: Client, tmp_path: Path, question: str) -> None:
    files = []
    if question:
        (tmp_path / question).write_text("not a picture")
        files = [handle_file(str(tmp_path / question))]
    job = ask(client, "" if not question else "keep me", files)
    try:
        job.result(timeout=30)
    except Exception as refused:  # Gradio itself refuses files that are not pictures
        assert "Traceback" not in str(refused)
        return
    said = outputs_text(job)
    assert "message error" in said
    assert not question or "keep me" in said


def test_second_visitor_waits_and_each_gets_their_own_seeds(page: Served) -> None:
    one, two = Client(page.url, verbose=False), Client(page.url, verbose=False)
    with page.session.held():
        first = draw(one, prompt="one", count=16, seed=1000)
        wait_until(lambda: page.session.state.phase == "busy")
        second = draw(two, prompt="two", count=2, seed=5000)
        wait_until(lambda: "You are next in line" in outputs_text(second))
        assert page.session.state.queue == 1
    first.result(timeout=120)
    second.result(timeout=120)
    mine = [read_metadata(file) for file in gallery_of(first)]
    theirs = [read_metadata(file) for file in gallery_of(second)]
    assert [(r.prompt, r.seed) for r in mine] == [("one", 1000 + i) for i in range(16)]
    assert [(r.prompt, r.seed) for r in theirs] == [("two", 5000), ("two", 5001)]


def test_cancelled_job_frees_the_session_and_saves_nothing(
    page: Served, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(page.outputs.glob("*.png"))
    monkeypatch.setattr(page.session, "pace", 0.1)
    with page.session.held():
        job = draw(client, count=16, seed=77_000, prompt="never finished")
        wait_until(lambda: page.session.state.phase == "busy" and job.outputs())
        act(client, "draw-stop").result(timeout=60)
    assert "Stopped" in str(job.result(timeout=60)) + outputs_text(job)
    wait_until(lambda: page.session.state.phase == "ready" and page.session.state.queue == 0)
    again = draw(client, count=1, seed=3)
    again.result(timeout=60)
    assert not [file for file in set(page.outputs.glob("*.png")) - before if "_77" in file.name]


def test_cancelled_waiting_job_leaves_the_queue(page: Served, client: Client) -> None:
    with page.session.held():
        first = draw(client, count=16, seed=88_000)
        wait_until(lambda: page.session.state.phase == "busy")
        other = Client(page.url, verbose=False)
        second = draw(other, count=1, seed=89_000)
        wait_until(lambda: page.session.state.queue == 1 and second.outputs())
        act(other, "draw-stop").result(timeout=60)
        wait_until(lambda: page.session.state.queue == 0)
        assert not first.done(), "the running job continues"
    first.result(timeout=60)
    assert not list(page.outputs.glob("*_89000.png")) and len(list(page.outputs.glob("*_880[01]?.png"))) == 16


def test_variant_is_switched_and_an_unknown_one_refused(page: Served, client: Client) -> None:
    job = act(client, "model-list", model_variant="tiny-b", model_device="cpu")
    job.result(timeout=60)
    assert page.session.state.variant_id == "tiny-b"
    job = act(client, "model-list", model_variant="tiny-zzz", model_device="cpu")
    job.result(timeout=60)
    assert "no model called" in outputs_text(job)
    assert page.session.state.variant_id == "tiny-b", "an unknown name must not unload the model"
    job = act(client, "model-list", model_variant="tiny-a", model_device="cuda:99")
    job.result(timeout=60)
    assert "message error" in outputs_text(job)
    drain(page.session.load("tiny-a", device="cpu"))


def test_flow_model_draws_reproducibly_by_its_own_settings(page: Served, client: Client) -> None:
    pytest.importorskip("diffusers")
    act(client, "model-list", model_variant="tiny-flow", model_device="cpu").result(timeout=120)
    assert page.session.state.variant_id == "tiny-flow"
    late = {"steps": 4, "start": 0.25}
    try:
        drawings = []
        for flow in (late | {"solver": "ab2"}, late | {"solver": "ab2"}, late, {"steps": 2}):
            drawings.append(draw(client, count=1, seed=21, guidance=2, **flow))
            drawings[-1].result(timeout=120)  # so that none waits for another
        first, again, other, short = (gallery_of(job)[0] for job in drawings)
        record = read_metadata(first)
        assert record.settings == {
            "guidance": 2,
            "steps": 4,
            "solver": "ab2",
            "guidance_start": 0.25,
            "guidance_end": 1,
        }
        assert read_metadata(short).settings == {"guidance": 2, "steps": 2, "solver": "euler"}
        pictures = [Image.open(file).tobytes() for file in (first, again, other)]
        assert pictures[0] == pictures[1] != pictures[2]
        said = outputs_text(drawings[0])
        assert "Adams-Bashforth" in said and "guidance from 0.25 to 1" in said
        assert re.search(r"\d / 4 steps|\d of 4 steps", said), "progress is counted in steps"
        backwards = draw(client, count=1, steps=4, start=0.8, end=0.2)
        backwards.result(timeout=60)
        assert "end of the guidance interval" in outputs_text(backwards)
    finally:
        drain(page.session.load("tiny-a", device="cpu"))


def test_pictures_may_have_any_name(page: Served) -> None:
    """What a file is shows in its content: `open_picture` refuses what is none, in a sentence of the app."""
    uploads = [block for block in page.demo.blocks.values() if hasattr(block, "file_types")]
    assert {type(block).__name__ for block in uploads} >= {"File", "Gallery", "MultimodalTextbox"}
    assert [block.elem_id for block in uploads if block.file_types] == []
