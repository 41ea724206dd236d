"""JanusFlow's ways of editing through the real model: tiny checkpoint, random weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from janus_app.errors import AppError
from janus_app.models.common.image_processor import fit_square, to_picture
from janus_app.models.janusflow.pipeline import JanusFlowModel
from janus_app.types import (
    DESCRIBE,
    ChatRequest,
    EditRequest,
    Event,
    Finished,
    GenerateRequest,
    Model,
    Notice,
    Preview,
    Progress,
    Turn,
)
from tests.conftest import GOLDEN, loaded

pytest.importorskip("diffusers")

SIDE = 96
PICTURE = Image.open(GOLDEN / "images" / "rgb.png").convert("RGB")
SQUARE = fit_square(PICTURE, SIDE)
MASK = Image.new("L", SQUARE.size, 0)
MASK.paste(255, (13, 20, 50, 61))
METHODS = ("flowedit", "masked", "image to image")


@pytest.fixture(scope="module")
def model() -> Model:
    return loaded(GOLDEN / "janusflow_1_3b" / "checkpoint").model


def request_for(method: str, **changes: object) -> EditRequest:
    source = "a cat" if method == "flowedit" else ""
    asked = EditRequest("a dog", SQUARE, MASK, method, seed=4, steps=5, guidance=2, source_prompt=source)
    return replace(asked, **changes)  # type: ignore[arg-type]


def finished(events: Iterator[Event]) -> Finished:
    *_, last = events
    assert isinstance(last, Finished)
    return last


def pixels(model: Model, request: EditRequest | GenerateRequest, number: int = 0) -> np.ndarray:
    run = model.edit(request) if isinstance(request, EditRequest) else model.generate(request)
    return np.asarray(finished(run).pictures[number].image).astype(int)


def test_capabilities_list_the_edit_methods(model: Model) -> None:
    assert tuple(model.capabilities.edit_methods) == METHODS
    with pytest.raises(AppError, match="no edit method region"):
        model.edit(request_for("region"))


@pytest.mark.parametrize("method", METHODS)
def test_edit_depends_on_the_seed_alone_and_not_on_the_batch(model: Model, method: str) -> None:
    both = finished(model.edit(request_for(method, count=2)))
    assert [p.seed for p in both.pictures] == [4, 5] and {p.image.size for p in both.pictures} == {(SIDE, SIDE)}
    again = pixels(model, request_for(method, count=2), 1)
    assert np.array_equal(again, np.asarray(both.pictures[1].image))
    alone = pixels(model, request_for(method, seed=5))
    assert np.abs(alone - again).max() <= 1, "more than what rounding in a batch can do"
    assert not np.array_equal(again, np.asarray(both.pictures[0].image))


@pytest.mark.parametrize("method", METHODS)
def test_progress_counts_to_the_end_and_previews_are_pictures(model: Model, method: str) -> None:
    events = list(model.edit(request_for(method, count=3, strength=0.6)))
    steps = [e for e in events if isinstance(e, Progress) and e.stage == "draw"]
    run = 5 if method == "masked" else 3
    assert [(e.done, e.total, e.unit) for e in steps] == [(3 * i + 3, 3 * run, "steps") for i in range(run)]
    previews = [e for e in events if isinstance(e, Preview)]
    assert len(previews) == run and all(len(e.images) == 3 for e in previews)
    assert {image.size for e in previews for image in e.images} == {(SIDE, SIDE)}


def test_masked_edit_keeps_unpainted_pixels_bit_for_bit(model: Model) -> None:
    result = pixels(model, request_for("masked"))
    kept = np.asarray(MASK) == 0
    assert np.array_equal(result[kept], np.asarray(SQUARE)[kept])
    assert (result[~kept] != np.asarray(SQUARE)[~kept]).mean() > 0.5
    for event in model.edit(request_for("masked")):
        if isinstance(event, Preview):
            assert np.array_equal(np.asarray(event.images[0])[kept], np.asarray(SQUARE)[kept])


def test_a_picture_of_another_shape_is_cropped_with_its_mask(model: Model) -> None:
    mask = Image.new("L", PICTURE.size, 0)
    mask.paste(255, (0, 0, PICTURE.width, PICTURE.height // 2))
    events = list(model.edit(request_for("masked", image=PICTURE, mask=mask)))
    assert any(isinstance(e, Notice) and "cropped" in e.text for e in events) == (PICTURE.width != PICTURE.height)
    kept = np.asarray(fit_square(mask, SIDE)) <= 127
    result = np.asarray(finished(iter(events)).pictures[0].image)
    assert np.array_equal(result[kept], np.asarray(SQUARE)[kept])


def test_empty_mask_is_refused_and_full_mask_draws_a_new_picture(model: Model) -> None:
    with pytest.raises(AppError, match="The mask covers nothing"):
        list(model.edit(request_for("masked", mask=Image.new("L", SQUARE.size, 0))))
    drawn = pixels(model, GenerateRequest("a dog", seed=4, steps=5, guidance=2))
    everything = Image.new("L", SQUARE.size, 255)
    assert np.array_equal(pixels(model, request_for("masked", mask=everything)), drawn)
    assert np.array_equal(pixels(model, request_for("image to image", strength=1.0)), drawn)


def test_flowedit_between_equal_prompts_returns_the_picture(model: Model) -> None:
    same = request_for("flowedit", prompt="a cat", guidance=2.0, image_guidance=2.0)
    assert isinstance(model, JanusFlowModel)
    coded = model.autoencoder.decode(model.autoencoder.encode_picture(SQUARE))[0]
    assert np.abs(pixels(model, same) - np.asarray(to_picture(coded)).astype(int)).max() <= 1
    moved = pixels(model, replace(same, prompt="a dog"))
    assert np.abs(moved - pixels(model, same)).mean() > 3


def test_flowedit_without_source_prompt_uses_and_reports_the_model_s_description(model: Model) -> None:
    asked = request_for("flowedit", source_prompt="")
    events = list(model.edit(asked))
    (notice,) = (e.text for e in events if isinstance(e, Notice))
    answer = finished(
        model.chat(ChatRequest((Turn("user", DESCRIBE, (SQUARE,)),), temperature=0, max_new_tokens=96))
    ).text.strip()
    assert answer and notice == f"The model sees: {answer}"
    picture = finished(iter(events)).pictures[0]
    assert picture.source_prompt == answer
    typed = finished(model.edit(replace(asked, source_prompt=answer)))
    assert typed.pictures[0].image.tobytes() == picture.image.tobytes()
    assert (
        request_for("flowedit").source_prompt == finished(model.edit(request_for("flowedit"))).pictures[0].source_prompt
    )


def test_edit_uses_solver_and_guidance_interval(model: Model) -> None:
    asked = request_for("image to image", strength=1.0, guidance=3)
    pictures = {solver: pixels(model, replace(asked, solver=solver)) for solver in ("euler", "heun", "ab2")}
    assert all(not np.array_equal(a, b) for a, b in pairwise([*pictures.values(), pictures["euler"]]))
    never = replace(asked, guidance_interval=(0.99, 1.0))
    assert np.array_equal(pixels(model, never), pixels(model, replace(asked, guidance=1)))
    assert not np.array_equal(pixels(model, never), pictures["euler"])


@pytest.mark.parametrize("method", METHODS)
def test_model_works_after_an_edit_is_cancelled(model: Model, method: str) -> None:
    events = model.edit(request_for(method))
    for event in events:
        if isinstance(event, Preview):
            break
    events.close()  # type: ignore[attr-defined]
    assert list(events) == []
    assert finished(model.edit(request_for(method, steps=2))).pictures
