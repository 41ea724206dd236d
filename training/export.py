"""Export the joint model as a Janus checkpoint folder in bfloat16, with the Hub's names, without auxiliary heads."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from training.batches import CELLS
from training.codes import CODE_DIM
from training.joint import HEAD
from training.joint import config as network_config
from training.picture_tokenizer import CONFIG as VQ
from training.pictures import TOWER_SIDE
from training.trainer import load_state
from training.vocabulary import write as write_vocabulary
from training.world import N_TILES, tile_factors

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def picture_head(state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The sums of kind, colour and background terms as one matrix [N_TILES, HEAD] and its bias."""
    kind, colour, ground = torch.from_numpy(tile_factors()).unbind(1)
    drawn = (kind > 0).float()
    weight = (
        state["kind.weight"][kind] + drawn[:, None] * state["colour.weight"][colour] + state["ground.weight"][ground]
    )
    bias = state["kind.bias"][kind] + drawn * state["colour.bias"][colour] + state["ground.bias"][ground]
    return weight, bias


def tensors(joint: dict[str, Tensor], pictures: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {n.removeprefix("net."): t for n, t in joint.items() if n.startswith("net.")}
    out["gen_head.vision_head.weight"], out["gen_head.vision_head.bias"] = picture_head(joint)
    out |= {f"gen_vision_model.{n}": t for n, t in pictures.items()}
    return bfloat16(out)


def bfloat16(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies for a checkpoint file, none of which share memory."""
    return {n: t.detach().to("cpu", torch.bfloat16).clone().contiguous() for n, t in weights.items()}


def part(name: str, cls: str, **params: Any) -> dict[str, Any]:
    """The entry of a config.json for one module."""
    return {"cls": cls, "model_type": name, "params": params}


def config(vocabulary: int) -> dict[str, Any]:
    """config.json with the Hub's field names, and the tower's sizes, which published configs give only by its name."""
    net = network_config(vocabulary)
    language, vision = net.language, net.vision
    return {
        "architectures": ["MultiModalityCausalLM"],
        "model_type": "multi_modality",
        "torch_dtype": "bfloat16",
        "aligner_config": part(
            "aligner",
            "MlpProjector",
            depth=2,
            input_dim=vision.width,
            n_embed=language.hidden_size,
            projector_type="mlp_gelu",
        ),
        "gen_aligner_config": part(
            "gen_aligner",
            "MlpProjector",
            depth=2,
            input_dim=CODE_DIM,
            n_embed=language.hidden_size,
            projector_type="mlp_gelu",
        ),
        "gen_head_config": part(
            "gen_head", "vision_head", image_token_embed=HEAD, image_token_size=N_TILES, n_embed=language.hidden_size
        ),
        "gen_vision_config": part(
            "gen_vision",
            "VQ-16",
            image_token_size=N_TILES,
            n_embed=CODE_DIM,
            ch=VQ.ch,
            ch_mult=list(VQ.ch_mult),
            num_res_blocks=VQ.num_res_blocks,
            z_channels=VQ.z_channels,
        ),
        "language_config": {
            "model_type": "llama",
            "torch_dtype": "bfloat16",
            "vocab_size": language.vocab_size,
            "hidden_size": language.hidden_size,
            "intermediate_size": language.intermediate_size,
            "num_hidden_layers": language.num_hidden_layers,
            "num_attention_heads": language.num_attention_heads,
            "num_key_value_heads": language.num_key_value_heads,
            "rope_theta": language.rope_theta,
            "max_position_embeddings": language.max_position_embeddings,
            "rms_norm_eps": language.rms_norm_eps,
        },
        "vision_config": part(
            "vision",
            "CLIPVisionTower",
            image_size=vision.image_size,
            width=vision.width,
            layers=vision.layers,
            heads=vision.heads,
            patch_size=vision.patch_size,
            mlp_ratio=vision.mlp_ratio,
            model_name="siglip_large_patch16_384",
            select_feature="same",
            select_layer=-1,
        ),
    }


def export(joint_folder: Path, picture_file: Path, out: Path) -> None:
    joint, pictures = load_state(joint_folder / "joint.pt")["model"], load_state(picture_file)["model"]
    vocabulary = joint["net.language_model.lm_head.weight"].shape[0]
    write_folder(out, tensors(joint, pictures), config(vocabulary), joint_folder)
    write_vocabulary(out)


def write_folder(out: Path, weights: dict[str, Tensor], config: dict[str, Any], tokenizer: Path) -> None:
    """Write a checkpoint folder: weights, config.json, the tokenizer's files and the processors' configs."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer / name, out / name)
    files: dict[str, dict[str, Any]] = {
        "config.json": config,
        "processor_config.json": {
            "add_special_token": False,
            "answers_in_language_of_question": True,
            "ignore_id": -100,
            "image_tag": "<image_placeholder>",
            "mask_prompt": True,
            "num_image_tokens": CELLS,
            "processor_class": "VLChatProcessor",
            "sft_format": "deepseek",
        },
        "preprocessor_config.json": {
            "background_color": [127, 127, 127],
            "do_normalize": True,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "image_processor_type": "VLMImageProcessor",
            "image_size": TOWER_SIDE,
            "min_size": 14,
            "processor_class": "VLChatProcessor",
            "rescale_factor": 1 / 255,
        },
    }
    for name, value in files.items():
        (out / name).write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{out}: {size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--joint", type=Path, required=True, help="the folder of training.joint")
    parser.add_argument("--pictures", type=Path, required=True, help="the file of training.picture_tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    export(args.joint, args.pictures, args.out)


if __name__ == "__main__":
    main()
