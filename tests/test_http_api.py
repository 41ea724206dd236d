"""The API for other programs, over HTTP against the served app; tests/clients has its real clients."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import shlex
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client
from PIL import Image
from starlette.requests import Request

from janus_app.cli import main
from janus_app.errors import AppError
from janus_app.outputs.metadata import read_metadata
from janus_app.outputs.store import OutputStore
from janus_app.server.api import fetch as fetch_module
from janus_app.server.api.app import api_app
from janus_app.server.api.chat import StopFilter
from janus_app.server.api.context import ApiContext, EventStream
from janus_app.server.api.fetch import fetch
from janus_app.server.api.gate import Access, ApiGate, api_access
from janus_app.server.bridge import steps
from janus_app.types import Event, Finished, Preview, Progress, drain
from tests.coroutines import run
from tests.page_client import draw, gallery_of
from tests.page_server import GOLDEN, Served, serve
from tests.test_adapters import pair, write_adapter

ROOT = Path(__file__).parent.parent
PROMPT = "a red circle"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("api")) as served:
        yield served


@pytest.fixture
def slow(page: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drawing takes so long that a test can look at it."""
    monkeypatch.setattr(page.session, "pace", 0.1)


@pytest.fixture
def http(page: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=page.url, timeout=60) as client:
        yield client


def generate(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/images/generations", json={"prompt": PROMPT, "model": "tiny-a", "seed": 7} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def picture(item: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    (error,) = answer.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    return error


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_adapters_are_named_in_a_request_and_recorded(
    http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JANUS_APP_DATA", str(tmp_path))
    config = json.loads((GOLDEN / "janus_pro_1b" / "checkpoint" / "config.json").read_text("utf-8"))
    side = config["language_config"]["hidden_size"]
    folder = write_adapter(tmp_path / "adapters" / "frogs", pair(shape=(side, side)))
    plain = generate(http)["data"][0]
    changed = picture(generate(http, adapters=["frogs=0.5"])["data"][0])
    assert read_metadata(changed).settings["adapters"] == "frogs=0.5"
    kept = picture(generate(http)["data"][0])
    assert kept.tobytes() == changed.tobytes(), "without the field, the loaded adapters stay"
    again = picture(generate(http, adapters=[])["data"][0])
    assert again.tobytes() == picture(plain).tobytes() != changed.tobytes()
    assert "adapters" not in read_metadata(again).settings
    for name in (str(folder), "../adapters/frogs", "cats"):
        answer = http.post("/v1/images/generations", json={"prompt": PROMPT, "model": "tiny-a", "adapters": [name]})
        assert error_of(answer, 404)["code"] == "adapter_unknown"


def test_models_lists_what_is_on_disk_and_says_which_one_is_loaded(http: httpx.Client) -> None:
    found = {row["id"]: row for row in http.get("/v1/models").json()["data"]}
    assert {"tiny-a", "tiny-b", "janus-embedded"} <= found.keys()
    assert "janus-pro-7b" not in found
    assert found["tiny-a"]["janus_app"]["loaded"] and found["tiny-a"]["janus_app"]["edit_methods"]
    for name in ("tiny-b", "%20Tiny-B%20", "tiny-a%20"):
        assert http.get(f"/v1/models/{name}").json()["object"] == "model"


def test_the_same_seed_gives_the_same_png_by_the_page_and_the_api(
    page: Served, http: httpx.Client, tmp_path: Path
) -> None:
    answer = generate(http, n=2, guidance=5, temperature=1)
    pictures = [picture(item) for item in answer["data"]]
    assert answer["size"] == "96x96" and [item["janus_app"]["seed"] for item in answer["data"]] == [7, 8]
    job = draw(Client(page.url, verbose=False), PROMPT, seed=7, count=2)
    job.result(timeout=120)
    files = gallery_of(job)
    for one, file in zip(pictures, files, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(Image.open(file)))
    assert read_metadata(base64.b64decode(answer["data"][0]["b64_json"])).seed == 7


def test_the_same_seed_gives_the_same_pixels_on_the_command_line(http: httpx.Client, tmp_path: Path) -> None:
    settings = ["--prompt", PROMPT, "--seed", "7", "--guidance", "5", "--temperature", "1", "--device", "cpu"]
    model = str(GOLDEN / "janus_pro_1b" / "checkpoint")  # that of tiny-a
    assert main(["generate", "--model", model, *settings, "--out", str(tmp_path / "a.png")]) == 0
    answer = generate(http, guidance=5, temperature=1)
    assert picture(answer["data"][0]).tobytes() == Image.open(tmp_path / "a.png").tobytes()


# What the programs send, as their sources say.
OPEN_WEBUI = {"model": "tiny-a", "prompt": PROMPT, "n": 1, "size": "512x512", "response_format": "b64_json"}
LIBRECHAT = {"model": "tiny-a", "prompt": PROMPT, "n": 1, "background": "auto", "output_format": "png", "size": "auto"}
LITELLM = {"model": "tiny-a", "prompt": PROMPT, "n": 1, "size": "1024x1024"}


@pytest.mark.parametrize("body", [OPEN_WEBUI, LIBRECHAT | {"quality": "auto"}, LITELLM])
def test_requests_of_known_programs_get_their_picture(http: httpx.Client, body: dict[str, Any]) -> None:
    answer = http.post("/v1/images/generations", json=body)
    assert picture(answer.json()["data"][0]).size == (96, 96)


def test_a_stream_sends_partial_pictures_and_then_the_finished_one(http: httpx.Client) -> None:
    body = {"prompt": PROMPT, "model": "tiny-a", "seed": 7, "stream": True, "partial_images": 100}
    with http.stream("POST", "/v1/images/generations", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = list(events(response))
    kinds = [event["type"].removeprefix("image_generation.") for event in found]
    assert len(kinds) >= 2 and kinds == ["partial_image"] * (len(kinds) - 1) + ["completed"]
    assert [event["partial_image_index"] for event in found[:-1]] == list(range(len(found) - 1))
    assert picture(found[-1]).tobytes() == picture(generate(http)["data"][0]).tobytes()
    assert picture(found[0]).tobytes() != picture(found[-1]).tobytes()


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_model_within_a_step(
    page: Served, http: httpx.Client, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Event] = []
    left = threading.Event()
    paced = page.session._paced

    def recorded(job: Any) -> Iterator[Event]:
        with closing(paced(job)) as job_events:
            for event in job_events:
                seen.append(event)
                yield event
                if any(isinstance(earlier, Preview) for earlier in seen):
                    assert left.wait(30)

    monkeypatch.setattr(page.session, "_paced", recorded)
    # So many that already the first preview is due: on a busy machine few others are drawn.
    body = {"prompt": PROMPT, "model": "tiny-a", "n": 16, "stream": stream, "partial_images": 100}
    saved = len(list(page.outputs.glob("*.png")))
    if stream:
        with http.stream("POST", "/v1/images/generations", json=body) as response:
            first = next(events(response))
            assert first["type"] == "image_generation.partial_image" and page.session.state.phase == "busy", first
    else:
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/images/generations", json=body, timeout=0.3)
    left.set()
    wait_until(lambda: page.session.state.phase == "ready" and page.session.state.queue == 0)
    assert not any(isinstance(event, Finished) for event in seen)
    assert len(list(page.outputs.glob("*.png"))) == saved


@pytest.mark.parametrize("leaves", [True, False])
def test_a_stream_says_that_it_works_during_a_long_step(monkeypatch: pytest.MonkeyPatch, leaves: bool) -> None:
    monkeypatch.setattr("janus_app.server.api.context.PING_SECONDS", 0.01)
    sent, ended = [], []

    async def ask() -> None:
        pinged = asyncio.Event()

        async def step() -> AsyncGenerator[str, None]:
            try:
                await (asyncio.Event() if leaves else pinged).wait()
                yield "data: 1\n\n"
            finally:
                await asyncio.sleep(0)
                ended.append(True)

        async def receive() -> Any:
            await (pinged if leaves else asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))
            if sent[-1].startswith(b": working"):
                pinged.set()

        scope = {"type": "http", "headers": []}
        async with asyncio.timeout(30):
            await EventStream(Request(scope), step())(scope, receive, send)

    run(ask())
    assert b": working\n\n" in sent and ended == [True]
    assert (b"data: 1\n\n" in sent) != leaves


def test_clients_of_every_kind_and_the_page_wait_in_one_line(
    page: Served, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    paced = page.session._paced

    def recorded(job: Any) -> Iterator[Event]:
        with closing(paced(job)) as job_events:
            for event in job_events:
                if isinstance(event, Finished) and event.provenance:
                    ended.append(event.provenance.request.seed)  # type: ignore[union-attr]
                yield event

    monkeypatch.setattr(page.session, "_paced", recorded)
    ask = {"prompt": PROMPT, "seed": 1}
    tab = Client(page.url, verbose=False)
    held = page.session._queue.join()  # the machine is busy
    with ThreadPoolExecutor(3) as pool:
        pool.submit(http.post, "/v1/images/generations", json=ask)
        wait_until(lambda: page.session.state.queue == 1)
        drawing = draw(tab, PROMPT, seed=2, count=1)
        wait_until(lambda: page.session.state.queue == 2)
        pool.submit(http.post, "/sdapi/v1/txt2img", json=ask | {"seed": 3})
        wait_until(lambda: page.session.state.queue == 3)
        page.session._queue.leave(held)
        drawing.result(timeout=60)
    assert ended == [1, 2, 3]


def test_a_request_while_a_model_loads_waits_for_it(page: Served, http: httpx.Client) -> None:
    with closing(page.session.load("tiny-b")) as loading, ThreadPoolExecutor(1) as pool:
        while page.session.state.phase != "loading":
            next(loading)
        answer = pool.submit(generate, http, model="tiny-a")
        wait_until(lambda: page.session.state.queue == 1)
        drain(loading)
        assert answer.result(timeout=60)["janus_app"]["model"] == "tiny-a"


def test_two_hundred_requests_at_once_are_answered_or_told_to_come_back(page: Served) -> None:
    body = {"model": "tiny-a", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}

    async def ask() -> list[httpx.Response]:
        unlimited = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=page.url, timeout=60, limits=unlimited, trust_env=False) as client:
            return await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for _ in range(200)))

    answers = run(ask())
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert sum(answer.status_code == 200 for answer in answers) >= 64  # as many as may wait
    for answer in answers:
        if answer.status_code == 429:
            assert error_of(answer, 429)["code"] == "api_line_full"
    wait_until(lambda: page.session.state.phase == "ready" and page.session.state.queue == 0)


def test_a_cancelled_task_closes_its_job_after_the_running_step() -> None:
    inside, go, closed = threading.Event(), threading.Event(), threading.Event()

    def job() -> Iterator[Event]:
        try:
            while True:
                inside.set()
                go.wait(30)
                yield Progress("draw", 1, 2)
        finally:
            closed.set()

    held: Any = job()  # so that it is not closed by losing its last reference

    async def leave() -> None:
        async def consume() -> None:
            async with aclosing(steps(held, ThreadPoolExecutor(1))) as job_events:
                async for _ in job_events:
                    pass

        task = asyncio.create_task(consume())
        await asyncio.to_thread(inside.wait, 30)
        task.cancel()
        go.set()
        await asyncio.wait([task])

    run(leave())
    assert closed.is_set()


def test_a_request_loads_another_model_and_draws_with_it_alone(page: Served, http: httpx.Client) -> None:
    assert generate(http, model="tiny-b")["janus_app"]["model"] == "tiny-b"
    assert page.session.state.variant_id == "tiny-b"
    assert generate(http, model="tiny-a")["janus_app"]["model"] == "tiny-a"
    assert generate(http, model=None)["janus_app"]["model"] == "tiny-a"


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"model": "gpt-image-1"}, 404, "model_not_found", "model"),
        ({"model": "../tiny-a"}, 404, "model_not_found", "model"),
        ({"model": "/etc"}, 404, "model_not_found", "model"),
        ({"model": "janus-pro-7b"}, 409, "model_not_downloaded", "model"),
        ({"prompt": None}, 400, "api_field_wrong", "prompt"),
        ({"prompt": "  "}, 400, "text_empty", "prompt"),
        ({"n": 0}, 400, "integer_out_of_range", "n"),
        ({"n": 999}, 400, "integer_out_of_range", "n"),
        ({"n": "many"}, 400, "api_field_wrong", "n"),
        ({"size": "0x0"}, 400, "api_size_malformed", "size"),
        ({"response_format": "gif"}, 400, "api_field_wrong", "response_format"),
        ({"guidance": 1e9}, 400, "number_out_of_range", "guidance"),
        ({"seed": 2**60}, 400, "seed_too_large", "seed"),
    ],
)
def test_bad_requests_are_refused_in_openais_shape(
    http: httpx.Client, fields: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    answer = http.post("/v1/images/generations", json={"prompt": PROMPT, "model": "tiny-a"} | fields)
    error = error_of(answer, status)
    assert (error["code"], error["param"]) == (code, param)
    assert "Traceback" not in error["message"] and answer.headers["x-should-retry"] == "false"


def test_malformed_bodies_and_unknown_routes_are_refused_in_openais_shape(http: httpx.Client) -> None:
    route = "/v1/images/generations"
    for content in (b"", b"{", b"[" * 100_000, b"\xff\xfe", b'"text"', b"[]"):
        assert error_of(http.post(route, content=content), 400)["type"] == "invalid_request_error"
    assert error_of(http.get(route), 405)["code"] == "api_method_not_allowed"
    assert error_of(http.get("/v1/nothing"), 404)["code"] == "api_route_unknown"
    error_of(http.post(route, content=(b" " * 1_000_000 for _ in range(31))), 413)


def test_a_foreign_host_or_web_site_reaches_no_model(http: httpx.Client) -> None:
    assert http.get("/v1/models", headers={"host": "evil.example"}).status_code == 400
    answer = http.get("/v1/models", headers={"origin": "http://evil.example"})
    assert error_of(answer, 403)["code"] == "api_origin_refused"


def test_pictures_can_be_answered_as_urls_and_in_other_formats(page: Served, http: httpx.Client) -> None:
    for media in ("png", "jpeg", "webp"):
        url = generate(http, response_format="url", output_format=media)["data"][0]["url"]
        assert url.startswith(f"{page.url}/v1/images/files/")
        answer = http.get(url)
        assert answer.headers["content-type"] == f"image/{media}"
        assert Image.open(io.BytesIO(answer.content)).format == media.upper()
        assert picture(generate(http, output_format=media)["data"][0]).format == media.upper()
    assert error_of(http.get("/v1/images/files/..%2f..%2fetc%2fpasswd"), 404)
    assert error_of(http.get("/v1/images/files/nothing.png"), 404)["code"] == "api_picture_gone"


# Edits


def png_of(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def drawn(page: Served) -> bytes:
    with httpx.Client(base_url=page.url, timeout=60) as client:
        return base64.b64decode(generate(client)["data"][0]["b64_json"])


def left_half(mode: str) -> bytes:
    """A mask of the left half: transparent there, as OpenAI's clients send it, or white, as all others do."""
    keep, redraw = ((0, 0, 0, 255), (0, 0, 0, 0)) if mode == "RGBA" else (0, 255)
    mask = Image.new(mode, (96, 96), keep)
    mask.paste(redraw, (0, 0, 48, 96))
    return png_of(mask)


def edit(http: httpx.Client, files: Any, route: str = "edits", **fields: Any) -> httpx.Response:
    data = {"prompt": "a blue square", "model": "tiny-a", "seed": "3"} | fields
    return http.post(f"/v1/images/{route}", data=data, files=files)


def test_an_alpha_mask_and_a_grey_mask_redraw_the_same_half(http: httpx.Client, drawn: bytes) -> None:
    answers = [
        edit(http, [("image", ("upload", drawn, "application/octet-stream")), ("mask", left_half("RGBA"))]),
        edit(http, [("image[]", drawn), ("mask", left_half("L"))]),
    ]
    alpha, grey = (picture(answer.json()["data"][0]) for answer in answers)
    assert alpha.tobytes() == grey.tobytes()
    before, after = np.asarray(Image.open(io.BytesIO(drawn))), np.asarray(alpha)
    assert not np.array_equal(before[:, :40], after[:, :40])
    assert read_metadata(alpha).settings["method"] == "region"


def test_an_edit_as_json_gives_what_the_form_gives(http: httpx.Client, drawn: bytes) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(drawn).decode()}"
    fields = {"prompt": "a blue square", "model": "tiny-a", "seed": 3, "method": "variation", "image": [uri]}
    as_json = http.post("/v1/images/edits", json=fields).json()["data"][0]
    as_form = edit(http, {"image": drawn}, method="variation").json()["data"][0]
    assert picture(as_json).tobytes() == picture(as_form).tobytes()


def test_a_streamed_edit_and_variations_are_answered(http: httpx.Client, drawn: bytes) -> None:
    found = list(events(edit(http, {"image": drawn}, stream="true", partial_images="3")))
    assert found[-1]["type"] == "image_edit.completed" and picture(found[-1]).size == (96, 96)
    varied = edit(http, {"image": drawn}, route="variations", prompt="", n="2").json()["data"]
    assert len(varied) == 2 and read_metadata(picture(varied[0])).prompt == PROMPT  # that of the picture


@pytest.mark.parametrize(
    ("files", "fields", "status", "code"),
    [
        ({}, {}, 400, "edit_image_missing"),
        ({"image": b"no picture"}, {}, 415, "picture_not_openable"),
        ({}, {"image": "/etc/passwd"}, 400, "api_picture_not_base64"),
        ({}, {"image": "data:text/html,x"}, 400, "api_picture_not_base64"),
        ({}, {"image": "http://169.254.169.254/latest"}, 400, "api_url_refused"),
        ({"image": png_of(Image.new("1", (9000, 9000)))}, {}, 413, "picture_too_many_pixels"),
        ({"image": png_of(Image.new("RGB", (96, 96)))}, {"method": "magic"}, 400, "edit_method_unknown"),
    ],
)
def test_what_is_no_picture_is_refused_before_it_waits(
    http: httpx.Client, files: dict[str, bytes], fields: dict[str, str], status: int, code: str
) -> None:
    data = {"prompt": "x", "model": "tiny-a"} | fields
    answer = http.post("/v1/images/edits", **({"data": data, "files": files} if files else {"json": data}))
    assert error_of(answer, status)["code"] == code


# Chat


def chat(http: httpx.Client, content: Any = "What is it?", **fields: Any) -> httpx.Response:
    body = {"model": "tiny-a", "messages": [{"role": "user", "content": content}], "max_tokens": 8, "seed": 1}
    return http.post("/v1/chat/completions", json=body | fields)


def with_picture(text: str, content: bytes) -> list[dict[str, Any]]:
    uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": uri}}]


def test_a_streamed_answer_about_a_picture_is_the_whole_answer_in_parts(http: httpx.Client, drawn: bytes) -> None:
    question = with_picture("What is it?", drawn)
    whole = chat(http, question).json()
    answer = chat(http, question, stream=True, stream_options={"include_usage": True})
    chunks = list(events(answer))
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    (choice,) = whole["choices"]
    assert choice["message"]["content"] == text and text
    assert choice["finish_reason"] == chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert whole["usage"] == chunks[-1]["usage"] and whole["usage"]["completion_tokens"] == 8
    assert whole["usage"]["prompt_tokens"] > chat(http).json()["usage"]["prompt_tokens"]
    assert answer.text.rstrip().endswith("data: [DONE]")


def test_a_stop_string_ends_the_answer_before_it(http: httpx.Client) -> None:
    text = chat(http, max_tokens=16).json()["choices"][0]["message"]["content"]
    stop = text[3:6]
    cut = chat(http, max_tokens=16, stop=[stop, "never"]).json()["choices"][0]
    assert cut["message"]["content"] == text[: text.find(stop)] and cut["finish_reason"] == "stop"


def test_stop_strings_are_found_across_parts_and_nothing_else_is_lost() -> None:
    filter = StopFilter(("END", "EX"))
    assert [filter.feed(part) for part in ("a E", "N", "Eb E", "ND c")] == ["a ", "", "ENEb ", ""]
    assert filter.stopped


def test_a_picture_drawn_in_the_chat_is_the_one_of_the_same_seed(http: httpx.Client, drawn: bytes) -> None:
    message = chat(http, f"/draw {PROMPT}", seed=7).json()["choices"][0]["message"]
    (image,) = message["images"]
    found = Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].partition(",")[2])))
    assert found.tobytes() == Image.open(io.BytesIO(drawn)).tobytes()
    edited = chat(http, with_picture("blue", drawn), modalities=["image", "text"], stream=True)
    deltas = [chunk["choices"][0]["delta"] for chunk in events(edited)]
    assert [len(delta["images"]) for delta in deltas if "images" in delta] == [1]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"n": 2}, "api_unsupported"),
        ({"tools": [{"type": "function"}], "tool_choice": "required"}, "api_unsupported"),
        ({"response_format": {"type": "json_object"}}, "api_unsupported"),
        ({"messages": []}, "api_field_wrong"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "question_missing"),
        ({"messages": [{"role": "user", "content": "/draw"}]}, "draw_command_empty"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "api_unsupported"),
        ({"max_tokens": 0}, "api_field_wrong"),
        ({"temperature": 9}, "number_out_of_range"),
        ({"temperature": 1e999}, "api_field_wrong"),
        ({"stop": list("abcde")}, "api_stops_too_many"),
        ({"stop": "a" * 501}, "api_stops_too_many"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}] * 17}]},
            "api_pictures_too_many",
        ),
        (
            {"messages": [{"role": "user", "content": "/draw"}, {"role": "system", "content": "Be brief."}]},
            "draw_command_empty",
        ),
    ],
)
def test_bad_chats_are_refused(http: httpx.Client, fields: dict[str, Any], code: str) -> None:
    body = {"messages": [{"role": "user", "content": "What is it?"}], "model": "tiny-a"} | fields
    content = json.dumps(body)  # unlike httpx, it writes infinity
    assert error_of(http.post("/v1/chat/completions", content=content), 400)["code"] == code


def test_more_pictures_than_a_request_may_have_are_refused_before_they_are_decoded(http: httpx.Client) -> None:
    as_json = http.post("/v1/images/edits", json={"prompt": PROMPT, "image": ["x"] * 17})
    as_form = http.post("/v1/images/edits", files=[("prompt", (None, PROMPT)), *[("image[]", (None, "x"))] * 17])
    for answer in (as_json, as_form):
        assert error_of(answer, 400)["code"] == "api_pictures_too_many"


def test_messages_of_known_programs_are_read(http: httpx.Client) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": [{"type": "text", "text": "What can you do?"}]},
    ]
    for fields in (
        {"stream": False, "max_completion_tokens": 4},
        {"tools": [{"type": "function"}], "tool_choice": "auto", "n": 1, "top_p": 0, "max_tokens": 4},
    ):
        assert chat(http, messages=messages, **fields).json()["choices"][0]["message"]["role"] == "assistant"


# The shape of AUTOMATIC1111


def test_a1111_clients_draw_the_same_pixels(http: httpx.Client, drawn: bytes) -> None:
    body = {"prompt": PROMPT, "seed": 7, "cfg_scale": 5, "steps": 20, "width": 512, "sampler_index": "DPM++ 2M Karras"}
    answer = http.post("/sdapi/v1/txt2img", json=body | {"override_settings": {"sd_model_checkpoint": "tiny-a"}}).json()
    found = Image.open(io.BytesIO(base64.b64decode(answer["images"][0])))
    assert found.tobytes() == Image.open(io.BytesIO(drawn)).tobytes()
    info = json.loads(answer["info"])
    assert (info["seed"], info["width"], info["all_seeds"]) == (7, 96, [7]) and PROMPT in info["infotexts"][0]


def test_a1111_clients_redraw_under_a_mask_as_the_other_route_does(http: httpx.Client, drawn: bytes) -> None:
    images = {"init_images": [base64.b64encode(drawn).decode()], "mask": base64.b64encode(left_half("L")).decode()}
    answer = http.post("/sdapi/v1/img2img", json={"prompt": "a blue square", "seed": 3} | images).json()
    expected = edit(http, [("image", drawn), ("mask", left_half("L"))]).json()["data"][0]
    assert Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))).tobytes() == picture(expected).tobytes()


def test_a1111_clients_choose_a_model_and_see_errors(page: Served, http: httpx.Client) -> None:
    for name in ("tiny-b", "tiny-a"):
        assert http.post("/sdapi/v1/options", json={"sd_model_checkpoint": name}).status_code == 200
        assert http.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == page.session.state.variant_id == name
    unread = '{"prompt": "x", "override_settings": {"sd_model_checkpoint": 5, "eta": NaN}}'
    assert "override_settings" not in http.post("/sdapi/v1/txt2img", content=unread).json()["parameters"]
    refused = http.post("/sdapi/v1/options", json={"sd_model_checkpoint": "janus-pro-7b"})
    assert refused.status_code == 409 and "Janus-Pro" in refused.json()["detail"]
    assert {"tiny-a", "tiny-b"} <= {row["title"] for row in http.get("/sdapi/v1/sd-models").json()}
    for route in ("samplers", "schedulers", "upscalers", "sd-vae", "latent-upscale-modes", "progress"):
        assert http.get(f"/sdapi/v1/{route}").status_code == 200


@pytest.mark.usefixtures("slow")
def test_interrupt_ends_the_jobs_of_a1111_clients_alone(page: Served, http: httpx.Client) -> None:
    with ThreadPoolExecutor(2) as pool:
        with page.session.held():
            job = pool.submit(http.post, "/sdapi/v1/txt2img", json={"prompt": PROMPT, "batch_size": 16})
            wait_until(lambda: page.session.state.phase == "busy")
            other = pool.submit(http.post, "/v1/images/generations", json={"prompt": PROMPT})
            wait_until(lambda: page.session.state.queue == 1)
            http.post("/sdapi/v1/interrupt")
        assert job.result().status_code == 409 and job.result().json()["error"] == "api_interrupted"
        assert other.result().status_code == 200


# Who may use it, and how much of it


def asgi(context: ApiContext, access: Access) -> httpx.AsyncClient:
    """The API without the page in front of it."""

    async def page(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the request went to the page")

    app = ApiGate(page, api_app(context), access)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


@pytest.mark.parametrize(
    ("host", "share", "login", "proxied", "is_open"),
    [
        ("127.0.0.1", False, False, False, True),
        ("127.0.0.1", False, True, False, False),
        ("127.0.0.1", False, False, True, False),
        ("0.0.0.0", False, False, False, False),
        ("127.0.0.1", True, False, False, False),
    ],
)
def test_only_a_page_of_this_machine_alone_has_an_api_without_a_key(
    host: str, share: bool, login: bool, proxied: bool, is_open: bool
) -> None:
    access, made = api_access("", host, share, login, proxied)
    assert (access.trusting and not access.key) == is_open
    assert bool(made) == share and access.key == made
    assert api_access(" given\n", host, share, login, proxied)[0].key == "given"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("Bearer key", 200),
        ("Basic YW55Ym9keTprZXk=", 200),
        ("Bearer wrong", 401),
        ("Basic !", 401),
        ("", 401),
        (b"Basic \xe9", 401),
    ],
)
def test_a_key_is_asked_for_on_every_route(page: Served, tmp_path: Path, sent: str | bytes, status: int) -> None:
    async def ask() -> None:
        async with asgi(ApiContext(page.session, OutputStore(tmp_path)), Access("key")) as client:
            for route in ("/v1/models", "/sdapi/v1/options"):
                answer = await client.get(route, headers={"authorization": sent} if sent else {})
                assert answer.status_code == status
            if status == 401:
                answer = await client.post("/mcp", headers={"authorization": sent} if sent else {}, json={})
                assert answer.status_code == status
            foreign = {"authorization": "Bearer key", "origin": "http://evil.example"}
            assert (await client.get("/v1/models", headers=foreign)).status_code == 200  # it has the key

    run(ask())


def test_without_a_key_an_api_that_others_can_reach_says_how_to_turn_it_on(page: Served, tmp_path: Path) -> None:
    async def ask() -> httpx.Response:
        async with asgi(ApiContext(page.session, OutputStore(tmp_path)), Access()) as client:
            return await client.get("/v1/models")

    assert "--api-key" in error_of(run(ask()), 403)["message"]


@pytest.mark.parametrize("name", ["Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP"])
def test_without_a_key_a_request_through_a_proxy_is_refused(page: Served, tmp_path: Path, name: str) -> None:
    async def ask(access: Access, **more: str) -> httpx.Response:
        async with asgi(ApiContext(page.session, OutputStore(tmp_path)), access) as client:
            return await client.get("/v1/models", headers={name: "203.0.113.9"} | more)

    assert error_of(run(ask(Access(trusting=True))), 403)["code"] == "api_needs_key"
    assert run(ask(Access("key"), authorization="Bearer key")).status_code == 200


def test_a_full_line_is_answered_with_when_to_come_back(page: Served, tmp_path: Path) -> None:
    context = ApiContext(page.session, OutputStore(tmp_path), line=threading.BoundedSemaphore(1))
    context.line.acquire()

    async def ask() -> tuple[httpx.Response, httpx.Response]:
        async with asgi(context, Access(trusting=True)) as client:
            body = {"prompt": PROMPT, "model": "tiny-a"}
            loading = await client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "tiny-b"})
            assert loading.status_code == 429
            full = await client.post("/v1/images/generations", json=body | {"stream": True})
            context.line.release()
            return full, await client.post("/v1/images/generations", json=body)

    full, after = run(ask())
    assert error_of(full, 429)["type"] == "rate_limit_error" and int(full.headers["retry-after"]) > 0
    assert after.status_code == 200


@pytest.mark.usefixtures("slow")
def test_a_client_that_stops_reading_loses_its_job(
    page: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("janus_app.server.api.context.STALL_SECONDS", 0.2)
    context = ApiContext(page.session, OutputStore(tmp_path))
    app = api_app(context)
    body = json.dumps({"prompt": PROMPT, "model": "tiny-a", "n": 16, "stream": True, "partial_images": 5}).encode()
    path = "/v1/images/generations"
    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"", "client": ("a", 1)}

    async def ask() -> None:
        sent = [{"type": "http.request", "body": body}]

        async def receive() -> Any:
            return sent.pop() if sent else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()  # the buffers are full

        await app(scope, receive, send)

    run(ask())
    assert page.session.state.phase == "ready" and page.session.state.queue == 0
    assert context.line.acquire(blocking=False)


def test_a_bug_is_answered_without_its_text(
    page: Served, http: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a secret")
        yield

    monkeypatch.setattr(page.session, "run_on", broken)
    answer = http.post("/v1/images/generations", json={"prompt": PROMPT})
    assert error_of(answer, 500)["code"] == "api_bug" and "secret" not in answer.text
    assert "a secret" in caplog.text


# Pictures at web addresses


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "2130706433", "10.0.0.1", "169.254.169.254", "[::ffff:10.0.0.1]", "0.0.0.0",
     "[64:ff9b::a00:1]", "192.168.1.1", "[fe80::1]"],
)  # fmt: skip
def test_private_addresses_are_never_fetched(host: str) -> None:
    with pytest.raises(AppError) as refused:
        fetch(f"http://{host}:9/")
    assert refused.value.code == "api_url_private"


def test_a_public_address_is_fetched_and_a_redirect_into_the_network_is_not(
    monkeypatch: pytest.MonkeyPatch, drawn: bytes
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            inside = self.path == "/redirect"
            if self.path.startswith("/slow"):
                self.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if self.path == "/slow_body" else b"x-long: "))
                with suppress(OSError):  # until the client has gone
                    while True:
                        self.wfile.write(b"x")
                        time.sleep(0.02)
                return
            self.send_response(302 if inside else 304 if self.path == "/304" else 200)
            if inside:
                self.send_header("location", f"http://127.0.0.1:{server.server_port}/picture")
            self.end_headers()
            self.wfile.write(b"" if inside else drawn if self.path == "/picture" else b"x" * 50_000_000)

        def log_message(self, *_: Any) -> None: ...

    real = fetch_module.public_address
    monkeypatch.setattr(
        fetch_module, "public_address", lambda host, port: "127.0.0.1" if host == "example.org" else real(host, port)
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://example.org:{server.server_port}"
        assert fetch(f"{base}/picture") == drawn
        for path in ("redirect", "endless", "304", "slow_body", "slow_header"):
            if path.startswith("slow"):
                monkeypatch.setattr(fetch_module, "SECONDS", 0.5)
            code = "api_url_private" if path == "redirect" else "api_url_unreadable"
            with pytest.raises(AppError) as refused:
                fetch(f"{base}/{path}")
            assert refused.value.code == code
        server.shutdown()


def test_several_pictures_at_web_addresses_are_fetched_at_the_same_time(
    page: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: bytes
) -> None:
    both = threading.Barrier(2, timeout=30)

    def fetched(url: str) -> bytes:
        both.wait()
        return drawn

    monkeypatch.setattr("janus_app.server.api.inputs.fetch", fetched)
    urls = ["http://example.org/1", "http://example.org/2"]

    async def ask(route: str, body: dict[str, Any]) -> httpx.Response:
        context = ApiContext(page.session, OutputStore(tmp_path), fetch_images=True)
        async with asgi(context, Access(trusting=True)) as client:
            return await client.post(route, json=body | {"model": "tiny-a"})

    edited = run(ask("/v1/images/edits", {"prompt": PROMPT, "images": urls}))
    assert error_of(edited, 400)["code"] == "edit_takes_one_image"
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    told = run(ask("/v1/chat/completions", {"messages": [{"role": "user", "content": parts}], "max_tokens": 1}))
    assert told.status_code == 200, told.text


# The docs

DOCS = [ROOT / "docs" / "api.md", ROOT / "docs" / "api.zh-CN.md"]


def curl_lines(page: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("curl") and "localhost" in line]


def test_both_languages_of_the_docs_show_the_same_commands() -> None:
    assert curl_lines(DOCS[0]) == curl_lines(DOCS[1]) and len(curl_lines(DOCS[0])) == 12


def test_every_command_of_the_docs_is_answered(page: Served, drawn: bytes, tmp_path: Path) -> None:
    """It ends with the embedded model in place of the tiny one, so it is the last test here."""
    (tmp_path / "frogs.png").write_bytes(drawn)
    (tmp_path / "mask.png").write_bytes(left_half("RGBA"))
    for line in curl_lines(DOCS[0]):
        words = shlex.split(line.replace("localhost:7860", page.url.removeprefix("http://")))
        done = subprocess.run([*words, "--fail-with-body"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{line}\n{done.stdout}"
        assert "b64_json" in done.stdout if "/images/" in line else done.stdout
    assert page.session.state.variant_id == "janus-embedded"
