"""The shipped weights of the embedded MetaMorph and Pisces: what they draw, answer and change, and their size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

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
from janus_app.registry.types import Variant
from janus_app.runtime.fit import plan_load, weight_bytes
from janus_app.runtime.session import ModelSession
from janus_app.types import ChatRequest, EditRequest, GenerateRequest, Turn, drain
from janus_app.workflows.settings import drawing_settings
from tests.shipped import EASY, assert_alike, drawn, folder, right_answers, shipped, shows, wrong_drawings
from training.objects import COLOURS, INDEX, THINGS
from training.pictures import render
from training.world import Item, Scene

METAMORPH, PISCES = (load_catalog()[name] for name in ("metamorph-embedded", "pisces-embedded"))
EACH = pytest.mark.parametrize("row", [METAMORPH, PISCES], ids=lambda row: row.id)


@EACH
def test_shipped_weights_draw_the_prompt(row: Variant) -> None:
    """One named thing in a named colour; chance would be one in 250."""
    wrong = wrong_drawings(row)
    assert len(wrong) <= 2, wrong


@EACH
def test_guidance_paints_the_same_vectors_otherwise(row: Variant) -> None:
    """The language model writes the same vectors with guidance, which leaves at least half of the pictures right."""
    right = 0
    for seed, (colour, thing) in enumerate(EASY):
        (plain,) = drawn(row, f"a {colour} {thing}", seed=seed, guidance=1.0)
        (guided,) = drawn(row, f"a {colour} {thing}", seed=seed, guidance=2.0)
        assert guided.vectors == plain.vectors and guided.image.tobytes() != plain.image.tobytes()
        right += shows(guided, colour, thing)
    assert right >= 2


def test_pisces_is_guided_away_from_the_vectors_of_an_empty_caption() -> None:
    (guided,) = drawn(PISCES, "a red house", guidance=2.0)
    assert guided.vectors is not None
    empty = shipped(PISCES)._unconditional(2.0)
    assert float((torch.tensor(guided.vectors.rows) - empty).abs().max()) > 0.1


@EACH
def test_shipped_weights_answer_about_pictures(row: Variant) -> None:
    assert right_answers(row, "fp32") >= 3


def test_an_answer_contains_the_picture_that_was_asked_for_within_a_conversation() -> None:
    """As the paper asks: "Let's think about this visually"; the conversation goes on about that picture."""
    asked = Turn("user", "Let's think about this visually: a green frog")
    answer = finished(shipped(METAMORPH).chat(ChatRequest((asked,), temperature=0, seed=1)))
    (picture,) = answer.pictures
    assert shows(picture, "green", "frog")
    said = Turn("assistant", answer.text, (picture.image,))
    turns = (asked, said, Turn("user", "What colour is the frog?"))
    assert "green" in finished(shipped(METAMORPH).chat(ChatRequest(turns, temperature=0, max_new_tokens=20))).text


@pytest.mark.parametrize(
    ("instruction", "wanted"),
    [("make the house blue", [("blue", "house"), ("green", "frog")]), ("remove the frog", [("red", "house")])],
)
def test_metamorph_makes_an_edit_and_keeps_the_rest(instruction: str, wanted: list[tuple[str, str]]) -> None:
    colour = {each.name: number for number, each in enumerate(COLOURS)}
    before = Scene.of(0, [Item(INDEX["house"], colour["red"], 3), Item(INDEX["frog"], colour["green"], 5)])
    request = EditRequest(instruction, render(before), method="instruct", seed=1, guidance=1.0, steps=10)
    (picture,) = finished(shipped(METAMORPH).edit(request)).pictures
    seen = look(picture.image).scene.items
    assert sorted((COLOURS[i.colour].name, THINGS[i.thing].name) for i in seen) == sorted(wanted)


@EACH
@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
def test_other_precisions_draw_and_answer(row: Variant, precision: str) -> None:
    """Of the quantized ones, only the language model's layers are."""
    right = sum(shows(*drawn(row, f"a {colour} {thing}", precision), colour, thing) for colour, thing in EASY)
    assert right >= 2 and right_answers(row, precision) >= 2
    plain, quantized = (dict(shipped(row, one).network.named_modules()) for one in ("fp32", precision))
    changed = {name for name, module in quantized.items() if type(module) is not type(plain.get(name))}
    assert changed or precision == "bf16"
    if precision != "bf16":
        assert all(name.startswith("language_model.model.layers.") for name in changed), changed


@EACH
def test_a_saved_picture_is_drawn_again_from_its_record(row: Variant, tmp_path: Path) -> None:
    """Alone: beside another picture sums are rounded otherwise, which moves a few of its numbers by one."""
    session = ModelSession(load_catalog(), Hub())
    drain(session.load(row.id, "cpu", "fp32"))
    first = session.result(GenerateRequest("a red house", **drawing_settings({"seed": 5, "count": 2}, row)))
    file = OutputStore(tmp_path).save(first)[1].file
    record = read_metadata(file)
    assert record.seed == 6 and first.pictures[1].vectors is not None
    assert record.settings["vectors"] == first.pictures[1].vectors.sha256
    assert first.pictures[0].vectors == first.pictures[1].vectors
    again = session.result(replace(request_of(record), count=1)).pictures[0]
    assert_alike(again.image, first.pictures[1].image)
    assert again.vectors == first.pictures[1].vectors


@EACH
def test_card_and_row_state_the_size_and_the_verbs(row: Variant) -> None:
    base = component_beside(folder(row), base_of(folder(row) / "visualizer"))
    assert base is not None
    assert sum(f.stat().st_size for f in folder(row).rglob("*") if f.is_file()) < 8.3e6
    assert sum(f.stat().st_size for f in base.rglob("*") if f.is_file()) < 1.3e6
    files = (*folder(row).rglob("*.safetensors"), *base.rglob("*.safetensors"))
    assert row.parameters == sum(tensor.numel() for file in files for tensor in load_file(file).values())
    offers = shipped(row).capabilities
    assert offers.verbs == set(row.verbs) and offers.size == row.size
    assert ("edit" in row.verbs) == bool(offers.edit_methods) == (row is METAMORPH)


@EACH
@pytest.mark.parametrize("precision", ["fp32", "int8", "nf4"])
def test_the_fit_advisor_knows_the_memory_of_the_row(row: Variant, precision: str) -> None:
    need = plan_load(row, folder(row), "cpu").plan(precision).need
    assert weight_bytes(row, precision) == need.weights
    assert need.weights == pytest.approx(row.memory[precision], rel=0.2)  # some processors decode in bfloat16
    assert need.work > 0
