"""Saves a Janus checkpoint in either layout: the original one, and that of the transformers library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.models.common.tokenizer import BOS, EOS, IMAGE, IMAGE_BEGIN, IMAGE_END, PAD, Tokenizer
from janus_app.models.family import Layout
from janus_app.models.janus.transformers_layout import MODEL_TYPE, original_config, their_name

if TYPE_CHECKING:
    from torch import Tensor

_TOWER = "vision_model.vision_tower."
_QKV = ("q", "k", "v")
_PICTURE_FIELDS = ("do_normalize", "image_mean", "image_std", "min_size", "rescale_factor", "background_color")


# ---- tensors


def to_transformers(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the network in either layout, as transformers names and splits them."""
    for name, tensor in tensors:
        if name.startswith(_TOWER) and ".attn.qkv." in name:
            for letter, part in zip(_QKV, tensor.chunk(3), strict=True):
                yield their_name(name.replace(".attn.qkv.", f".attn.{letter}.")), part
        else:
            yield their_name(name), tensor.view(tensor.shape[-2:]) if name == f"{_TOWER}pos_embed" else tensor


def to_original(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the network in either layout, as the original one names and joins them."""
    import torch

    waiting: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors:
        before, _, rest = name.partition(".attn.")
        letter, _, leaf = rest.partition(".")
        if name == f"{_TOWER}pos_embed":
            yield name, tensor.view(1, *tensor.shape[-2:])
        elif name.startswith(_TOWER) and letter in _QKV:
            joined = f"{before}.attn.qkv.{leaf}"
            parts = waiting.setdefault(joined, {})
            parts[letter] = tensor.clone()  # the next one is read before it is used
            if len(parts) == len(_QKV):
                yield joined, torch.cat([parts[one] for one in _QKV])
                del waiting[joined]
        else:
            yield name, tensor


# ---- JSON files


def files_of_transformers(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The JSON files that transformers' own classes read, made from those of a checkpoint; none where it has them."""
    raw = read_json(folder / "config.json")
    if raw.get("model_type") == MODEL_TYPE:
        return {}
    tokenizer = Tokenizer(folder / "tokenizer.json")
    pictures = read_json(folder / "preprocessor_config.json")
    config = their_config(raw) | {"image_token_id": tokenizer.id(IMAGE)}
    ids = {"bos_token_id": tokenizer.id(BOS), "eos_token_id": tokenizer.id(EOS), "pad_token_id": tokenizer.id(PAD)}
    config["text_config"] = config["text_config"] | ids
    side = pictures.get("image_size", config["vision_config"]["image_size"])
    special = {"image_token": IMAGE, "boi_token": IMAGE_BEGIN, "eoi_token": IMAGE_END}
    return {
        "config.json": config,
        "generation_config.json": ids
        | {"guidance_scale": 5, "generation_kwargs": {"boi_token_id": tokenizer.id(IMAGE_BEGIN)}},
        "preprocessor_config.json": {
            "image_processor_type": "JanusImageProcessor",
            "processor_class": "JanusProcessor",
            "do_resize": True,
            "do_rescale": True,
            "resample": 3,
            "size": {"height": side, "width": side},
            **{name: pictures[name] for name in _PICTURE_FIELDS if name in pictures},
        },
        "processor_config.json": {
            "processor_class": "JanusProcessor",
            "num_image_tokens": config["vision_config"]["num_image_tokens"],
            "use_default_system_prompt": True,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "extra_special_tokens": special,
            **special,
        },
    }


def their_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of transformers for a config.json of the original layout.

    Raises AppError where the head of the image tokens is not as wide as the decoder, which transformers assumes.
    """
    from janus_app.models.janus.config import parse_config

    config = parse_config(raw)
    language, vision, vq = config.language, config.vision, config.vq
    if config.head_width != language.hidden_size:
        raise AppError("layout_head_differs", head=config.head_width, decoder=language.hidden_size)
    return {
        "architectures": ["JanusForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        "torch_dtype": raw.get("torch_dtype", "bfloat16"),
        "tie_word_embeddings": False,
        "text_config": {
            "model_type": "llama",
            "vocab_size": language.vocab_size,
            "hidden_size": language.hidden_size,
            "intermediate_size": language.intermediate_size,
            "num_hidden_layers": language.num_hidden_layers,
            "num_attention_heads": language.num_attention_heads,
            "num_key_value_heads": language.num_key_value_heads,
            "max_position_embeddings": language.max_position_embeddings,
            "rms_norm_eps": language.rms_norm_eps,
            "rope_theta": language.rope_theta,
            "tie_word_embeddings": False,
        },
        "vision_config": {
            "model_type": "janus_vision_model",
            "image_size": vision.image_size,
            "hidden_size": vision.width,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "patch_size": vision.patch_size,
            "mlp_ratio": vision.mlp_ratio,
            "projection_dim": language.hidden_size,
            "num_image_tokens": vision.patches,
        },
        "vq_config": {
            "model_type": "janus_vqgan",
            "num_embeddings": vq.codebook_size,
            "embed_dim": vq.code_dim,
            "base_channels": vq.ch,
            "channel_multiplier": list(vq.ch_mult),
            "num_res_blocks": vq.num_res_blocks,
            "latent_channels": vq.z_channels,
            "projection_dim": language.hidden_size,
            "image_token_embed_dim": language.hidden_size,
        },
    }


def original_files(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The JSON files of the original layout, made from those of a checkpoint; none where it has them."""
    raw = read_json(folder / "config.json")
    if raw.get("model_type") != MODEL_TYPE:
        return {}
    config = original_config(raw)
    hidden = config["language_config"].get("hidden_size", 4096)
    vision, drawn, head = (config[name]["params"] for name in ("vision_config", "gen_vision_config", "gen_head_config"))
    processor = read_json(folder / "processor_config.json")
    own = processor.get("image_processor")
    pictures = own if isinstance(own, dict) else read_json(folder / "preprocessor_config.json")

    def projector(kind: str, width: int) -> dict[str, Any]:
        params = {"depth": 2, "input_dim": width, "n_embed": hidden, "projector_type": "mlp_gelu"}
        return {"cls": "MlpProjector", "model_type": kind, "params": params}

    return {
        "config.json": {
            "architectures": ["MultiModalityCausalLM"],
            "model_type": "multi_modality",
            "torch_dtype": raw.get("torch_dtype", raw.get("dtype", "bfloat16")),
            "language_config": config["language_config"] | {"tie_word_embeddings": False},
            "vision_config": {
                "cls": "CLIPVisionTower",
                "model_type": "vision",
                "params": vision
                | {"model_name": "siglip_large_patch16_384", "select_feature": "same", "select_layer": -1},
            },
            "aligner_config": projector("aligner", vision["width"]),
            "gen_aligner_config": projector("gen_aligner", drawn["n_embed"]),
            "gen_vision_config": {"cls": "VQ-16", "model_type": "gen_vision", "params": drawn},
            "gen_head_config": {
                "cls": "vision_head",
                "model_type": "gen_head",
                "params": head | {"image_token_size": drawn["image_token_size"], "n_embed": hidden},
            },
        },
        "preprocessor_config.json": {
            "image_processor_type": "VLMImageProcessor",
            "processor_class": "VLChatProcessor",
            "image_size": pictures.get("size", {}).get("height", vision["image_size"]),
            **{name: value for name, value in pictures.items() if name in _PICTURE_FIELDS},
        },
        "processor_config.json": {
            "processor_class": "VLChatProcessor",
            "image_tag": IMAGE,
            "num_image_tokens": processor.get("num_image_tokens", (vision["image_size"] // vision["patch_size"]) ** 2),
            "sft_format": "deepseek",
        },
    }


LAYOUTS = {
    "original": Layout(to_original, original_files),
    "transformers": Layout(to_transformers, files_of_transformers),
}
