"""Models and drawings in OpenAI's format, over HTTP against the served app; tests/clients has its real clients."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client
from mcp import Client as McpClient
from PIL import Image

from janus_app.cli import main
from janus_app.outputs.metadata import read_metadata
from janus_app.types import Thinking
from tests.coroutines import run
from tests.http_api.client import PROMPT, error_of, events, generate, picture
from tests.page_client import draw, gallery_of
from tests.page_server import GOLDEN, Served
from tests.test_adapters import pair, write_adapter


def frogs(data: Path) -> Path:
    """An adapter of the tiny model, by that name."""
    config = json.loads((GOLDEN / "janus_pro_1b" / "checkpoint" / "config.json").read_text("utf-8"))
    side = config["language_config"]["hidden_size"]
    return write_adapter(data / "adapters" / "frogs", pair(shape=(side, side)))


def test_adapters_are_named_in_a_request_and_recorded(
    http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JANUS_APP_DATA", str(tmp_path))
    folder = frogs(tmp_path)
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


def test_mcp_hosts_name_adapters_too(
    page: Served, http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JANUS_APP_DATA", str(tmp_path))
    frogs(tmp_path)
    seeded: dict[str, Any] = {"prompt": PROMPT, "model": "tiny-a", "seed": 7}

    async def ask() -> list[Any]:
        async with McpClient(f"{page.url}/mcp") as host:
            changed = await host.call_tool("draw", seeded | {"adapters": ["frogs=0.5"]})
            image = changed.content[0].data
            calls = {
                "describe": {"image": image, "max_tokens": 1, "temperature": 0, "adapters": ["frogs=0.25"]},
                "rank": {"prompt": PROMPT, "images": [image], "adapters": []},
                "edit": {"prompt": PROMPT, "image": image, "adapters": ["cats"]},
                "models": {},
            }
            return [image, *[await host.call_tool(name, given) for name, given in calls.items()]]

    image, described, ranked, refused, models = run(ask())
    expected = picture(generate(http, adapters=["frogs=0.5"])["data"][0])
    assert picture({"b64_json": image}).tobytes() == expected.tobytes()
    assert not described.is_error and not ranked.is_error, (described, ranked)
    assert refused.is_error and "frogs" in refused.content[0].text
    assert json.loads(models.content[1].text) == {"adapters": ["frogs"]}
    generate(http, adapters=[])


def test_plan_is_in_the_answer_of_a_program_that_streams_and_of_one_that_calls_a_tool(
    page: Served, http: httpx.Client
) -> None:
    tiny = page.session.catalog["tiny-a"]
    thinking = Thinking(ask="Plan {prompt}:", temperature=0.0, tokens=6)
    page.session.catalog.include(replace(tiny, id="tiny-plan", title="Tiny Plan", thinking=thinking))
    seeded: dict[str, Any] = {"prompt": PROMPT, "model": "tiny-plan", "seed": 7}

    def streamed(**fields: Any) -> dict[str, Any]:
        with http.stream("POST", "/v1/images/generations", json=seeded | fields | {"stream": True}) as response:
            (done,) = events(response)
        return done

    done = streamed(thinking=True)
    plan = done["janus_app"]["plan"]
    assert plan and "6" in done["janus_app"]["notices"][0], "the plan ended at the limit of its row"
    assert (read_metadata(picture(done)).plan, streamed()["janus_app"]["plan"]) == (plan, plan)
    unplanned = streamed(thinking=False)
    assert "plan" not in unplanned["janus_app"] and picture(unplanned).tobytes() != picture(done).tobytes()

    async def ask(fields: dict[str, Any]) -> Any:
        async with McpClient(f"{page.url}/mcp") as host:
            return await host.call_tool("draw", seeded | fields)

    called, plain = run(ask({"thinking": True})), run(ask({"thinking": False}))
    assert picture({"b64_json": called.content[0].data}).tobytes() == picture(done).tobytes()
    assert plan in called.content[2].text
    assert picture({"b64_json": plain.content[0].data}).tobytes() == picture(unplanned).tobytes()
    generate(http)


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


@pytest.mark.parametrize("model", ["tiny-flow", "tiny-a"])  # estimates of the whole picture; rows
def test_a_stream_sends_partial_pictures_and_then_the_finished_one(http: httpx.Client, model: str) -> None:
    body = {"prompt": PROMPT, "model": model, "seed": 7, "stream": True, "partial_images": 100}
    with http.stream("POST", "/v1/images/generations", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = list(events(response))
    kinds = [event["type"].removeprefix("image_generation.") for event in found]
    assert len(kinds) >= 2 and kinds == ["partial_image"] * (len(kinds) - 1) + ["completed"]
    assert [event["partial_image_index"] for event in found[:-1]] == list(range(len(found) - 1))
    assert picture(found[-1]).tobytes() == picture(generate(http, model=model)["data"][0]).tobytes()
    assert picture(found[0]).tobytes() != picture(found[-1]).tobytes()


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
