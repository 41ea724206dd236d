"""Requests refuse what no model can do, with a message that names the setting."""

from __future__ import annotations

import math
from typing import Any

import pytest
from PIL import Image

from janus_app.errors import AppError
from janus_app.types import MAX_SEED, ChatRequest, EditRequest, GenerateRequest, Turn

PICTURE = Image.new("RGB", (32, 32))
BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "empty"),
    ({"prompt": " \n\t"}, "empty"),
    ({"prompt": "x" * 100_000}, "100,000 characters"),
    ({"count": 0}, "number of pictures"),
    ({"count": 1000}, "number of pictures"),
    ({"count": True}, "number of pictures"),
    ({"count": 1.5}, "number of pictures"),
    ({"guidance": 0}, "Guidance"),
    ({"guidance": math.nan}, "Guidance"),
    ({"guidance": math.inf}, "Guidance"),
    ({"temperature": -0.1}, "Temperature"),
    ({"temperature": math.nan}, "Temperature"),
    ({"seed": -1}, "Seed"),
    ({"seed": "seven"}, "Seed"),
    ({"seed": MAX_SEED + 1}, "Seed"),
    ({"seed": MAX_SEED, "count": 2}, "Seed"),
    ({"steps": 0}, "steps"),
    ({"steps": 10_000}, "steps"),
    ({"steps": 7.5}, "steps"),
    ({"solver": "rk4"}, "no solver called 'rk4'"),
    ({"guidance_interval": (-0.1, 1.0)}, "start of the guidance interval"),
    ({"guidance_interval": (math.nan, 1.0)}, "start of the guidance interval"),
    ({"guidance_interval": (0.5, 0.4)}, "end of the guidance interval must be a number from 0.5"),
    ({"guidance_interval": (0.0, math.inf)}, "end of the guidance interval"),
]


@pytest.mark.parametrize(("change", "word"), BAD)
def test_settings_of_a_drawing_out_of_range_are_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(AppError, match=word):
        GenerateRequest(**({"prompt": "a cat"} | change))
    with pytest.raises(AppError, match=word):
        EditRequest(**({"prompt": "a cat", "image": PICTURE, "mask": PICTURE.convert("L")} | change))


@pytest.mark.parametrize("method", ["region", "masked"])
def test_mask_must_exist_and_have_the_size_of_the_picture(method: str) -> None:
    with pytest.raises(AppError, match="Nothing is painted"):
        EditRequest("a cat", PICTURE, None, method)
    with pytest.raises(AppError, match="mask is 16 x 32 pixels but the picture is 32 x 32"):
        EditRequest("a cat", PICTURE, Image.new("L", (16, 32)), method)


@pytest.mark.parametrize("strength", [0, 1.1, math.nan])
def test_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(AppError, match="Strength"):
        EditRequest("a cat", PICTURE, method="image to image", strength=strength)


def test_source_prompt_may_be_empty_but_not_too_long() -> None:
    EditRequest("a cat", PICTURE, method="flowedit")
    with pytest.raises(AppError, match="description of the picture as it is has 9,000"):
        EditRequest("a cat", PICTURE, method="flowedit", source_prompt="x" * 9_000)


def test_ends_of_the_ranges_are_allowed() -> None:
    GenerateRequest("a cat", count=16, guidance=1, temperature=0, seed=MAX_SEED - 15, steps=100)
    GenerateRequest("a cat", seed=MAX_SEED, guidance=20, temperature=2)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"turns": ()}, "question is empty"),
        ({"turns": (Turn("user", "hi"), Turn("assistant", "hello"))}, "question is empty"),
        ({"turns": (Turn("user", "  "),)}, "empty"),
        ({"turns": (Turn("user", "x" * 9_000), Turn("assistant", "a"), Turn("user", "b"))}, "9,000 characters"),
        ({"temperature": math.nan}, "Temperature"),
        ({"top_p": 0}, "Top-p"),
        ({"top_p": 1.1}, "Top-p"),
        ({"max_new_tokens": 0}, "new tokens"),
        ({"seed": 1.0}, "Seed"),
    ],
)
def test_settings_of_a_chat_out_of_range_are_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(AppError, match=word):
        ChatRequest(**({"turns": (Turn("user", "hi"),)} | change))


def test_question_may_be_a_picture_alone() -> None:
    ChatRequest((Turn("user", "", (PICTURE,)),))
