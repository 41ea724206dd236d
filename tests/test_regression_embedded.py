"""The shipped weights of the embedded Pisces: what it draws and answers, its size, and its pictures drawn again."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.judge import look
from benchmarks.running import finished
from janus_app.hub import Hub
from janus_app.models.common.components import component_beside
from janus_app.models.regression.layouts import base_of
from janus_app.outputs.metadata import read_metadata, request_of
from janus_app.outputs.store import OutputStore
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.fit import plan_load, weight_bytes
from janus_app.runtime.session import ModelSession
from janus_app.types import ChatRequest, GenerateRequest, Picture, Turn, drain
from janus_app.workflows.settings import drawing_settings
from tests.conftest import loaded
from training.objects import COLOURS, INDEX, THINGS
from training.world import Item, Scene, render

ROW = load_catalog()["pisces-embedded"]
EASY = (("red", "house"), ("green", "frog"), ("yellow", "star"), ("blue", "car"))
SHOWN = Scene.of(3, [Item(INDEX["cat"], 1, 4)])
QUESTIONS = (
    ("What colour is the background?", "dark"),
    ("Is the cat big or small?", "big"),
    ("Is there a cat?", "yes"),
    ("describe it", "red cat"),
)


@lru_cache(maxsize=1)
def folder() -> Path:
    assert ROW.folder is not None
    return ROW.folder


@lru_cache(maxsize=2)
def shipped(precision: str = "fp32") -> Any:
    """By the way the app loads it: no special case."""
    return loaded(folder(), precision).model


def drawn(prompt: str, precision: str = "fp32", **settings: Any) -> tuple[Picture, ...]:
    """Pictures with the row's own settings, except those given."""
    numbers = drawing_settings({}, ROW) | {"count": 1, "seed": 0} | settings
    return finished(shipped(precision).generate(GenerateRequest(prompt, **numbers))).pictures


def shows(picture: Picture, colour: str, thing: str) -> bool:
    items = look(picture.image).scene.items
    return any((THINGS[i.thing].name, COLOURS[i.colour].name) == (thing, colour) for i in items)


def right_answers(precision: str) -> int:
    right = 0
    for question, wanted in QUESTIONS:
        request = ChatRequest((Turn("user", question, (render(SHOWN),)),), temperature=0, max_new_tokens=40)
        right += wanted in finished(shipped(precision).chat(request)).text.lower()
    return right


def test_shipped_weights_draw_the_prompt() -> None:
    """One named thing in a named colour; chance would be one in 250."""
    wrong = []
    for seed, (colour, thing) in enumerate(EASY):
        pictures = drawn(f"a {colour} {thing}", seed=seed, count=2)
        wrong += [(colour, thing) for picture in pictures if not shows(picture, colour, thing)]
    assert len(wrong) <= 2, wrong


def test_shipped_weights_draw_with_guidance_away_from_an_empty_caption() -> None:
    """The language model writes the same vectors with guidance, which paints otherwise and ruins nothing."""
    right = 0
    for seed, (colour, thing) in enumerate(EASY):
        (plain,) = drawn(f"a {colour} {thing}", seed=seed, guidance=1.0)
        (guided,) = drawn(f"a {colour} {thing}", seed=seed, guidance=2.0)
        assert guided.vectors == plain.vectors and guided.image.tobytes() != plain.image.tobytes()
        right += shows(guided, colour, thing)
    assert right >= 2
    assert guided.vectors is not None
    empty = shipped()._unconditional(2.0)
    assert float((torch.tensor(guided.vectors.rows) - empty).abs().max()) > 0.1


def test_shipped_weights_answer_about_pictures() -> None:
    assert right_answers("fp32") >= 3


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
def test_other_precisions_draw_and_answer(precision: str) -> None:
    """Of the quantized ones, only the language model's layers are."""
    right = sum(shows(*drawn(f"a {colour} {thing}", precision), colour, thing) for colour, thing in EASY)
    assert right >= 2 and right_answers(precision) >= 2
    plain, quantized = (dict(shipped(one).network.named_modules()) for one in ("fp32", precision))
    changed = {name for name, module in quantized.items() if type(module) is not type(plain.get(name))}
    assert changed or precision == "bf16"
    if precision != "bf16":
        assert all(name.startswith("language_model.model.layers.") for name in changed), changed


def test_a_saved_picture_is_drawn_again_exactly_from_its_record(tmp_path: Path) -> None:
    session = ModelSession(load_catalog(), Hub())
    drain(session.load(ROW.id, "cpu", "fp32"))
    first = session.result(GenerateRequest("a red house", **drawing_settings({"seed": 5, "count": 2}, ROW)))
    file = OutputStore(tmp_path).save(first)[1].file
    record = read_metadata(file)
    assert record.seed == 6 and first.pictures[1].vectors is not None
    assert record.settings["vectors"] == first.pictures[1].vectors.sha256
    assert first.pictures[0].vectors == first.pictures[1].vectors
    again = session.result(replace(request_of(record), count=1)).pictures[0]
    assert again.image.tobytes() == first.pictures[1].image.tobytes() and again.vectors == first.pictures[1].vectors


def test_card_and_row_state_the_model_s_size_and_that_it_does_not_edit() -> None:
    base = component_beside(folder(), base_of(folder() / "visualizer"))
    assert base is not None
    assert sum(f.stat().st_size for f in folder().rglob("*") if f.is_file()) < 8.2e6
    assert sum(f.stat().st_size for f in base.rglob("*") if f.is_file()) < 1.3e6
    files = (*folder().rglob("*.safetensors"), *base.rglob("*.safetensors"))
    assert ROW.parameters == sum(tensor.numel() for file in files for tensor in load_file(file).values())
    assert "edit" not in ROW.verbs and shipped().capabilities.verbs == set(ROW.verbs)
    assert not shipped().capabilities.edit_methods and shipped().capabilities.size == ROW.size


@pytest.mark.parametrize("precision", ["fp32", "int8", "nf4"])
def test_the_fit_advisor_knows_the_memory_of_the_row(precision: str) -> None:
    need = plan_load(ROW, folder(), "cpu").plan(precision).need
    assert weight_bytes(ROW, precision) == need.weights
    assert need.weights == pytest.approx(ROW.memory[precision], rel=0.2)  # some processors decode in bfloat16
    assert need.work > 0
