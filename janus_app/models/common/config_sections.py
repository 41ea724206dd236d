"""The sections that Janus and JanusFlow checkpoints share: language model, SigLIP tower, image and text processor.

Missing fields get the defaults of the reference code. Each family's own sections are read in its config.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from janus_app.errors import AppError
from janus_app.models.common.config import Fields
from janus_app.models.common.image_processor import ImageProcessor
from janus_app.models.common.prompts import PromptStyle
from janus_app.nn.llama import DecoderConfig
from janus_app.nn.siglip import VisionConfig

# The Hub configs name their towers only by these names: (width, layers, heads, patch size, MLP ratio).
_TOWERS = {
    "siglip_large_patch16_384": (1024, 24, 16, 16, 4.0),
    "siglip_so400m_patch14_384": (1152, 27, 16, 14, 3.7362),
    "siglip_so400m_patch14_224": (1152, 27, 16, 14, 3.7362),
}


def language_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """The section language_config, with the defaults of transformers' LlamaConfig."""
    language = Fields("language_config", raw.get("language_config"))
    heads = language.whole("num_attention_heads", 32)
    decoder = DecoderConfig(
        vocab_size=language.whole("vocab_size"),
        hidden_size=language.whole("hidden_size", 4096),
        intermediate_size=language.whole("intermediate_size", 11008),
        num_hidden_layers=language.whole("num_hidden_layers", 32),
        num_attention_heads=heads,
        num_key_value_heads=language.whole("num_key_value_heads", heads),
        max_position_embeddings=language.whole("max_position_embeddings", 2048),
        rms_norm_eps=language.number("rms_norm_eps", 1e-6),
        rope_theta=language.number("rope_theta", 10000.0),
    )
    if decoder.hidden_size % heads or heads % decoder.num_key_value_heads:
        raise AppError("config_heads_do_not_divide", heads=heads, width=decoder.hidden_size)
    return decoder


def section_params(raw: Mapping[str, Any], section: str) -> Any:
    """The `params` of a section; None where there are none, which `Fields` then refuses."""
    value = raw.get(section)
    return value.get("params") if isinstance(value, Mapping) else None


def vision_config(raw: Mapping[str, Any], section: str) -> VisionConfig:
    """The SigLIP tower of a section, by its name or by its numbers."""
    fields = Fields(f"{section}.params", section_params(raw, section))
    name = fields.values.get("model_name", "siglip_large_patch16_384")
    if name not in _TOWERS:
        raise AppError("vision_tower_unknown", given=str(name)[:60], known=", ".join(_TOWERS))
    width, layers, heads, patch, ratio = _TOWERS[name]
    layers = fields.whole("layers", layers)
    keep = fields.values.get("select_layer", -1)
    return VisionConfig(
        image_size=fields.whole("image_size", 384),
        width=fields.whole("width", width),
        layers=layers + keep + 1 if isinstance(keep, int) and -layers <= keep <= 0 else layers,
        heads=fields.whole("heads", heads),
        patch_size=fields.whole("patch_size", patch),
        mlp_ratio=fields.number("mlp_ratio", ratio),
    )


def parse_processor(raw: Mapping[str, Any]) -> ImageProcessor:
    """preprocessor_config.json; the padding colour follows the mean, as in the reference."""
    fields = Fields("preprocessor_config", raw)
    mean = tuple(raw.get("image_mean") or (0.5, 0.5, 0.5))
    std = tuple(raw.get("image_std") or (0.5, 0.5, 0.5))
    if not all(len(v) == 3 and all(isinstance(x, (int, float)) for x in v) for v in (mean, std)) or 0 in std:
        raise AppError("preprocessor_mean_unusable")
    grey = tuple(int(x * 255) for x in mean)
    return ImageProcessor(
        size=fields.whole("image_size"),
        min_size=fields.whole("min_size", 14),
        background=(grey[0], grey[1], grey[2]),
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        rescale=fields.number("rescale_factor", 1 / 255),
        normalize=bool(raw.get("do_normalize", True)),
    )


def parse_style(raw: Mapping[str, Any], roles: str = "") -> PromptStyle:
    """How roles are written: special tokens in Janus-Pro, plain words in Janus-1.3B and JanusFlow.

    `sft_format` in processor_config.json says which since 2025. `roles` ("words" or "tokens") goes before it, because
    earlier revisions of the older models say "deepseek" too.
    """
    name = raw.get("sft_format", "deepseek")
    if name not in ("deepseek", "deepseek_old"):
        raise AppError("prompt_format_unknown", given=str(name)[:60])
    if roles == "words" or (not roles and name == "deepseek_old"):
        return PromptStyle("User", "Assistant", roles_are_tokens=False)
    return PromptStyle("<|User|>", "<|Assistant|>", roles_are_tokens=True)
