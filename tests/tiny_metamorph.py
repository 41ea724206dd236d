"""The golden MetaMorph with a visualiser: pickles as the training code writes them, and a tiny Stable Diffusion."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file

from janus_app.models.regression.layouts import BASE

GOLDEN = Path(__file__).parent / "golden" / "metamorph"
UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "attention_head_dim": 4,
    "block_out_channels": [8, 16],
    "cross_attention_dim": 32,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "in_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "out_channels": 4,
    "sample_size": 8,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [4, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}
SCHEDULER: dict[str, Any] = {  # of Stable Diffusion 1.5
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


def write_checkpoint(folder: Path) -> Path:
    """The checkpoint in `folder`, its visualiser in it and the base beside it; returns the checkpoint."""
    torch.manual_seed(0)
    checkpoint, base = folder / "checkpoint", folder / "components" / BASE
    shutil.copytree(GOLDEN / "checkpoint", checkpoint)
    shutil.copytree(GOLDEN / "components", folder / "components")
    visualizer = checkpoint / "visualizer"
    visualizer.mkdir()
    shutil.copy(GOLDEN / "visualizer" / "adapter2_model_config.json", visualizer / "model_config.json")
    adapter = load_file(GOLDEN / "visualizer" / "adapter2_model_state_dict.safetensors")
    unet, vae = UNet2DConditionModel.from_config(UNET), AutoencoderKL.from_config(VAE)
    for name, state in (("adapter", adapter), ("unet", unet.state_dict())):
        training = {"epoch": 3, "model_state_dict": state, "loss": 0.5}
        torch.save(training, visualizer / f"{name}_checkpoint.pt")
    for name, config in (("unet", UNET), ("vae", VAE), ("scheduler", SCHEDULER)):
        (base / name).mkdir(parents=True)
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (base / name / file).write_text(json.dumps(config), "utf-8")
    vae.save_pretrained(base / "vae")
    return checkpoint
