"""Checkpoints of any size with random weights in the real layout, for benchmarks that do not depend on training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from janus_app.runtime.loader import expected_tensors

ASSETS = Path(__file__).resolve().parent.parent / "assets"
EMBEDDED, FLOW = ASSETS / "janus_embedded", ASSETS / "janusflow_embedded"


@dataclass(frozen=True)
class Size:
    """Widths and depths of a Janus; pictures have `side` pixels and one token for every 16 x 16."""

    hidden: int = 1024
    feed_forward: int = 2816
    layers: int = 8
    heads: int = 16
    vocabulary: int = 49152
    side: int = 96
    channels: int = 128
    codes: int = 16384
    tower_width: int = 512
    tower_layers: int = 4


def config_of(size: Size) -> dict[str, Any]:
    """The config.json of such a checkpoint."""
    config: dict[str, Any] = json.loads((EMBEDDED / "config.json").read_text("utf-8"))
    config["language_config"] |= {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.feed_forward,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
    }
    picture = {"image_token_size": size.codes, "n_embed": 8, "ch": size.channels, "ch_mult": [1, 1, 2, 2, 4]}
    config["gen_vision_config"]["params"] = picture
    config["gen_aligner_config"]["params"] |= {"input_dim": 8, "n_embed": size.hidden}
    config["gen_head_config"]["params"] |= {
        "image_token_embed": size.hidden,
        "image_token_size": size.codes,
        "n_embed": size.hidden,
    }
    config["aligner_config"]["params"] |= {"input_dim": size.tower_width, "n_embed": size.hidden}
    config["vision_config"]["params"] |= {
        "image_size": size.side,
        "width": size.tower_width,
        "layers": size.tower_layers,
        "heads": 8,
        "mlp_ratio": 4.0,
    }
    return config


def write(folder: Path, size: Size, seed: int = 0) -> Path:
    """Write the checkpoint (bf16, one file) into `folder`; the tokenizer is the embedded model's."""
    config = config_of(size)
    write_settings(folder, config)
    save_file(random_tensors(expected_tensors(config), seed), folder / "model.safetensors")
    return folder


def write_settings(folder: Path, config: Mapping[str, Any]) -> None:
    """Everything of a Janus' or JanusFlow's checkpoint but its weights. The tokenizer is the embedded model's."""
    tower, embedded = (
        ("vision_und_enc_config", FLOW) if "vision_und_enc_config" in config else ("vision_config", EMBEDDED)
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(embedded / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    side = config[tower]["params"]["image_size"]
    for name, change in (
        ("preprocessor_config.json", {"image_size": side}),
        ("processor_config.json", {"num_image_tokens": (side // 16) ** 2}),
    ):
        values = json.loads((embedded / name).read_text("utf-8")) | change
        (folder / name).write_text(json.dumps(values), "utf-8")


def random_tensors(shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, Tensor]:
    """Tensors in bfloat16 under these names."""
    source = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        values = torch.randn(list(shape), generator=source, dtype=torch.float32).mul_(0.02)
        if "norm" in name and name.endswith("weight"):
            values += 1
        tensors[name] = values.bfloat16()
    return tensors
