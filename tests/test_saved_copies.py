"""Copies that were quantized or merged before: loaded as what they are, with the same numbers as at the first load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from janus_app.cli import main
from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.paths import ASSETS
from janus_app.registry.catalog import load_catalog
from janus_app.registry.checkpoint_folder import COPY_RECORD
from janus_app.runtime import quantization
from janus_app.runtime.adapters import Adapter
from janus_app.runtime.fit import plan_load
from janus_app.runtime.own_models import add_own_model
from janus_app.runtime.save_copy import CopyOptions, save_copy
from janus_app.types import GenerateRequest, drain, result_of
from tests.conftest import GOLDEN, loaded
from tests.test_adapters import TINY, pair, with_adapters, write_adapter

pytest.importorskip("bitsandbytes")
OTHERS = [
    GOLDEN / "janusflow_1_3b" / "checkpoint",
    GOLDEN.parent / "metaquery" / "ckpt_qwen25vl_sana",
    ASSETS / "metaquery_embedded",  # its head for words is in another repository
    GOLDEN.parent / "unipic2" / "ckpt_tiny",
]
QUANTIZED = pytest.mark.parametrize("precision", ["int8", "nf4"])


def save(folder: Path, target: Path, **options: Any) -> Path:
    part = options.pop("part", 1_000_000)
    variant = load_catalog().resolve(str(folder))
    return result_of(save_copy(Hub(), variant, target, CopyOptions(**options), part=part, reserve=0))


def numbers(model: Any) -> dict[str, Tensor]:
    """All numbers of a model, scales of quantized layers included."""
    found = dict(model.network.state_dict())
    for name, module in model.network.named_modules():
        found |= {f"{name}.scale": module.scale} if type(module).__name__ == "Int8Linear" else {}
    return found


def assert_same_numbers(one: Any, other: Any) -> None:
    mine, expected = numbers(one), numbers(other)
    assert mine.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in mine.items())


@QUANTIZED
def test_saved_copy_loads_with_the_numbers_of_a_load_that_quantizes(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = save(TINY, tmp_path / "copy", precision=precision, part=300_000)
    assert (copy / "model.safetensors.index.json").is_file()
    expected = loaded(TINY, precision).model

    def never(*arguments: object) -> None:
        raise AssertionError("the copy was quantized again")

    monkeypatch.setattr(quantization, "_quantized", never)
    assert_same_numbers(loaded(copy, "auto").model, expected)


@QUANTIZED
@pytest.mark.parametrize("checkpoint", OTHERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_copy_of_another_family_needs_no_other_folder_and_draws_the_same_pixels(
    tmp_path: Path, precision: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("diffusers")
    copy = save(checkpoint, tmp_path / "copy", precision=precision)
    with pytest.raises(AppError) as caught:
        save(checkpoint, tmp_path / "plain")
    assert caught.value.code == "copy_quantized_alone"
    expected = loaded(checkpoint, precision).model
    monkeypatch.setattr(quantization, "_quantized", None)  # never again
    ours = loaded(copy, "auto").model
    assert_same_numbers(ours, expected)
    assert load_catalog().resolve(str(copy)).parts == {}, "nothing is to be downloaded"
    request = GenerateRequest("a fox", steps=1, guidance=2.0, seed=3)
    one, other = (drain(model.generate(request)).pictures[0].image for model in (ours, expected))
    assert one.tobytes() == other.tobytes()


def test_copy_of_a_row_keeps_what_only_the_row_knows(tmp_path: Path) -> None:
    row = load_catalog()["janusflow-embedded"]
    copy = load_catalog().resolve(str(save(ASSETS / "janusflow_embedded", tmp_path / "copy", precision="int8")))
    assert (copy.roles, copy.context, copy.settings) == (row.roles, row.context, row.settings)
    assert copy.roles == "tokens", "its files do not say so"
    record = copy.folder / COPY_RECORD  # type: ignore[operator]
    record.write_text(json.dumps({"precision": "int8", "from": {"model": "janus-embedded"}}), "utf-8")
    assert load_catalog().resolve(str(copy.folder)).roles == "", "another family's row says nothing about it"


@QUANTIZED
def test_copy_says_what_it_is_and_is_loaded_in_no_other_precision(tmp_path: Path, precision: str) -> None:
    copy = save(TINY, tmp_path / "copy", precision=precision)
    options = plan_load(load_catalog().resolve(str(copy)), copy, "cpu")
    assert options.precisions == [precision]
    said = str(options.message)
    assert said.endswith("it fits.") and "Chosen" not in said, "nothing was chosen"
    with pytest.raises(AppError) as caught:
        options.choose("bf16")
    assert caught.value.code == "precision_of_copy"
    with pytest.raises(AppError) as caught:
        with_adapters(copy, Adapter("a", write_adapter(tmp_path / "a", pair())), precision=precision)
    assert caught.value.code == "adapter_on_quantized_copy"
    with pytest.raises(AppError) as caught:
        save(copy, tmp_path / "again", precision=precision)
    assert caught.value.code == "copy_of_quantized_copy"
    with pytest.raises(AppError) as caught:
        save(TINY, tmp_path / "hf", precision=precision, layout="transformers")
    assert caught.value.code == "copy_quantized_layout"


def test_copy_with_adapters_equals_the_load_with_adapters_and_names_them(tmp_path: Path) -> None:
    side = int(json.loads((TINY / "config.json").read_text("utf-8"))["language_config"]["hidden_size"])
    adapter = Adapter("frogs", write_adapter(tmp_path / "frogs", pair(shape=(side, side))), 0.5)
    merged = save(TINY, tmp_path / "merged", adapters=(adapter,))
    assert_same_numbers(loaded(merged, "bf16").model, with_adapters(TINY, adapter, precision="bf16"))
    eight = save(TINY, tmp_path / "eight", adapters=(adapter,), precision="int8")
    assert_same_numbers(loaded(eight, "int8").model, loaded(merged, "int8").model)
    record = json.loads((eight / COPY_RECORD).read_text("utf-8"))
    assert (record["precision"], record["from"]["model"]) == ("int8", load_catalog().resolve(str(TINY)).id)
    (named,) = record["adapters"]
    assert (named["name"], named["strength"], len(named["sha256"])) == ("frogs", 0.5, 64)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda weights, scale: weights.pop(scale), "weights_tensors_missing"),
        (lambda weights, scale: weights.update({scale: torch.ones(3)}), "weights_shape_differs"),
        (lambda weights, scale: weights.update(stranger=torch.ones(3)), "weights_tensor_unknown"),
    ],
)
def test_damaged_copy_is_refused_by_the_name_of_the_tensor(tmp_path: Path, damage: Any, code: str) -> None:
    copy = save(TINY, tmp_path / "copy", precision="int8", part=10**9)
    weights = load_file(copy / "model.safetensors")
    damage(weights, "language_model.model.layers.0.mlp.up_proj.scale")
    save_file(weights, copy / "model.safetensors")
    for check in (lambda: loaded(copy, "int8"), lambda: list(add_own_model(Hub(), copy, "Mine"))):
        with pytest.raises(AppError) as caught:
            check()
        assert caught.value.code == code


def test_record_of_another_precision_is_refused(tmp_path: Path) -> None:
    copy = save(TINY, tmp_path / "copy", precision="nf4")
    record = json.loads((copy / COPY_RECORD).read_text("utf-8"))
    (copy / COPY_RECORD).write_text(json.dumps(record | {"precision": "int3"}), "utf-8")
    with pytest.raises(AppError) as caught:
        loaded(copy, "auto")
    assert caught.value.code == "copy_record_unusable"


def test_command_line_saves_a_quantized_copy_that_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, copy = GOLDEN / "janus_pro_1b" / "checkpoint", tmp_path / "copy"
    assert main(["convert", str(checkpoint), "--precision", "int8", "--out", str(copy)]) == 0
    assert main(["generate", "--model", str(copy), "--prompt", "x", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["precision"] == "int8"
