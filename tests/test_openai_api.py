"""The API in OpenAI's shape, over HTTP against the served app; tests/clients has its real clients."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client
from PIL import Image

from janus_app.outputs.metadata import read_metadata
from tests.page_client import draw, gallery_of
from tests.page_server import Served, serve

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("api"), pace=0.02) as served:
        yield served


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


def test_models_lists_what_is_on_disk_and_says_which_one_is_loaded(http: httpx.Client) -> None:
    found = {row["id"]: row for row in http.get("/v1/models").json()["data"]}
    assert {"tiny-a", "tiny-b", "janus-embedded"} <= found.keys()
    assert "janus-pro-7b" not in found
    assert found["tiny-a"]["janus"]["loaded"] and found["tiny-a"]["janus"]["edit_methods"]
    assert http.get("/v1/models/tiny-b").json()["object"] == "model"


def test_the_same_seed_gives_the_same_png_by_the_page_and_the_api(
    page: Served, http: httpx.Client, tmp_path: Path
) -> None:
    answer = generate(http, n=2, guidance=5, temperature=1)
    pictures = [picture(item) for item in answer["data"]]
    assert answer["size"] == "96x96" and [item["janus"]["seed"] for item in answer["data"]] == [7, 8]
    job = draw(Client(page.url, verbose=False), PROMPT, seed=7, count=2)
    job.result(timeout=120)
    files = gallery_of(job)
    for one, file in zip(pictures, files, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(Image.open(file)))
    assert read_metadata(base64.b64decode(answer["data"][0]["b64_json"])).seed == 7


def test_a_stream_sends_partial_pictures_and_then_the_finished_one(http: httpx.Client) -> None:
    body = {"prompt": PROMPT, "model": "tiny-a", "seed": 7, "stream": True, "partial_images": 2}
    with http.stream("POST", "/v1/images/generations", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = list(events(response))
    kinds = [event["type"].removeprefix("image_generation.") for event in found]
    assert kinds in (["partial_image", "completed"], ["partial_image", "partial_image", "completed"])
    assert [event["partial_image_index"] for event in found[:-1]] == list(range(len(found) - 1))
    assert picture(found[-1]).tobytes() == picture(generate(http)["data"][0]).tobytes()
    assert picture(found[0]).tobytes() != picture(found[-1]).tobytes()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_model_within_a_step(page: Served, http: httpx.Client, stream: bool) -> None:
    body = {"prompt": PROMPT, "model": "tiny-a", "n": 16, "stream": stream, "partial_images": 3}
    if stream:
        with http.stream("POST", "/v1/images/generations", json=body) as response:
            next(events(response))
            assert page.session.state.phase == "busy"
    else:
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/images/generations", json=body, timeout=0.3)
    wait_until(lambda: page.session.state.phase == "ready" and page.session.state.queue == 0)


def test_a_request_loads_another_model_and_draws_with_it_alone(page: Served, http: httpx.Client) -> None:
    assert generate(http, model="tiny-b")["janus"]["model"] == "tiny-b"
    assert page.session.state.variant_id == "tiny-b"
    assert generate(http, model="tiny-a")["janus"]["model"] == "tiny-a"
    assert generate(http, model=None)["janus"]["model"] == "tiny-a"


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
        ({"seed": 2**60}, 400, "integer_out_of_range", "seed"),
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
