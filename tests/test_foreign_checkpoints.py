"""Checkpoints as other tools save them: what is complete loads with the same tensors, the rest is refused by name."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.hub import Hub
from janus_app.models.common.config_sections import language_config, vision_config
from janus_app.models.registry import get_family
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.fit import plan_load
from janus_app.runtime.loader import load
from janus_app.runtime.own_models import add_own_model
from janus_app.runtime.session import ModelSession
from janus_app.runtime.tensor_files import read_header
from janus_app.types import Notice, result_of
from tests.conftest import GOLDEN, loaded
from tests.metaquery_golden import GOLDEN as METAQUERY

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
        {"rope_scaling": {"rope_type": "longrope", "factor": 8.0}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
        {"partial_rotary_factor": 0.5},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"head_dim": 32},
        {"sliding_window": 128},
        {"model_type": "qwen2"},
        {"use_qk_norm": True},
        {"num_local_experts": 8},
        {"rotary_pct": 0.25},
        {"query_pre_attn_scalar": 4},
        {"attention_multiplier": 2.0},
        {"layer_types": ["full_attention", "sliding_attention"], "num_hidden_layers": 2},
        {"parallel_attn": True},
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


@pytest.mark.parametrize(
    ("family", "section", "values"),
    [
        ("janus_1_3b", "vision_config", {"select_feature": "patch"}),
        ("janus_1_3b", "vision_config", {"pixel_mean": [0, 0, 0]}),
        ("janus_1_3b", "aligner_config", {"projector_type": "linear"}),
        ("janus_1_3b", "gen_aligner_config", {"depth": 3}),
        ("janus_1_3b", "gen_vision_config", {"codebook_l2_norm": False}),
        ("janusflow_1_3b", "vision_und_enc_config", {"select_feature": "cls_patch"}),
        ("janusflow_1_3b", "vision_gen_dec_config", {"elementwise_affine": False}),
    ],
)
def test_section_that_is_not_computed_is_refused_by_name(family: str, section: str, values: dict[str, Any]) -> None:
    config = read_json(GOLDEN / family / "checkpoint" / "config.json")
    config[section]["params"].update(values)
    with pytest.raises(AppError) as caught:
        get_family("janusflow" if "flow" in family else "janus").build(config)
    assert caught.value.code == "config_value_not_computed"
    assert f"{section}.params.{next(iter(values))}" in str(caught.value)
    config[section] = {"cls": "Other"} | {k: v for k, v in config[section].items() if k != "cls"}
    with pytest.raises(AppError, match=f"{section}.cls"):
        get_family("janusflow" if "flow" in family else "janus").build(config)


@pytest.mark.parametrize(("value", "layers"), [(-1, 2), (-2, 1), (0, 2), (1, 1), (5, 2)])
def test_layer_of_the_vision_tower_is_selected_as_in_the_reference(value: int, layers: int) -> None:
    params = {"layers": 2, "select_layer": value}
    assert vision_config({"vision_config": {"params": params}}, "vision_config").layers == layers


def test_rope_theta_is_read_where_transformers_5_writes_it() -> None:
    rope = {"rope_theta": 500.0, "rope_type": "default"}
    assert language_config({"language_config": {**SIZES, "rope_parameters": rope}}).rope_theta == 500.0


@pytest.mark.parametrize("name", ["tokenizer.json", "preprocessor_config.json", "config.json"])
def test_every_json_file_of_a_checkpoint_may_be_in_utf_16(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_text((checkpoint / name).read_text("utf-8"), "utf-16")
    assert notices(checkpoint) == []


def notices(path: Path) -> list[str]:
    """Load a checkpoint, and return the codes of what was mended."""
    variant = load_catalog().resolve(str(path))
    steps = load(plan_load(variant, variant.folder, "cpu").choose("fp32"))
    return [step.message.code for step in steps if isinstance(step, Notice)]


def refusal(path: Path) -> str:
    with pytest.raises(AppError) as caught:
        notices(path)
    assert "{" not in caught.value.text("en") + caught.value.text("zh-CN")
    return caught.value.code


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, whose file is taken away."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    return tensors


def change_config(folder: Path, section: str = "", **values: Any) -> None:
    config = read_json(folder / "config.json")
    (config[section] if section else config).update(values)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(params=["janus", "janusflow", "metaquery"])
def checkpoint_of_family(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny checkpoint of each family, with what it needs beside it."""
    golden = {"janus": GOLDEN / "janus_1_3b", "janusflow": GOLDEN / "janusflow_1_3b", "metaquery": METAQUERY}
    source = golden[request.param]
    for beside in ("vae", "components"):
        if (source / beside).is_dir():
            shutil.copytree(source / beside, tmp_path / beside)
    name = "ckpt_llavaov_sd15" if request.param == "metaquery" else "checkpoint"
    return Path(shutil.copytree(source / name, tmp_path / "checkpoint"))


def pickled(file: Path, content: Any, *, zipped: bool = True) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=zipped)


def shards(folder: Path, weights: dict[str, torch.Tensor], one: str, other: str) -> None:
    names = sorted(weights)
    for file, some in ((one, names[::2]), (other, names[1::2])):
        save_file({name: weights[name] for name in some}, folder / file)


WAYS: dict[str, tuple[Callable[[Path, dict[str, torch.Tensor]], None], list[str]]] = {
    **{
        f"prefix {prefix}": (
            lambda f, w, p=prefix: save_file({p + k: v for k, v in w.items()}, f / "model.safetensors"),
            ["weights_prefix_removed"],
        )
        for prefix in ("module.", "model.", "base.model._orig_mod.")
    },
    "wrapped layers": (
        lambda f, w: save_file(
            {k.replace("layers.0.", "_fsdp_wrapped_module.layers.0._orig_mod."): v for k, v in w.items()},
            f / "model.safetensors",
        ),
        ["weights_prefix_removed"],
    ),
    "buffers": (
        lambda f, w: save_file(
            w | {"model.rotary_emb.inv_freq": torch.ones(4), "a.embeddings.position_ids": torch.ones(4)},
            f / "model.safetensors",
        ),
        ["weights_buffers_ignored"],
    ),
    "own name": (lambda f, w: save_file(w, f / "finetuned.safetensors"), ["weights_own_name"]),
    "no suffix": (lambda f, w: save_file(w, f / "model.safetensors(1)"), ["weights_own_name"]),
    "suffix of a pickle": (lambda f, w: save_file(w, f / "pytorch_model.bin"), []),
    "suffix of safetensors": (lambda f, w: pickled(f / "model.safetensors", w), []),
    "numbered shards": (
        lambda f, w: shards(f, w, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        ["weights_own_name"],
    ),
    "shards of any name": (lambda f, w: shards(f, w, "one.safetensors", "two.safetensors"), ["weights_own_name"]),
    "pickle": (lambda f, w: pickled(f / "pytorch_model.bin", w), []),
    "old pickle": (lambda f, w: pickled(f / "pytorch_model.bin", w, zipped=False), []),
    "training checkpoint": (
        lambda f, w: pickled(
            f / "last.ckpt",
            {
                "state_dict": {f"model.{k}": v for k, v in w.items()},
                "ema": {k: torch.zeros_like(v) for k, v in w.items()},
                "hyper_parameters": argparse.Namespace(folder=Path("x"), best=np.float64(1.5)),
                "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
            },
        ),
        ["weights_own_name", "weights_unwrapped", "weights_prefix_removed"],
    ),
    "averages alone": (
        lambda f, w: pickled(f / "pytorch_model.bin", {"ema": {"state_dict": w, "decay": 0.9}}, zipped=False),
        ["weights_unwrapped"],
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_whole_checkpoint_of_another_tool_has_the_same_tensors(checkpoint_of_family: Path, way: str) -> None:
    variant = load_catalog().resolve(str(checkpoint_of_family))
    before = tensors_of(variant.family, checkpoint_of_family)
    save, expected = WAYS[way]
    save(checkpoint_of_family, weights_of(checkpoint_of_family))
    said = list[Any]()
    model: Any = result_of(load(plan_load(variant, variant.folder, "cpu").choose("fp32")), said.append).model
    after = model.network.state_dict()
    assert [step.message.code for step in said if isinstance(step, Notice)] == expected
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


_LOADED: dict[str, dict[str, torch.Tensor]] = {}


def tensors_of(family: str, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the family's checkpoint before it was changed, loaded once."""
    if family not in _LOADED:
        model: Any = loaded(folder).model
        _LOADED[family] = model.network.state_dict()
    return _LOADED[family]


def test_whole_checkpoint_loads_without_a_notice(checkpoint_of_family: Path) -> None:
    assert notices(checkpoint_of_family) == []


@pytest.mark.parametrize("left_out", ["language_model.lm_head.weight", "language_model.model.embed_tokens.weight"])
@pytest.mark.parametrize("section", ["language_config", ""])
def test_one_of_two_tied_tensors_is_enough_only_where_the_config_ties_them(
    checkpoint: Path, left_out: str, section: str
) -> None:
    weights = weights_of(checkpoint)
    kept = ({"language_model.lm_head.weight", "language_model.model.embed_tokens.weight"} - {left_out}).pop()
    del weights[left_out]
    save_file(weights, checkpoint / "model.safetensors")
    assert refusal(checkpoint) == "weights_tensors_missing"
    change_config(checkpoint, section, tie_word_embeddings=True)
    assert notices(checkpoint) == ["weights_head_tied"]
    tensors = loaded(checkpoint).model.network.state_dict()  # type: ignore[attr-defined]
    assert torch.equal(tensors[left_out], weights[kept].float())


def test_files_of_trainers_are_no_weights(checkpoint: Path) -> None:
    save_file(weights_of(checkpoint), checkpoint / "finetuned.safetensors")
    torch.save({}, checkpoint / "training_args.bin")
    assert notices(checkpoint) == ["weights_own_name"]


def test_missing_shard_is_named(checkpoint: Path) -> None:
    shards(checkpoint, weights_of(checkpoint), "m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors")
    (checkpoint / "m-00001-of-00002.safetensors").unlink()
    assert refusal(checkpoint) == "weights_shard_missing"


def test_huge_number_of_shards_in_a_name_takes_no_memory(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "x-1-of-999999999999999999999.safetensors")
    assert refusal(checkpoint) == "weights_shard_missing"


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_path_in_a_pickle_of_any_python_is_read(checkpoint: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class PosixPath:
        def __reduce__(self) -> tuple[type, tuple[str, ...]]:
            return PosixPath, ("runs", "1")

    PosixPath.__module__, PosixPath.__qualname__ = module, "PosixPath"
    weights, content = weights_of(checkpoint), io.BytesIO()
    with monkeypatch.context() as patched:
        place = types.ModuleType(module)
        place.PosixPath = PosixPath  # type: ignore[attr-defined]
        patched.setitem(sys.modules, module, place)
        torch.save({"state_dict": weights, "folder": PosixPath()}, content)
    (checkpoint / "pytorch_model.bin").write_bytes(content.getvalue())
    assert set(read_header(checkpoint / "pytorch_model.bin").tensors) == set(weights)


def test_folder_that_cannot_be_read_is_refused_as_such(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Path.iterdir

    def denied(path: Path) -> Any:
        if path == checkpoint:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", denied)
    assert refusal(checkpoint) == "model_file_unreadable"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipe_is_not_opened(checkpoint: Path) -> None:
    os.mkfifo(checkpoint / "pipe")
    assert refusal(checkpoint / "pipe") == "file_of_unknown_kind"
    (checkpoint / "model.safetensors").unlink()
    assert refusal(checkpoint) == "checkpoint_without_weights"


def test_two_whole_models_in_one_folder_are_refused_but_not_a_model_and_its_part(checkpoint: Path) -> None:
    weights = weights_of(checkpoint)
    save_file(weights, checkpoint / "one.safetensors")
    save_file({name: weights[name] for name in sorted(weights)[:5]}, checkpoint / "part.safetensors")
    assert notices(checkpoint) == ["weights_own_name"]
    save_file(weights, checkpoint / "two.safetensors")
    assert refusal(checkpoint) == "weights_ambiguous"


def test_adapter_beside_a_whole_model_is_not_applied_silently(checkpoint: Path) -> None:
    save_file({"x.lora_A.weight": torch.ones(1)}, checkpoint / "adapter_model.safetensors")
    assert notices(checkpoint) == ["adapter_not_applied"]


def test_config_without_a_model_type_is_known_by_its_sections(checkpoint_of_family: Path) -> None:
    change_config(checkpoint_of_family, model_type=None)
    assert notices(checkpoint_of_family) == ["checkpoint_type_assumed"]


KINDS: dict[str, tuple[bytes, str]] = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\n", "weights_lfs_pointer"),
    "page": (b"<!DOCTYPE html><html>sign in</html>", "weights_web_page"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(100), "weights_other_format"),
    "onnx": (b"\x08\x07\x12\x07pytorch" + bytes(100), "weights_other_format"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "weights_other_format"),
    "nothing": (b"", "weights_empty"),
    "zeros": (bytes(1000), "weights_zeros"),
    "answer": (b"Entry not found", "file_is_text"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "file_is_picture"),
    "archive": (b"\x1f\x8b\x08" + bytes(100), "file_is_archive"),
    "document": (b"%PDF-1.7\n" + bytes(100), "file_is_of_kind"),
    "pickle of another kind": (b"\x80\x04\x95" + bytes(100), "weights_pickle_runs_code"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "own.ckpt"])
def test_file_of_another_kind_is_refused_as_what_it_is(checkpoint: Path, kind: str, name: str) -> None:
    content, code = KINDS[kind]
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / name).write_bytes(content)
    assert refusal(checkpoint) == code == refusal(checkpoint / name)


def test_zip_that_is_no_pickle_is_refused_as_what_it_is(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with zipfile.ZipFile(checkpoint / "pytorch_model.bin", "w") as file:
        file.writestr("readme.txt", "hello")
    assert refusal(checkpoint) == "file_is_archive"
    with zipfile.ZipFile(checkpoint / "pytorch_model.bin", "w") as file:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):  # what TorchScript writes
            file.writestr(f"model/{name}", "")
    assert refusal(checkpoint) == "weights_other_format"


def test_pickle_without_a_table_of_tensors_is_not_called_damaged(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    pickled(checkpoint / "pytorch_model.bin", {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []})
    assert refusal(checkpoint) == "weights_pickle_without_tensors"


@pytest.mark.parametrize("kept", [5, 100, 3000, -1000, -1])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "old.ckpt"])
def test_cut_file_says_that_its_end_is_missing(checkpoint: Path, name: str, kept: int) -> None:
    weights, file = weights_of(checkpoint), checkpoint / name
    if name == "model.safetensors":
        save_file(weights, file)
    else:
        pickled(file, weights, zipped=name != "old.ckpt")
    if name == "pytorch_model.bin" and kept == 5:
        return  # too little is left to tell
    whole = file.read_bytes()
    file.write_bytes(whole[:kept])
    with pytest.raises(AppError) as caught:
        notices(checkpoint)
    assert "incomplete" in str(caught.value) or kept == 5
    if name == "model.safetensors" and kept < 0:
        assert f"{-kept} bytes" in str(caught.value).replace(",", "")


@pytest.mark.parametrize("kind", ["pointer", "page", "nothing"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_json_file_of_another_kind_is_refused_as_what_it_is(checkpoint: Path, name: str, kind: str) -> None:
    content, code = KINDS[kind]
    (checkpoint / name).write_bytes(content)
    assert refusal(checkpoint) == code


Q = "language_model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (f"{Q}.lora_A.weight", "checkpoint_lora_unmerged"),
        (f"{Q}.lora_magnitude_vector", "checkpoint_lora_unmerged"),
        (f"{Q}.base_layer.weight", "checkpoint_lora_unmerged"),
        (f"{Q}.qweight", "checkpoint_quantized"),
        (f"{Q}.g_idx", "checkpoint_quantized"),
        (f"{Q}.weight.absmax", "checkpoint_quantized"),
        (f"{Q}.SCB", "checkpoint_quantized"),
        (f"{Q}.weight_scale", "checkpoint_quantized"),
        (f"{Q}.weight_scale_inv", "checkpoint_quantized"),
        (f"{Q}.weight_packed", "checkpoint_quantized"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_changed_layers_are_refused_as_what_they_are(checkpoint: Path, name: str, code: str, prefix: str) -> None:
    weights = weights_of(checkpoint) | {name: torch.ones(4)}
    save_file({prefix + name: tensor for name, tensor in weights.items()}, checkpoint / "model.safetensors")
    assert refusal(checkpoint) == code


def test_weights_of_whole_numbers_are_quantised(checkpoint: Path) -> None:
    weights = weights_of(checkpoint)
    pickled(checkpoint / "pytorch_model.bin", weights | {f"{Q}.weight": weights[f"{Q}.weight"].to(torch.int8)})
    assert refusal(checkpoint) == "checkpoint_quantized"


def test_plain_fp8_loads_with_a_warning(checkpoint: Path) -> None:
    weights = weights_of(checkpoint)
    few = {name: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t for name, t in weights.items()}
    save_file(few, checkpoint / "model.safetensors")
    assert notices(checkpoint) == ["weights_in_fp8"]


@pytest.mark.parametrize("section", ["quantization_config", "quantization"])
def test_quantised_config_is_refused(checkpoint: Path, section: str) -> None:
    change_config(checkpoint, **{section: {"bits": 4, "load_in_4bit": True}})
    assert refusal(checkpoint) == "checkpoint_quantized"


def test_weights_of_mlx_are_refused_as_what_they_are(checkpoint: Path) -> None:
    save_file(weights_of(checkpoint), checkpoint / "model.safetensors", metadata={"format": "mlx"})
    assert refusal(checkpoint) == "weights_other_format"


LORA = {f"base_model.model.{Q}.lora_{part}.weight": torch.ones(1, 1) for part in "AB"}


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin", "my_lora.safetensors"])
@pytest.mark.parametrize("described", [True, False])
def test_adapter_alone_is_refused_with_the_name_of_its_model(checkpoint: Path, name: str, described: bool) -> None:
    (checkpoint / "model.safetensors").unlink()
    if described:
        (checkpoint / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    (save_file if name.endswith(".safetensors") else torch.save)(LORA, checkpoint / name)
    assert refusal(checkpoint) == "checkpoint_is_adapter"
    if described and name.startswith("adapter_"):
        (checkpoint / "config.json").unlink()
        with pytest.raises(AppError, match="owner/base"):
            load_catalog().resolve(str(checkpoint))


@pytest.mark.parametrize("name", ["model.gguf", "model.onnx", "tf_model.h5", "flax_model.msgpack", "saved_model.pb"])
@pytest.mark.parametrize("config", [True, False])
def test_folder_with_only_another_format_is_refused_as_what_it_is(checkpoint: Path, name: str, config: bool) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / name).write_bytes(bytes(range(100)))
    if not config:
        (checkpoint / "config.json").unlink()
    assert refusal(checkpoint) == "weights_other_format"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"], "Llama"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "Stable Diffusion"),
        (["mllm_backbone.x", "connector.y"], "MetaQuery"),
        (["what.ever"], "what.ever"),
    ],
)
def test_weights_of_another_architecture_are_named(checkpoint: Path, names: list[str], found: str) -> None:
    weights_of(checkpoint)
    save_file({name: torch.ones(1) for name in names}, checkpoint / "model.safetensors")
    with pytest.raises(AppError, match=found):
        notices(checkpoint)


def test_extended_vocabulary_is_explained(checkpoint: Path) -> None:
    weights = weights_of(checkpoint)
    name = "language_model.model.embed_tokens.weight"
    save_file(weights | {name: torch.cat([weights[name], weights[name][:8]])}, checkpoint / "model.safetensors")
    with pytest.raises(AppError, match="vocab_size"):
        notices(checkpoint)


def test_other_models_are_named_from_their_configs(checkpoint: Path) -> None:
    for config, word in (({"model_type": "qwen2"}, "qwen2"), ({"_class_name": "UNet2D"}, "UNet2D")):
        (checkpoint / "config.json").write_text(json.dumps(config))
        with pytest.raises(AppError, match=word):
            load_catalog().resolve(str(checkpoint))
    (checkpoint / "config.json").unlink()
    (checkpoint / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(AppError, match="FluxPipeline"):
        load_catalog().resolve(str(checkpoint))


def test_file_of_a_checkpoint_stands_for_its_folder(checkpoint: Path) -> None:
    assert notices(checkpoint / "model.safetensors") == notices(checkpoint / "config.json") == []
    alone = checkpoint.parent / "alone.safetensors"
    shutil.copy(checkpoint / "model.safetensors", alone)
    with pytest.raises(AppError, match="Janus") as caught:
        load_catalog().resolve(str(alone))
    assert caught.value.code == "weights_file_alone"


@pytest.mark.parametrize("inside", ["Janus-Pro-1B", "snapshots/0123abcd"])
def test_only_checkpoint_inside_a_folder_is_found_and_named(checkpoint: Path, inside: str) -> None:
    outer = checkpoint.parent / "models--owner--name"
    shutil.copytree(checkpoint, outer / inside)
    session = ModelSession(load_catalog(), Hub(checkpoint.parent / "cache", data=checkpoint.parent / "data"))
    said = [e.message.code for e in session.load(str(outer), "cpu", "fp32") if isinstance(e, Notice)]
    assert said == ["checkpoint_found_inside"] and session.variant is not None
    assert session.variant.folder == (outer / inside).resolve()
    if inside == "Janus-Pro-1B":
        shutil.copytree(checkpoint, outer / "second")
        assert refusal(outer) == "checkpoint_folders_inside"


@pytest.mark.parametrize("what", ["weights", "shape"])
def test_import_into_the_own_list_compares_names_and_shapes_first(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("JANUS_APP_DATA", str(checkpoint.parent / "data"))
    monkeypatch.setattr("janus_app.runtime.loader.read_tensors", None)  # reads no tensor
    hub = Hub(checkpoint.parent / "cache", data=checkpoint.parent / "data")
    weights = weights_of(checkpoint)
    renamed = {f"module.{name}": tensor for name, tensor in weights.items()}
    save_file(renamed, checkpoint / "model.safetensors")
    said = list[Any]()
    assert result_of(add_own_model(hub, checkpoint, "One"), said.append).id == "one"
    assert [notice.message.code for notice in said] == ["weights_prefix_removed"]
    wrong = LORA if what == "weights" else weights | {f"{Q}.weight": torch.ones(2, 2)}
    save_file(wrong, checkpoint / "model.safetensors")
    with pytest.raises(AppError) as caught:
        result_of(add_own_model(hub, checkpoint, "Two"))
    assert caught.value.code == ("checkpoint_is_adapter" if what == "weights" else "weights_shape_differs")
    assert "two" not in load_catalog()
