"""The loader refuses damaged checkpoints with a message, and quantizes what it should."""

from __future__ import annotations

import itertools
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from janus_app.errors import AppError
from janus_app.registry.catalog import load_catalog
from janus_app.runtime import loader
from janus_app.runtime.fit import plan_load
from janus_app.types import ChatRequest, Finished, GenerateRequest, Turn
from tests.conftest import CASES, GOLDEN, loaded


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "janus_1_3b" / "checkpoint", tmp_path / "checkpoint"))


def change_json(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(file.read_text("utf-8"))
    change(value)
    file.write_text(json.dumps(value), "utf-8")


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(AppError) as caught:
        loaded(folder)
    for word in words:
        assert word in str(caught.value)


def test_load_reports_increasing_progress(checkpoint: Path) -> None:
    steps = list(loader.load(plan_load(load_catalog().resolve(str(checkpoint)), checkpoint, "cpu").choose("fp32")))
    assert steps[0].done == 0 and steps[-1].done == steps[-1].total
    assert all(a.done <= b.done for a, b in itertools.pairwise(steps))


def test_truncated_safetensors_are_refused(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    refused(checkpoint, "model.safetensors", "1,000 bytes", "missing")


def test_truncated_pickle_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "janus_pro_1b" / "checkpoint", tmp_path / "c"))
    file = folder / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-1000])
    refused(folder, "pytorch_model.bin", "incomplete")


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "janus_pro_1b" / "checkpoint", tmp_path / "c"))
    proof = tmp_path / "executed"

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (proof,)

    torch.save({"x": Hostile()}, folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "run code")
    with open(folder / "pytorch_model.bin", "wb") as file:
        pickle.dump(Hostile(), file)
    with pytest.raises(AppError):
        loaded(folder)
    assert not proof.exists()


def test_missing_tensor_is_refused(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["gen_embed.weight"]
    save_file(tensors, checkpoint / "model.safetensors")
    refused(checkpoint, "lacks gen_embed.weight")


def test_unknown_tensor_is_refused(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["gen_embed.extra"] = torch.zeros(1)
    save_file(tensors, checkpoint / "model.safetensors")
    refused(checkpoint, "gen_embed.extra")


def test_tensor_of_another_shape_is_refused(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["gen_embed.weight"] = tensors["gen_embed.weight"][:-1].clone()
    save_file(tensors, checkpoint / "model.safetensors")
    refused(checkpoint, "gen_embed.weight", "shape")


def test_folder_without_weights_is_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    refused(checkpoint, "no weights")


@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "vocab_size"])
@pytest.mark.parametrize("value", [0, -1, 10**12, "many", 1.5, None])
def test_absurd_numbers_in_config_json_are_refused(checkpoint: Path, name: str, value: Any) -> None:
    change_json(checkpoint / "config.json", lambda c: c["language_config"].update({name: value}))
    refused(checkpoint, "config.json", name)


@pytest.mark.parametrize("name", ["../outside.bin", "/etc/passwd", "sub/shard.bin", "..", "a\\b.bin"])
def test_index_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(GOLDEN / "janus_pro_7b" / "checkpoint", tmp_path / "c"))
    change_json(folder / "pytorch_model.bin.index.json", lambda c: c["weight_map"].update({"gen_embed.weight": name}))
    refused(folder, "outside its folder")


def test_missing_shard_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "janus_pro_7b" / "checkpoint", tmp_path / "c"))
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    refused(folder, "pytorch_model-00002-of-00002.bin", "missing")


@pytest.mark.parametrize("file", ["tokenizer.json", "preprocessor_config.json", "processor_config.json"])
def test_broken_or_missing_json_files_are_refused(checkpoint: Path, file: str) -> None:
    (checkpoint / file).write_text('{"half": ', "utf-8")
    refused(checkpoint, file)
    (checkpoint / file).unlink()
    refused(checkpoint, file)


def test_unknown_devices_and_precisions_are_refused(checkpoint: Path) -> None:
    for device, precision, word in (
        ("quantum", "fp32", "quantum"),
        ("cpu", "int3", "int3"),
        *((("cuda", "fp32", "CUDA"),) if not torch.cuda.is_available() else ()),
    ):
        with pytest.raises(AppError, match=word):
            loaded(checkpoint, precision, device)


def test_closing_a_load_stops_it(checkpoint: Path) -> None:
    work = loader.load(plan_load(load_catalog().resolve(str(checkpoint)), checkpoint, "cpu").choose("fp32"))
    next(work), next(work)
    work.close()
    with pytest.raises(StopIteration):
        next(work)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions_stay_close_to_fp32(name: str, precision: str) -> None:
    """Half precision keeps the first image logits within a few percent of full precision."""
    folder = GOLDEN / name / "checkpoint"
    request = GenerateRequest("a red house", guidance=1)
    full, half = loaded(folder).model, loaded(folder, precision).model
    with torch.inference_mode():
        logits = [
            m.network.gen_head(m.network(m.prompt_rows(request)[0][None])[:, -1]).float()  # type: ignore[attr-defined]
            for m in (full, half)
        ]
    assert (logits[0] - logits[1]).norm() < 0.05 * logits[0].norm()
    assert isinstance(list(half.generate(request))[-1], Finished)


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_bitsandbytes_quantizes_only_the_linears_of_the_decoder(precision: str) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed here")
    model = loaded(GOLDEN / "janus_1_3b" / "checkpoint", precision).model
    network = model.network  # type: ignore[attr-defined]
    kinds = {name: type(m).__name__ for name, m in network.named_modules() if isinstance(m, torch.nn.Linear)}
    quantised = {name for name, kind in kinds.items() if kind in ("Int8Linear", "Linear4bit")}
    assert quantised == {name for name in kinds if name.startswith("language_model.model.layers.")}
    small = torch.int8 if precision == "int8" else torch.uint8
    assert all(network.get_submodule(name).weight.dtype == small for name in quantised)
    *_, last = model.chat(ChatRequest((Turn("user", "Hello"),), temperature=0, max_new_tokens=8))
    assert isinstance(last, Finished) and last.token_ids
