"""MetaQuery from its folders: parts that are missing, damaged, elsewhere or of another kind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.hub import Hub
from janus_app.models.metaquery.config import parse_config
from janus_app.nn.diffusion import TextImageGuidance
from janus_app.registry.catalog import load_catalog
from janus_app.types import (
    ChatRequest,
    Turn,
    result_of,
)
from tests.conftest import loaded
from tests.metaquery_golden import GOLDEN, last, model, relative


def checkpoint(tmp_path: Path, name: str = "llavaov_sd15", **changes: Any) -> Path:
    """A copy of a checkpoint with its components beside it and fields of config.json changed."""
    folder = tmp_path / "mine"
    shutil.copytree(GOLDEN / f"ckpt_{name}", folder)
    shutil.copytree(GOLDEN / "components", tmp_path / "components")
    config = read_json(folder / "config.json") | changes
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(AppError) as caught:
        loaded(folder)
    return str(caught.value)


def test_a_missing_component_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, mllm_id="owner/absent-model")
    assert "needs owner/absent-model" in refusal(folder) and str(folder / "components") in refusal(folder)
    shutil.rmtree(tmp_path / "components")
    assert "was not found" in refusal(folder)


@pytest.mark.parametrize("spelling", ["owner/name", "owner--name", "name"])
def test_components_inside_or_beside_are_found_by_their_id(tmp_path: Path, spelling: str) -> None:
    folder = checkpoint(tmp_path, mllm_id="owner/name")
    place = (folder if spelling == "name" else tmp_path) / "components" / spelling
    place.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "components" / "llava-onevision-mini-ov-hf").rename(place)
    assert loaded(folder).model.capabilities.size == (64, 64)


def test_a_language_model_missing_or_of_another_size(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, mllm_id="components/llava-onevision-tiny-ov-hf")
    assert "differs in size from components/llava-onevision-tiny-ov-hf" in refusal(folder)
    again = checkpoint(tmp_path / "2")
    file = again / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "mllm_backbone" not in k}, file)
    assert "without part or all of its language model" in refusal(again)


def test_parts_of_different_models_are_refused(tmp_path: Path) -> None:
    assert "latent channels" in refusal(checkpoint(tmp_path / "1", in_channels=8))
    assert "not a repository id" in refusal(checkpoint(tmp_path / "2", vae_id="../elsewhere"))
    folder = checkpoint(tmp_path / "3")
    language = tmp_path / "3" / "components" / "llava-onevision-mini-ov-hf"
    (language / "config.json").write_text('{"model_type": "llama"}', "utf-8")
    assert "built on llava_onevision, qwen2_5_vl" in refusal(folder)
    (language / "config.json").write_text(
        '{"model_type": "llava_onevision", "text_config": {"hidden_size": "x"}}', "utf-8"
    )
    assert "llava-onevision-mini-ov-hf cannot be used" in refusal(folder)
    (language / "config.json").unlink()
    assert "config.json is missing" in refusal(folder)
    with pytest.raises(AppError, match="num_metaqueries"):
        parse_config(read_json(GOLDEN / "ckpt_llavaov_sd15" / "config.json") | {"num_metaqueries": 0})


def untied(folder: Path) -> Path:
    """Say that the language model's head is not its embedding."""
    language = folder.parent / "components" / "llava-onevision-mini-ov-hf"
    config = read_json(language / "config.json")
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (language / "config.json").write_text(json.dumps(config), "utf-8")
    return language


def test_chat_needs_an_output_head(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    language = untied(folder)
    silent: Any = loaded(folder).model
    assert silent.capabilities.verbs == {"generate", "edit"}
    with pytest.raises(AppError, match="no language-model head"):
        silent.chat(ChatRequest((Turn("user", "Hello"),)))
    head = torch.zeros(448, 64)
    head[77] = 1  # every answer is this token, or none where the sum of a state is below 0
    save_file({"lm_head.weight": head, "other.weight": torch.zeros(3)}, language / "model.safetensors")
    speaking: Any = loaded(folder).model
    assert torch.equal(speaking.mllm_chat.head, head[: speaking.reader.tokenizer.size])
    ask = ChatRequest((Turn("user", "Hello"),), temperature=0, max_new_tokens=3)
    assert set(last(speaking.chat(ask)).token_ids) <= {0, 77}


def test_quantised_linears_keep_their_biases() -> None:
    small: Any = loaded(GOLDEN / "ckpt_llavaov_sd15", "int8").model
    full = model("llavaov_sd15")
    ours, theirs = (m.network.mllm.language_model.layers[1].self_attn for m in (small, full))
    assert type(ours.q_proj).__name__ == type(ours.o_proj).__name__ == "Int8Linear"
    assert torch.equal(ours.q_proj.bias, theirs.q_proj.bias) and ours.o_proj.bias is None
    states = [result_of(m.conditioner.guidance_rows("a fox", "", (), TextImageGuidance(1.0))) for m in (small, full)]
    assert 0 < relative(*states) < 0.1


def test_a_folder_is_recognised_and_known_parts_can_be_fetched(tmp_path: Path) -> None:
    catalog = load_catalog()
    found = catalog.resolve(str(GOLDEN / "ckpt_qwen25vl_sana"))
    assert (found.family, found.size, dict(found.components)) == ("metaquery", (128, 128), {})
    for name in (
        "metaquery-l",
        "metaquery-xl",
    ):  # the second's language model is UniPic2's too, which needs its weights
        known = catalog[name].components
        ids = {"mllm_id": known["mllm"].repo, "diffusion_model_id": known["diffusion"].repo}
        folder = checkpoint(tmp_path / name, **ids, input_size=16)
        shutil.rmtree(tmp_path / name / "components")
        assert catalog.resolve(str(folder)).components == known


def test_rows_without_public_weights_say_so() -> None:
    for name in ("metaquery-b", "metaquery-l", "metaquery-xl"):
        variant = load_catalog()[name]
        with pytest.raises(AppError, match=f"No public weights.*{name}"):
            list(Hub().fetch(variant))


def test_loader_imports_neither_transformers_nor_diffusers() -> None:
    code = "import sys, janus_app.runtime.loader, janus_app.models.registry; print(' '.join(sys.modules))"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in names and not {"diffusers", "transformers"} & set(names)
