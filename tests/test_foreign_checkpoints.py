"""Checkpoints as other tools save them: what is complete loads with the same tensors, the rest is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.models.common.config_sections import language_config
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
