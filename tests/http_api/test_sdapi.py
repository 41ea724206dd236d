"""AUTOMATIC1111's format."""

from __future__ import annotations

import base64
import io
import json
from types import SimpleNamespace

import httpx
from PIL import Image
from starlette.requests import Request

from janus_app.runtime.session import SessionState
from janus_app.server.api.sdapi import Webui
from janus_app.types import Progress
from tests.coroutines import run
from tests.http_api.client import PROMPT, edit, left_half, picture
from tests.page_server import Served


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


def test_a1111_clients_are_told_what_the_model_noticed(http: httpx.Client) -> None:
    wide = io.BytesIO()
    Image.new("RGB", (96, 48)).save(wide, "PNG")
    given = [base64.b64encode(wide.getvalue()).decode()]
    answer = http.post("/sdapi/v1/img2img", json={"prompt": PROMPT, "init_images": given}).json()
    notices = answer["janus_app"]["notices"]
    assert notices == edit(http, [("image", wide.getvalue())]).json()["janus_app"]["notices"] and notices


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


def test_the_bar_of_a1111_clients_never_goes_back_while_batches_are_drawn_and_decoded() -> None:
    session = SimpleNamespace()
    webui = Webui(SimpleNamespace(session=session))  # type: ignore[arg-type]

    def share(stage: str, done: int, total: int) -> float:
        now = Progress(stage, done, total) if stage else None
        session.state = SessionState(phase="busy", verb="generate", progress=now)
        share: float = json.loads(run(webui.progress(Request({"type": "http"}))).body)["progress"]
        return share

    one_batch = [("draw", 20, 40), ("draw", 40, 40), ("decode", 0, 2), ("decode", 1, 2)]
    assert [share(*seen) for seen in one_batch] == [0.5, 1, 1, 1]
    assert share("", 0, 0) == 0, "the next job begins"
    two_batches = [("draw", 10, 40), ("draw", 20, 40), ("decode", 0, 2), ("draw", 30, 40), ("decode", 1, 2)]
    assert [share(*seen) for seen in two_batches] == [0.25, 0.5, 0.5, 0.75, 1]
