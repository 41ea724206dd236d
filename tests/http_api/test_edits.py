"""Edits and variations, as forms and as JSON."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image

from janus_app.outputs.metadata import read_metadata
from janus_app.registry.catalog import load_catalog
from tests.conftest import GOLDEN
from tests.http_api.client import PROMPT, edit, error_of, events, generate, left_half, picture, png_of
from tests.page_server import Served

UNIPIC2 = GOLDEN.parent / "unipic2" / "ckpt_tiny"


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


def test_several_pictures_are_edited_together_by_a_model_that_takes_several(http: httpx.Client, drawn: bytes) -> None:
    blue = png_of(Image.new("RGB", (96, 96), "blue"))
    two, turned, one = (
        picture(edit(http, [("image[]", content) for content in given], model="tiny-mq", steps="2").json()["data"][0])
        for given in ([drawn, blue], [blue, drawn], [drawn])
    )
    assert len({image.tobytes() for image in (two, turned, one)}) == 3
    refused = edit(http, [("image[]", drawn), ("image[]", blue)])  # with a model that takes one
    assert error_of(refused, 400)["code"] == "edit_takes_one_image"
    too_many = edit(http, [("image[]", drawn)] * 9, model="tiny-mq")
    assert error_of(too_many, 400)["code"] == "edit_images_too_many"


def test_a_model_that_only_draws_draws_and_refuses_edits(http: httpx.Client, drawn: bytes) -> None:
    pytest.importorskip("diffusers")
    made = picture(generate(http, model="pisces-embedded", steps=2)["data"][0])
    record = read_metadata(made)
    assert (record.model, record.settings["steps"]) == ("pisces-embedded", 2) and record.settings["vectors"]
    for mask in ({}, {"mask": left_half("L")}):
        refused = edit(http, {"image": drawn} | mask, model="pisces-embedded")
        assert error_of(refused, 400)["code"] == "edit_unsupported"


def test_a_model_of_several_sizes_draws_and_edits_in_the_one_that_is_asked_for(
    page: Served, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("diffusers")
    tiny = replace(load_catalog().resolve(str(UNIPIC2)), id="tiny-up", title="Tiny UniPic2")
    monkeypatch.setattr(page.session.catalog, "_variants", {**page.session.catalog, "tiny-up": tiny})
    answer = generate(http, model="tiny-up", size="64x96", steps=2)
    drawn = picture(answer["data"][0])
    assert drawn.size == (64, 96) and answer["size"] == "64x96"
    edited = edit(http, [("image", png_of(drawn))], model="tiny-up", size="128x128", steps="2").json()
    found = picture(edited["data"][0])
    assert found.size == (96, 128), "the proportions are kept"
    assert read_metadata(found).settings["method"] == "instruct"
    refused = http.post("/v1/images/generations", json={"prompt": PROMPT, "model": "tiny-up", "size": "64x9999"})
    assert error_of(refused, 400)["code"] == "picture_size_not_drawn"


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


def test_more_pictures_than_a_request_may_have_are_refused_before_they_are_decoded(http: httpx.Client) -> None:
    as_json = http.post("/v1/images/edits", json={"prompt": PROMPT, "image": ["x"] * 17})
    as_form = http.post("/v1/images/edits", files=[("prompt", (None, PROMPT)), *[("image[]", (None, "x"))] * 17])
    for answer in (as_json, as_form):
        assert error_of(answer, 400)["code"] == "api_pictures_too_many"
