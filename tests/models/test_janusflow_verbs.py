"""What JanusFlow's verbs promise beyond parity: seeds, guidance, previews, cancelling, edits, refusals."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from janus_app.errors import AppError
from janus_app.models.common.image_processor import to_picture
from janus_app.models.janusflow.pipeline import JanusFlowModel
from janus_app.models.janusflow.velocity import PromptVelocity
from janus_app.types import (
    SOLVERS,
    EditRequest,
    Event,
    Finished,
    GenerateRequest,
    Notice,
    Picture,
    Preview,
    Progress,
)
from tests.conftest import GOLDEN, loaded

PROMPT = "A small red house."


@pytest.fixture(scope="module")
def model() -> JanusFlowModel:
    return cast(JanusFlowModel, loaded(GOLDEN / "janusflow_1_3b" / "checkpoint").model)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.open(GOLDEN / "images" / "rgb.png").convert("RGB").resize((96, 96))


def finish(events: Iterator[Event]) -> Finished:
    *_, last = events
    assert isinstance(last, Finished)
    return last


def draw(model: JanusFlowModel, **settings: Any) -> tuple[Picture, ...]:
    return finish(model.generate(GenerateRequest(PROMPT, **({"steps": 4, "guidance": 3.0} | settings)))).pictures


def change(model: JanusFlowModel, photo: Image.Image, **settings: Any) -> tuple[Picture, ...]:
    return finish(model.edit(EditRequest(PROMPT, photo, **({"steps": 4, "guidance": 3.0} | settings)))).pictures


def apart(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of any pixel, 0 to 255."""
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max())


class Rows:
    """Counts the rows that go through the language model, call by call."""

    def __init__(self, model: JanusFlowModel) -> None:
        self.calls: list[tuple[int, int]] = []
        trunk = model.network.language_model.model
        self._hook = trunk.register_forward_hook(lambda _m, inputs, _o: self.calls.append(tuple(inputs[0].shape[:2])))

    def __enter__(self) -> list[tuple[int, int]]:
        return self.calls

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


def test_a_batch_draws_what_single_pictures_draw(model: JanusFlowModel) -> None:
    batch = draw(model, count=3, seed=11)
    assert [p.seed for p in batch] == [11, 12, 13]
    assert all(apart(a.image, b.image) > 8 for a, b in itertools.combinations(batch, 2))
    for picture in batch:
        (alone,) = draw(model, seed=picture.seed)
        assert apart(alone.image, picture.image) <= 1, "rounding may cut a pixel differently, no more"


def test_smaller_batches_draw_the_same_pictures(model: JanusFlowModel) -> None:
    together = draw(model, count=3, seed=5)
    model.batch = 2
    try:
        assert all(apart(a.image, b.image) <= 1 for a, b in zip(draw(model, count=3, seed=5), together, strict=True))
    finally:
        model.batch = 16


def test_memory_running_out_halves_the_batch(model: JanusFlowModel, monkeypatch: pytest.MonkeyPatch) -> None:
    together, real = draw(model, count=4), PromptVelocity.__call__

    def small(self: PromptVelocity, z: torch.Tensor, t: float, guidance: float) -> torch.Tensor:
        if len(z) > 2:
            raise torch.OutOfMemoryError("too many")
        return real(self, z, t, guidance)

    monkeypatch.setattr(PromptVelocity, "__call__", small)
    try:
        events = list(model.generate(GenerateRequest(PROMPT, steps=4, guidance=3.0, count=4)))
        assert [e.text for e in events if isinstance(e, Notice)] == [
            "Not enough memory for 4 pictures at once; drawing 2 at a time."
        ]
        last = events[-1]
        assert isinstance(last, Finished)
        assert all(apart(a.image, b.image) <= 1 for a, b in zip(last.pictures, together, strict=True))
    finally:
        model.batch = 16


def test_drawing_uses_no_global_randomness(model: JanusFlowModel) -> None:
    torch.manual_seed(1)
    first = draw(model, seed=3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert draw(model, seed=3)[0].image.tobytes() == first[0].image.tobytes()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_prompt_is_read_once_and_the_unconditional_row_is_one_token(model: JanusFlowModel) -> None:
    length = len(model.prompt_ids(PROMPT))
    with Rows(model) as calls:
        draw(model, count=3)
    assert calls == [(1, length), (1, 1), *[(6, 1 + model.cells)] * 4]
    with Rows(model) as calls:
        draw(model, guidance=1.0)
    assert calls[2:] == [(1, 1 + model.cells)] * 4, "guidance 1 needs no unconditional row"
    with Rows(model) as calls:
        draw(model, guidance_interval=(0.5, 1.0))
    assert [rows for rows, _ in calls[2:]] == [1, 1, 2, 2], "outside the interval neither"


def test_negative_prompt_and_guidance_matter(model: JanusFlowModel) -> None:
    plain = draw(model, seed=1)[0].image
    assert apart(draw(model, seed=1, negative="dark, blurry, and much longer than the prompt")[0].image, plain) > 8
    unguided = draw(model, seed=1, guidance=1.0)[0].image
    assert apart(unguided, plain) > 8
    # the prompt itself as the negative one cancels out: guidance then changes nothing
    assert apart(draw(model, seed=1, negative=PROMPT)[0].image, unguided) <= 1


def test_a_negative_prompt_has_its_own_positions(model: JanusFlowModel) -> None:
    """Its row is what drawing it as a prompt of its own would compute."""
    ids, other = model.prompt_ids(PROMPT), model.prompt_ids("dark, blurry, and much longer than the prompt")
    z = torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    _, unconditional = PromptVelocity(model.network, ids, other).raw(z, 0.4, both=True)
    alone, _ = PromptVelocity(model.network, other).raw(z, 0.4, both=False)
    assert unconditional is not None
    torch.testing.assert_close(unconditional, alone, atol=2e-5, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_previews_after_every_step_end_near_the_picture(model: JanusFlowModel, solver: str) -> None:
    events = list(model.generate(GenerateRequest(PROMPT, steps=5, count=2, solver=solver)))
    previews = [e for e in events if isinstance(e, Preview)]
    assert [(p.done, p.total) for p in previews] == [(2 * k, 10) for k in range(1, 6)]
    assert all(len(p.images) == 2 and p.images[0].size == (96, 96) for p in previews)
    draws = [e.done for e in events if isinstance(e, Progress) and e.stage == "draw"]
    assert draws == [2, 4, 6, 8, 10]
    assert [e.done for e in events if isinstance(e, Progress) and e.stage == "decode"] == [0, 1]


def test_preview_of_a_latent_is_close_to_its_picture(model: JanusFlowModel) -> None:
    """The fitted projection beats the best single colour, on a picture it was not fitted to.

    No more can be asked of an autoencoder with random weights, whose latents hardly know colours.
    """
    x, y = np.meshgrid(np.linspace(0, 1, 96), np.linspace(0, 1, 96))
    slope = Image.fromarray(np.uint8(np.stack([x, y, 1 - x], -1) * 255))
    (preview,) = model.autoencoder.preview(model.autoencoder.encode_picture(slope))
    error = np.asarray(preview, float) - np.asarray(slope, float)
    spread = np.asarray(slope, float) - np.asarray(slope, float).mean((0, 1))
    assert preview.size == (96, 96)
    assert (error**2).mean() < 0.85 * (spread**2).mean()


def test_closing_stops_within_one_step(model: JanusFlowModel) -> None:
    with Rows(model) as calls:
        events = model.generate(GenerateRequest(PROMPT, steps=50))
        while not (isinstance(event := next(events), Progress) and event.done == 3):
            pass
        events.close()  # type: ignore[attr-defined]
    assert len(calls) == 2 + 3


def test_overflow_is_reported_as_app_error(model: JanusFlowModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptVelocity, "__call__", lambda self, z, t, guidance: z * float("inf"))
    with pytest.raises(AppError, match="infinities"):
        draw(model)


def test_fewest_and_most_steps_draw_a_picture(model: JanusFlowModel) -> None:
    assert draw(model, steps=1)[0].image.size == (96, 96)
    assert sum(isinstance(e, Preview) for e in model.generate(GenerateRequest(PROMPT, steps=100))) == 100


def test_image_to_image_moves_further_with_strength(model: JanusFlowModel, photo: Image.Image) -> None:
    back = to_picture(model.autoencoder.decode(model.autoencoder.encode_picture(photo))[0])
    changes = []
    for strength in (0.05, 0.5, 1.0):
        (picture,) = change(model, photo, method="image to image", strength=strength, steps=20)
        changes.append(np.abs(np.asarray(picture.image, float) - np.asarray(back, float)).mean())
    assert changes == sorted(changes)
    (alone,) = draw(model, seed=7, steps=20)
    (all_new,) = change(model, photo, method="image to image", strength=1.0, steps=20, seed=7)
    assert apart(alone.image, all_new.image) <= 1, "at full strength nothing of the picture is left"


def test_masked_keeps_every_pixel_that_is_not_painted(model: JanusFlowModel, photo: Image.Image) -> None:
    mask = Image.new("L", photo.size)
    ImageDraw.Draw(mask).rectangle((30, 30, 60, 60), fill=255)
    (picture,) = change(model, photo, method="masked", mask=mask)
    kept = np.asarray(mask) == 0
    assert np.array_equal(np.asarray(picture.image)[kept], np.asarray(photo)[kept])
    assert np.abs(np.asarray(picture.image, int)[~kept] - np.asarray(photo, int)[~kept]).max() > 8


def test_flowedit_between_equal_descriptions_changes_nothing(model: JanusFlowModel, photo: Image.Image) -> None:
    back = to_picture(model.autoencoder.decode(model.autoencoder.encode_picture(photo))[0])
    same = {"source_prompt": PROMPT, "image_guidance": 3.0, "method": "flowedit"}
    (picture,) = change(model, photo, **same)
    assert apart(picture.image, back) <= 1 and picture.source_prompt == PROMPT
    (moved,) = change(model, photo, **same | {"source_prompt": "Something else altogether, by night"})
    assert apart(moved.image, back) > 8


def test_flowedit_without_source_prompt_describes_the_picture(model: JanusFlowModel, photo: Image.Image) -> None:
    events = list(model.edit(EditRequest(PROMPT, photo, method="flowedit", steps=2)))
    (picture,) = cast(Finished, events[-1]).pictures
    assert picture.source_prompt
    assert any(isinstance(e, Notice) and picture.source_prompt in e.text for e in events)
    (again,) = change(model, photo, method="flowedit", steps=2, guidance=5.0, source_prompt=picture.source_prompt)
    assert apart(again.image, picture.image) <= 1


def test_wide_picture_is_cropped_with_notice(model: JanusFlowModel) -> None:
    wide = Image.new("RGB", (200, 90), "teal")
    events = list(model.edit(EditRequest(PROMPT, wide, method="image to image", steps=2)))
    assert any(isinstance(e, Notice) and "square" in e.text for e in events)


def test_unusable_requests_are_refused(model: JanusFlowModel, photo: Image.Image) -> None:
    with pytest.raises(AppError, match="no edit method region"):
        model.edit(EditRequest(PROMPT, photo, method="region", mask=Image.new("L", photo.size, 255)))
    with pytest.raises(AppError, match="covers nothing"):
        list(model.edit(EditRequest(PROMPT, photo, method="masked", mask=Image.new("L", photo.size))))
    with pytest.raises(AppError, match="image tokens"):
        model.generate(GenerateRequest(PROMPT, image_tokens=(1, 2)))
    with pytest.raises(AppError, match="Shorten the prompt"):
        list(model.generate(GenerateRequest("word " * 1500 + "word")))
    for wrong in ({"steps": 0}, {"steps": 10_000}, {"guidance": float("nan")}, {"solver": "magic"}):
        with pytest.raises(AppError):
            GenerateRequest(PROMPT, **wrong)  # type: ignore[arg-type]
