"""Instructions about a picture (Janus-4o): prompt, the two readings of the picture and the mix of three rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from janus_app.errors import AppError
from janus_app.models.common.memory import BytesPerElement, Job
from janus_app.models.common.tokenizer import IMAGE, IMAGE_BEGIN, IMAGE_END, PAD, Piece, Special
from janus_app.models.janus.config import parse_config
from janus_app.models.janus.memory import peak
from janus_app.models.janus.pipeline import JanusModel
from janus_app.registry.catalog import load_catalog
from janus_app.registry.checkpoint_folder import variant_of_folder
from janus_app.types import EditRequest, Event, Finished, GenerateRequest, Notice
from tests.conftest import GOLDEN, loaded

FOLDER = GOLDEN / "janus_pro_1b" / "checkpoint"
WORDS = "make the circle blue"


@pytest.fixture(scope="module")
def usual() -> JanusModel:
    model = loaded(FOLDER).model
    assert isinstance(model, JanusModel)
    return model


@pytest.fixture(scope="module")
def model(usual: JanusModel) -> JanusModel:
    return JanusModel(usual.network, FOLDER, context=512, methods=("instruct", "region", "variation"))


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    image = Image.new("RGB", (96, 96), (230, 220, 200))
    ImageDraw.Draw(image).ellipse((20, 20, 70, 70), fill=(200, 30, 30))
    return image


def finish(events: Iterator[Event]) -> Finished:
    *_, last = events
    assert isinstance(last, Finished)
    return last


def tokens_of(model: JanusModel, picture: Image.Image, **settings: Any) -> tuple[int, ...]:
    request = EditRequest(WORDS, picture, method="instruct", **{"temperature": 0, "image_guidance": 5.0, **settings})
    return finish(model.edit(request)).pictures[0].image_tokens


@torch.inference_mode()
def plainly(model: JanusModel, picture: Image.Image, guidance: float, weight: float) -> tuple[int, ...]:
    """The same, written out: whole prompts run anew for every token, as the published code builds and mixes them."""
    network, tokenizer = model.network, model.tokenizer
    seen: list[Piece] = [Special(IMAGE_BEGIN), Special(IMAGE, 36), Special(IMAGE_END)]
    held: list[Piece] = [Special(IMAGE_BEGIN), Special(PAD, 36), Special(IMAGE_END)]
    asked: list[Piece] = [Special("<|User|>"), ": ", *seen, *held, WORDS, "\n\n", Special("<|Assistant|>"), ":"]
    ids = torch.tensor(tokenizer.encode([*asked, Special(IMAGE_BEGIN)]))
    assert int((ids == tokenizer.id(PAD)).sum()) == 36
    nothing = ids.clone()
    nothing[1:-1] = tokenizer.id(PAD)
    pixels = model.processor(picture)[None]
    part = network.text_embeds(ids)
    part[ids == tokenizer.id(IMAGE)] = network.picture_embeds(pixels)[0]
    full = part.clone()
    second = int((ids == tokenizer.id(IMAGE_END)).nonzero()[0]) + 2  # behind the second begin-of-image
    full[second : second + 36] = network.token_embeds(network.gen_vision_model.encode(pixels)[0])
    rows = torch.stack([full, part, network.text_embeds(nothing)])
    drawn: list[int] = []
    for _ in range(36):
        f, p, u = network.gen_head(network(rows)[:, -1])
        condition = (f + weight * p) / (1 + weight)
        drawn.append(int((u + guidance * (condition - u)).argmax()))
        rows = torch.cat([rows, network.token_embeds(torch.tensor([drawn[-1]])).expand(3, 1, -1)], dim=1)
    return tuple(drawn)


@pytest.mark.parametrize(("guidance", "weight"), [(5.0, 5.0), (1.0, 2.0)])
def test_instruction_rows_and_their_mix_match_the_published_code(
    model: JanusModel, picture: Image.Image, guidance: float, weight: float
) -> None:
    drawn = tokens_of(model, picture, guidance=guidance, image_guidance=weight)
    assert drawn == plainly(model, picture, guidance, weight)


def test_image_tokens_and_both_weights_change_the_picture(model: JanusModel, picture: Image.Image) -> None:
    drawn = tokens_of(model, picture)
    other = picture.rotate(90)
    assert tokens_of(model, picture, image_guidance=1.0) != drawn
    assert tokens_of(model, picture, guidance=2.0) != drawn
    assert tokens_of(model, other) != drawn
    assert tokens_of(model, picture, negative="a blue circle") != drawn


def test_instruction_edit_depends_on_the_seed_alone(model: JanusModel, picture: Image.Image) -> None:
    first, again, other = (tokens_of(model, picture, temperature=1, seed=seed) for seed in (7, 7, 8))
    assert first == again != other
    request = EditRequest(WORDS, picture, method="instruct", image_guidance=5.0, seed=7, count=2)
    both = finish(model.edit(request)).pictures
    assert [p.image_tokens for p in both] == [first, other]


def test_instruction_training_leaves_other_methods_and_drawing_unchanged(
    usual: JanusModel, model: JanusModel, picture: Image.Image
) -> None:
    assert list(usual.capabilities.edit_methods) == ["region", "variation"]
    assert list(model.capabilities.edit_methods) == ["instruct", "region", "variation"]
    with pytest.raises(AppError, match="no edit method instruct"):
        usual.edit(EditRequest(WORDS, picture, method="instruct"))
    mask = Image.new("L", picture.size, 0)
    ImageDraw.Draw(mask).rectangle((0, 0, 40, 40), fill=255)
    for request in (
        EditRequest(WORDS, picture, mask, seed=3),
        EditRequest(WORDS, picture, method="variation", seed=3),
    ):
        drawn = [finish(one.edit(request)).pictures[0].image_tokens for one in (usual, model)]
        assert drawn[0] == drawn[1]
        heavy = EditRequest(WORDS, picture, request.mask, request.method, seed=3, image_guidance=9.0)
        assert finish(model.edit(heavy)).pictures[0].image_tokens == drawn[0], "the weight of pictures is not read"
    asked = GenerateRequest(WORDS, seed=3)
    assert (
        finish(usual.generate(asked)).pictures[0].image_tokens == finish(model.generate(asked)).pictures[0].image_tokens
    )


def test_region_over_the_whole_picture_draws_a_new_one(usual: JanusModel, picture: Image.Image) -> None:
    everything = EditRequest(WORDS, picture, Image.new("L", picture.size, 255), seed=5)
    drawn = finish(usual.generate(GenerateRequest(WORDS, seed=5))).pictures[0]
    assert finish(usual.edit(everything)).pictures[0].image_tokens == drawn.image_tokens


def test_long_instruction_is_refused_and_wide_picture_is_cropped_with_notice(
    model: JanusModel, picture: Image.Image
) -> None:
    with pytest.raises(AppError, match="Shorten the instruction"):
        finish(model.edit(EditRequest("é" * 3_000, picture, method="instruct")))
    wide = list(model.edit(EditRequest(WORDS, picture.resize((200, 96)), method="instruct", temperature=0)))
    assert any(isinstance(event, Notice) and "cropped" in event.text for event in wide)
    typed = f"{PAD} {IMAGE} {IMAGE_END} blue"
    finish(model.edit(EditRequest(typed, picture, method="instruct")))  # typed tokens are text: no place is miscounted


def test_peak_memory_counts_three_rows_and_the_picture() -> None:
    from janus_app.files import read_json

    config, widths = parse_config(read_json(FOLDER / "config.json")), BytesPerElement(4, 4, 4)
    plain, instructed = (peak(config, 96, Job(instructed=told), widths).cache for told in (False, True))
    assert plain == _cache(config, 2, 64 + 36) and instructed == _cache(config, 3, 64 + 36 + 36 + 36)


def _cache(config: Any, rows: int, positions: int) -> int:
    from janus_app.models.common.memory import cache_bytes

    return cache_bytes(config.language, rows, positions, 4)


def test_rows_and_folder_names_tell_models_that_follow_instructions(tmp_path: Path) -> None:
    row = load_catalog()["janus-4o-7b"]
    assert row.edit_methods[0] == "instruct" and row.settings["image_guidance"].default == 5.0
    assert not load_catalog()["janus-pro-7b"].edit_methods
    for name, methods in (("Janus-4o-7B", row.edit_methods), ("janus-pro-7b", ())):
        copy = tmp_path / f"copy of {name}"
        copy.mkdir()
        for file in FOLDER.iterdir():
            (copy / file.name).symlink_to(file)
        assert variant_of_folder(copy).edit_methods == methods


@pytest.mark.parametrize(
    ("path", "is_janus_4o"),
    [
        ("janus4o-tests/Janus-Pro-7B", False),
        ("Janus-4o-7B/Janus-Pro-7B", False),
        ("janus4o-tests/models--deepseek-ai--Janus-Pro-7B/snapshots/0123", False),
        ("models--janus-4o--Janus-Pro-7B/snapshots/0123", False),
        ("hub/models--somebody--Janus-4o-7B/snapshots/0123", True),
        ("models/my_janus_4o", True),
    ],
)
def test_only_the_name_of_the_folder_or_of_its_cached_repository_makes_a_janus_4o(
    tmp_path: Path, path: str, is_janus_4o: bool
) -> None:
    folder = tmp_path / path
    folder.mkdir(parents=True)
    for file in FOLDER.iterdir():
        (folder / file.name).symlink_to(file)
    assert ("instruct" in variant_of_folder(folder).edit_methods) == is_janus_4o
