"""Checkpoints as other tools save them: what is complete loads with the same tensors, the rest is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.models.common.config_sections import language_config
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.fit import plan_load
from janus_app.runtime.loader import load
from janus_app.types import Notice
from tests.conftest import GOLDEN

SIZES = {"vocab_size": 64, "hidden_size": 64, "num_attention_heads": 4}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "janus_1_3b" / "checkpoint", tmp_path / "checkpoint"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_json_is_read_in_every_encoding_that_editors_save(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"name": "模型"}, ensure_ascii=False), encoding)
    assert read_json(file) == {"name": "模型"}


@pytest.mark.parametrize(
    "field",
    [
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
        {"partial_rotary_factor": 0.5},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"head_dim": 32},
        {"sliding_window": 128},
        {"model_type": "qwen2"},
    ],
)
def test_config_value_that_is_not_computed_is_refused_by_name(field: dict[str, Any]) -> None:
    with pytest.raises(AppError) as caught:
        language_config({"language_config": {**SIZES, **field}})
    assert caught.value.code == "config_value_not_computed"
    assert f"language_config.{next(iter(field))}" in str(caught.value)


@pytest.mark.parametrize(
    "field",
    [
        {"rope_scaling": None, "attention_bias": False, "mlp_bias": False, "hidden_act": "silu", "head_dim": 16},
        {"rope_scaling": {"rope_type": "default"}, "sliding_window": None, "model_type": "llama"},
        {"sliding_window": 128, "use_sliding_window": False},
    ],
)
def test_config_values_that_mean_what_is_computed_are_accepted(field: dict[str, Any]) -> None:
    assert language_config({"language_config": {**SIZES, **field}}) == language_config({"language_config": SIZES})


def test_rope_theta_is_read_where_transformers_5_writes_it() -> None:
    rope = {"rope_theta": 500.0, "rope_type": "default"}
    assert language_config({"language_config": {**SIZES, "rope_parameters": rope}}).rope_theta == 500.0


def notices(folder: Path) -> list[str]:
    """Load a checkpoint, and return the codes of what was mended."""
    steps = load(plan_load(load_catalog().resolve(str(folder)), folder, "cpu").choose("fp32"))
    return [step.message.code for step in steps if isinstance(step, Notice)]


def refusal(folder: Path) -> str:
    with pytest.raises(AppError) as caught:
        notices(folder)
    return caught.value.code


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, whose file is taken away."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    return tensors


def test_whole_checkpoint_loads_without_a_notice(checkpoint: Path) -> None:
    assert notices(checkpoint) == []


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "base.model."])
def test_prefix_of_all_tensor_names_is_left_out(checkpoint: Path, prefix: str) -> None:
    save_file({prefix + k: v for k, v in weights_of(checkpoint).items()}, checkpoint / "model.safetensors")
    assert notices(checkpoint) == ["weights_prefix_removed"]


def test_names_of_compiled_layers_are_read(checkpoint: Path) -> None:
    weights = {k.replace("layers.0.", "layers.0._orig_mod."): v for k, v in weights_of(checkpoint).items()}
    save_file(weights, checkpoint / "model.safetensors")
    assert notices(checkpoint) == ["weights_prefix_removed"]


def test_buffers_that_are_computed_from_the_config_are_not_read(checkpoint: Path) -> None:
    buffer = {"language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(weights_of(checkpoint) | buffer, checkpoint / "model.safetensors")
    assert notices(checkpoint) == ["weights_buffers_ignored"]


@pytest.mark.parametrize("tied", [True, False])
def test_missing_head_is_the_embedding_only_where_the_config_ties_them(checkpoint: Path, tied: bool) -> None:
    weights = weights_of(checkpoint)
    del weights["language_model.lm_head.weight"]
    save_file(weights, checkpoint / "model.safetensors")
    config = read_json(checkpoint / "config.json")
    config["language_config"]["tie_word_embeddings"] = tied
    (checkpoint / "config.json").write_text(json.dumps(config))
    if tied:
        assert notices(checkpoint) == ["weights_head_tied"]
    else:
        assert refusal(checkpoint) == "weights_tensors_missing"


def test_only_weight_file_is_read_under_any_name(checkpoint: Path) -> None:
    save_file(weights_of(checkpoint), checkpoint / "finetuned.safetensors")
    torch.save({}, checkpoint / "training_args.bin")
    assert notices(checkpoint) == ["weights_own_name"]


def test_shards_without_an_index_load_only_if_all_are_there(checkpoint: Path) -> None:
    weights = weights_of(checkpoint)
    for number in (1, 2):
        part = {name: weights[name] for name in sorted(weights)[number - 1 :: 2]}
        save_file(part, checkpoint / f"model-0000{number}-of-00002.safetensors")
    assert notices(checkpoint) == ["weights_own_name"]
    (checkpoint / "model-00001-of-00002.safetensors").unlink()
    assert refusal(checkpoint) == "weights_shard_missing"


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_of_training_tools_and_old_pickles_load(checkpoint: Path, zipped: bool) -> None:
    wrapped = {"state_dict": weights_of(checkpoint), "epoch": 3}
    torch.save(wrapped, checkpoint / "last.ckpt", _use_new_zipfile_serialization=zipped)
    assert sorted(notices(checkpoint)) == ["weights_own_name", "weights_unwrapped"]


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\n", "weights_lfs_pointer"),
        (b"<!DOCTYPE html><html>sign in</html>", "weights_web_page"),
        (b"GGUF\x03\x00\x00\x00" + bytes(100), "weights_other_format"),
        (b"", "weights_empty"),
    ],
)
def test_file_of_another_kind_is_refused_as_what_it_is(checkpoint: Path, file: str, content: bytes, code: str) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / file).write_bytes(content)
    assert refusal(checkpoint) == code


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("language_model.model.layers.0.self_attn.q_proj.lora_A.weight", "checkpoint_lora_unmerged"),
        ("language_model.model.layers.0.self_attn.q_proj.qweight", "checkpoint_quantized"),
        ("language_model.model.layers.0.self_attn.q_proj.weight.absmax", "checkpoint_quantized"),
    ],
)
def test_changed_layers_are_refused_as_what_they_are(checkpoint: Path, name: str, code: str) -> None:
    save_file(weights_of(checkpoint) | {name: torch.ones(4)}, checkpoint / "model.safetensors")
    assert refusal(checkpoint) == code


def test_adapter_alone_is_refused_with_the_name_of_its_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    save_file({"x": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AppError, match="owner/base"):
        load_catalog().resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["model.gguf", "model.onnx"])
def test_folder_with_only_another_format_is_refused_as_what_it_is(checkpoint: Path, name: str) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / name)
    assert refusal(checkpoint) == "weights_other_format"
