"""A tiny random checkpoint in the layout of docs/pisces.md, with a tiny Stable Diffusion XL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file

from janus_app.models.regression.adapter import Adapter
from janus_app.models.regression.config import parse_adapter, parse_config
from janus_app.models.regression.modeling import RegressionNetwork
from tests.tiny_metamorph import GOLDEN, SCHEDULER, UNET, VAE

BASE = "stabilityai/stable-diffusion-xl-base-1.0"
TOWER = {"hidden_size": 16, "image_size": 28, "intermediate_size": 32, "num_attention_heads": 2}
CONFIG: dict[str, Any] = {
    "model_type": "pisces",
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "rope_theta": 500000.0,
    "tokenizer_model_max_length": 256,
    "vocab_size": 263,
    "understanding": {"vision_config": {**TOWER, "num_hidden_layers": 1, "patch_size": 7}, "num_image_tokens": 16},
    "generation": {"width": 12, "num_image_tokens": 4},
}
ADAPTER = {"mode": "linear", "input_dim": 12, "output_dim": 32, "num_tokens": 4, "num_layers": 1, "pooled_dim": 8}
SDXL = UNET | {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
SDXL |= {"projection_class_embeddings_input_dim": 8 + 6 * 4}
EULER = SCHEDULER | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
THEIRS = {  # names in this layout -> in the network
    "model.vision_tower.vision_tower.": "tower.",
    "model.understanding_projector.": "mm_projector.",
    "model.generation_projector.": "write_projector.",
    "generation_head.": "vision_head.",
    "model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}
SIGLIP = {  # ours -> transformers'
    "patch_embed.proj.": "embeddings.patch_embedding.",
    "pos_embed": "embeddings.position_embedding.weight",
    "blocks.": "encoder.layers.",
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    ".attn.proj.": ".self_attn.out_proj.",
    **{f".attn.{letter}.": f".self_attn.{letter}_proj." for letter in "qkv"},
}


def file_name(ours: str) -> str:
    theirs, prefix = next((t, p) for t, p in THEIRS.items() if ours.startswith(p))
    name = ours.removeprefix(prefix)
    for old, new in SIGLIP.items() if prefix == "tower." else ():
        name = name.replace(old, new)
    return theirs + name


def write_checkpoint(folder: Path) -> Path:
    """The checkpoint in `folder` and the base beside it; returns the checkpoint.

    It begins every answer with a picture: one direction of all embeddings outweighs the rest.
    """
    checkpoint = folder / "checkpoint"
    base, visualizer = folder / "components" / BASE, checkpoint / "visualizer"
    visualizer.mkdir(parents=True)
    torch.manual_seed(0)
    state = RegressionNetwork(parse_config(CONFIG), None).state_dict()
    for name, tensor in state.items():
        tensor.fill_(1.0) if "norm" in name and name.endswith("weight") else tensor.normal_(std=0.3)
    state["language_model.model.embed_tokens.weight"][:, 0] = 30
    state["language_model.lm_head.weight"].zero_()[261, 0] = 1
    save_file({file_name(name): tensor for name, tensor in state.items()}, checkpoint / "model.safetensors")
    tokenizer = (GOLDEN / "checkpoint" / "tokenizer.json").read_text("utf-8")
    tokenizer = tokenizer.replace("<image_start>", "[IMG]").replace("<image_end>", "[/IMG]")
    (checkpoint / "tokenizer.json").write_text(tokenizer, "utf-8")
    (checkpoint / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    (visualizer / "model_config.json").write_text(json.dumps({**ADAPTER, "base_model": BASE, "guidance": 5.0}), "utf-8")
    save_file(Adapter(parse_adapter(ADAPTER)).state_dict(), visualizer / "adapter_checkpoint.safetensors")
    save_file(UNet2DConditionModel.from_config(SDXL).state_dict(), visualizer / "unet_checkpoint.safetensors")
    for name, config in (("unet", SDXL), ("scheduler", EULER)):
        (base / name).mkdir(parents=True)
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (base / name / file).write_text(json.dumps(config), "utf-8")
    AutoencoderKL.from_config(VAE).save_pretrained(base / "vae")
    return checkpoint
