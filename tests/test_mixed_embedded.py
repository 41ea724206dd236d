"""The shipped weights of the embedded Transfusion, LMFusion and LLaVAFusion: what they draw, answer and change, whose
words they say, and their size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.judge import look
from benchmarks.running import finished
from janus_app.hub import Hub
from janus_app.models.mixed_diffusion.bases import base_of
from janus_app.models.mixed_diffusion.layouts import read_config
from janus_app.outputs.metadata import read_metadata, request_of
from janus_app.outputs.store import OutputStore
from janus_app.registry.catalog import load_catalog
from janus_app.registry.types import Variant
from janus_app.runtime.fit import plan_load, weight_bytes
from janus_app.runtime.session import ModelSession
from janus_app.types import ChatRequest, EditRequest, GenerateRequest, Turn, drain
from janus_app.workflows.settings import drawing_settings
from tests.shipped import EASY, SHOWN, assert_alike, drawn, folder, right_answers, shipped, shows, wrong_drawings
from training.mixed_model import tensors_of
from training.objects import COLOURS, INDEX, THINGS
from training.pictures import render
from training.world import Item, Scene

TRANSFUSION, LMFUSION, LLAVAFUSION = (
    load_catalog()[f"{name}-embedded"] for name in ("transfusion", "lmfusion", "llavafusion")
)
BASES = {LMFUSION: "janus-embedded", LLAVAFUSION: "metaquery-embedded"}
EACH = pytest.mark.parametrize("row", [TRANSFUSION, LMFUSION, LLAVAFUSION], ids=lambda row: row.id)
BUILT_ON = pytest.mark.parametrize("row", [LMFUSION, LLAVAFUSION], ids=lambda row: row.id)
TAUGHT_TO_EDIT = pytest.mark.parametrize("row", [TRANSFUSION, LMFUSION], ids=lambda row: row.id)
_COLOUR = {each.name: number for number, each in enumerate(COLOURS)}
HOUSE_AND_FROG = Scene.of(0, [Item(INDEX["house"], _COLOUR["red"], 3), Item(INDEX["frog"], _COLOUR["green"], 5)])


def seen(picture: object) -> list[tuple[str, str]]:
    return sorted((COLOURS[i.colour].name, THINGS[i.thing].name) for i in look(picture).scene.items)  # type: ignore[arg-type]


@EACH
def test_shipped_weights_draw_the_prompt(row: Variant) -> None:
    """One named thing in a named colour; chance would be one in 250."""
    wrong = wrong_drawings(row)
    assert len(wrong) <= 2, wrong


@EACH
def test_most_guidance_on_offer_ruins_nothing(row: Variant) -> None:
    most = row.settings["guidance"].high
    right = [shows(*drawn(row, f"a {colour} {thing}", guidance=most), colour, thing) for colour, thing in EASY]
    assert sum(right) >= 2


@EACH
def test_shipped_weights_answer_about_pictures(row: Variant) -> None:
    assert right_answers(row, "fp32") >= 3


@BUILT_ON
def test_words_are_those_of_the_base(row: Variant) -> None:
    """The language half is its base's, bit for bit, and so is what it says where no picture is read."""
    model, base = shipped(row), shipped(load_catalog()[BASES[row]])
    half = base_of(folder(row), read_config(folder(row))["base"])
    words = model.network.language_model.state_dict()
    fused = {name: tensor for name, tensor in tensors_of(half).items() if name in words}
    assert len(fused) > 10 and all(torch.equal(words[name], tensor) for name, tensor in fused.items())
    for text in ("Hello!", "What can you draw?", "你好", "Tell me about the weather."):
        request = ChatRequest((Turn("user", text),), temperature=0, max_new_tokens=40)
        assert finished(model.chat(request)).text == finished(base.chat(request)).text != ""


def test_llavafusion_sees_with_the_eyes_of_its_base() -> None:
    model, base = shipped(LLAVAFUSION), shipped(load_catalog()[BASES[LLAVAFUSION]])
    for text in ("What is this?", "describe it", "背景是什么颜色？"):
        request = ChatRequest((Turn("user", text, (render(SHOWN),)),), temperature=0, max_new_tokens=40)
        assert finished(model.chat(request)).text == finished(base.chat(request)).text != ""


@TAUGHT_TO_EDIT
@pytest.mark.parametrize(
    ("instruction", "wanted"),
    [("make the house blue", [("blue", "house"), ("green", "frog")]), ("remove the frog", [("red", "house")])],
)
def test_an_instruction_is_followed_and_the_rest_kept(
    row: Variant, instruction: str, wanted: list[tuple[str, str]]
) -> None:
    steps = int(row.settings["steps"].default)
    request = EditRequest(instruction, render(HOUSE_AND_FROG), method="instruct", seed=1, guidance=1.5, steps=steps)
    (picture,) = finished(shipped(row).edit(request)).pictures
    assert seen(picture.image) == wanted


@EACH
@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
def test_other_precisions_draw_and_answer(row: Variant, precision: str) -> None:
    """Of the quantized ones, only the blocks of both halves are."""
    right = sum(shows(*drawn(row, f"a {colour} {thing}", precision), colour, thing) for colour, thing in EASY)
    assert right >= 2 and right_answers(row, precision) >= 2
    plain, quantized = (dict(shipped(row, one).network.named_modules()) for one in ("fp32", precision))
    changed = {name for name, module in quantized.items() if type(module) is not type(plain.get(name))}
    assert changed or precision == "bf16"
    if precision != "bf16":
        halves = ("language_model.model.layers.", "image_model.layers.")
        assert all(name.startswith(halves) for name in changed), changed


@EACH
def test_a_saved_picture_is_drawn_again_from_its_record(row: Variant, tmp_path: Path) -> None:
    """Alone: beside another picture sums are rounded otherwise, which moves a few of its numbers by one."""
    session = ModelSession(load_catalog(), Hub())
    drain(session.load(row.id, "cpu", "fp32"))
    first = session.result(GenerateRequest("a red house", **drawing_settings({"seed": 5, "count": 2}, row)))
    record = read_metadata(OutputStore(tmp_path).save(first)[1].file)
    assert record.seed == 6
    again = session.result(replace(request_of(record), count=1)).pictures[0]
    assert_alike(again.image, first.pictures[1].image)


@EACH
def test_card_and_row_state_the_size_and_the_verbs(row: Variant) -> None:
    assert sum(f.stat().st_size for f in folder(row).rglob("*") if f.is_file()) < 8e6
    model = shipped(row)
    assert row.parameters == sum(tensor.numel() for tensor in model.network.parameters())
    offers = model.capabilities
    assert offers.verbs == set(row.verbs) and offers.size == row.size
    assert tuple(offers.edit_methods) == tuple(row.edit_methods)
    assert ("instruct" in offers.edit_methods) == (row is not LLAVAFUSION)


@EACH
@pytest.mark.parametrize("precision", ["fp32", "int8", "nf4"])
def test_the_fit_advisor_knows_the_memory_of_the_row(row: Variant, precision: str) -> None:
    need = plan_load(row, folder(row), "cpu").plan(precision).need
    assert weight_bytes(row, precision) == need.weights
    assert need.weights == pytest.approx(row.memory[precision], rel=0.2)  # some processors decode in bfloat16
    assert need.work > 0
