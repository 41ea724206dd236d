"""What tests of the models that ship with the app share: easy prompts and questions, and who gets them right."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.judge import look
from benchmarks.running import finished
from janus_app.registry.types import Variant
from janus_app.types import ChatRequest, GenerateRequest, Picture, Turn
from janus_app.workflows.settings import drawing_settings
from tests.conftest import loaded
from training.objects import COLOURS, INDEX, THINGS
from training.pictures import render
from training.world import Item, Scene

EASY = (("red", "house"), ("green", "frog"), ("yellow", "star"), ("blue", "car"))
SHOWN = Scene.of(3, [Item(INDEX["cat"], 1, 4)])
QUESTIONS = (
    ("What colour is the background?", "dark"),
    ("Is the cat big or small?", "big"),
    ("Is there a cat?", "yes"),
    ("describe it", "red cat"),
)


def folder(row: Variant) -> Path:
    assert row.folder is not None
    return row.folder


def shipped(row: Variant, precision: str = "fp32") -> Any:
    """By the way the app loads it: no special case."""
    return _shipped(folder(row), precision)


@lru_cache(maxsize=2)
def _shipped(path: Path, precision: str) -> Any:
    return loaded(path, precision).model


def drawn(row: Variant, prompt: str, precision: str = "fp32", **settings: Any) -> tuple[Picture, ...]:
    """Pictures with the row's own settings, except those given."""
    numbers = drawing_settings({}, row) | {"count": 1, "seed": 0} | settings
    return finished(shipped(row, precision).generate(GenerateRequest(prompt, **numbers))).pictures


def shows(picture: Picture, colour: str, thing: str) -> bool:
    items = look(picture.image).scene.items
    return any((THINGS[i.thing].name, COLOURS[i.colour].name) == (thing, colour) for i in items)


def wrong_drawings(row: Variant) -> list[tuple[str, str]]:
    """Of two pictures of each easy prompt, those that do not show what was asked for."""
    wrong = []
    for seed, (colour, thing) in enumerate(EASY):
        pictures = drawn(row, f"a {colour} {thing}", seed=seed, count=2)
        wrong += [(colour, thing) for picture in pictures if not shows(picture, colour, thing)]
    return wrong


def right_answers(row: Variant, precision: str) -> int:
    right = 0
    for question, wanted in QUESTIONS:
        request = ChatRequest((Turn("user", question, (render(SHOWN),)),), temperature=0, max_new_tokens=40)
        right += wanted in finished(shipped(row, precision).chat(request)).text.lower()
    return right


def assert_alike(one: Image.Image, other: Image.Image) -> None:
    """No number of one picture is more than one away from the other's, and hardly any differs."""
    apart = np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int))
    assert apart.max() <= 1 and apart.mean() < 0.01
