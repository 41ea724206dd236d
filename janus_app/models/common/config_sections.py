"""The sections that Janus and JanusFlow checkpoints share: language model, SigLIP tower, image and text processor.

Missing fields get the defaults of the reference code. Each family's own sections are read in its config.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from janus_app.errors import AppError
from janus_app.models.common.config import Fields, fields_at
from janus_app.models.common.image_processor import ImageProcessor
from janus_app.models.common.prompts import PromptStyle
from janus_app.nn.llama import DecoderConfig, RopeScaling
from janus_app.nn.siglip import VisionConfig

# The Hub configs name their towers only by these names: (width, layers, heads, patch size, MLP ratio).
_TOWERS = {
    "siglip_large_patch16_384": (1024, 24, 16, 16, 4.0),
    "siglip_so400m_patch14_384": (1152, 27, 16, 14, 3.7362),
    "siglip_so400m_patch14_224": (1152, 27, 16, 14, 3.7362),
}

# Fields of a Llama config that would change the results, and the values that mean what `nn.llama` computes.
_COMPUTED: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("hidden_act", "hidden_activation"), ("silu", "swish")),
    **dict.fromkeys(("attention_bias", "attention_out_bias", "mlp_bias", "qkv_bias", "use_qkv_bias"), (False,)),
    **dict.fromkeys(("use_bias", "bias", "norm_bias", "rope_interleaved", "rope_interleave"), (False,)),
    **dict.fromkeys(("use_qk_norm", "qk_norm", "qk_layernorm", "use_sliding_window", "alibi"), (False,)),
    **dict.fromkeys(("parallel_attn", "parallel_attention", "use_parallel_residual"), (False,)),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), (0,)),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "clip_qkv"), ()),
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct", "rope_pct"), (1,)),
    **dict.fromkeys(("logit_scale", "logits_scaling", "embedding_multiplier", "residual_multiplier"), (1,)),
}
# Fields of the other sections, with the values of every published checkpoint.
_PROJECTOR = {"projector_type": ("mlp_gelu",), "depth": (2,)}
_TOWER = {
    "select_feature": ("same",),
    "class_token": (False,),
    "global_pool": ("map",),
    **dict.fromkeys(("pixel_mean", "pixel_std"), ()),
    **dict.fromkeys(("reg_tokens", "num_register_tokens"), (0,)),
}
_ROPE_SECTIONS = ("rope_parameters", "rope_scaling")
_PICTURES = {
    **dict.fromkeys(("do_resize", "do_rescale", "do_convert_rgb", "do_pad"), (True,)),
    "do_center_crop": (False,),
    "resample": (3,),  # bicubic
}


def language_config(raw: Mapping[str, Any], kinds: Sequence[str] = ("llama",)) -> DecoderConfig:
    """The section language_config, with the defaults of transformers' LlamaConfig.

    kinds: the architectures that it may be of, "llama" and "qwen2". Raises AppError for sizes that do not fit and for
    fields that ask for something that is not computed here.
    """
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
        rope_theta=_rope(language).number("rope_theta", 10000.0),
        rope_scaling=_rope_scaling(language),
        qkv_bias=language.values.get("model_type") == "qwen2",
    )
    if decoder.hidden_size % heads or heads % decoder.num_key_value_heads:
        raise AppError("config_heads_do_not_divide", heads=heads, width=decoder.hidden_size)
    window = None if language.values.get("use_sliding_window") is False else ()
    of_size: dict[str, tuple[Any, ...] | None] = {
        **dict.fromkeys(("head_dim", "rotary_dim", "query_pre_attn_scalar"), (decoder.head_dim,)),
        "attention_multiplier": (decoder.head_dim**-0.5,),
        "layer_types": (["full_attention"] * decoder.num_hidden_layers,),
        "no_rope_layers": ([1] * decoder.num_hidden_layers,),
        "sliding_window": window,
    }
    refuse_other_values(language, {**_COMPUTED, "model_type": tuple(kinds), **of_size})
    return decoder


def _rope(language: Fields) -> Fields:
    """The fields that contain rope_theta: transformers 5 writes them into a section of their own, rope_parameters.

    Raises AppError for rotary positions of other kinds than the plain ones and those of Llama 3.1.
    """
    for name in _ROPE_SECTIONS:
        if not language.values.get(name):
            continue
        rope = Fields(f"{language.section}.{name}", language.values[name])
        if rope.values.get("rope_type") == "llama3":
            continue
        known = {"rope_theta": None, "rope_type": ("default",), "type": ("default",)}
        neutral = {"factor": (1,), "partial_rotary_factor": (1,)}
        refuse_other_values(rope, {**dict.fromkeys(rope.values, ()), **known, **neutral})
    return Fields(language.section, {**language.values, **(language.values.get("rope_parameters") or {})})


def _rope_scaling(language: Fields) -> RopeScaling | None:
    """The scaling of Llama 3.1, where the config asks for it."""
    for name in _ROPE_SECTIONS:
        if isinstance(rope := language.values.get(name), Mapping) and rope.get("rope_type") == "llama3":
            fields = Fields(f"{language.section}.{name}", rope)
            return RopeScaling(
                factor=fields.number("factor", 8.0),
                low_freq=fields.number("low_freq_factor", 1.0),
                high_freq=fields.number("high_freq_factor", 4.0),
                original=fields.whole("original_max_position_embeddings", 8192),
            )
    return None


def refuse_other_values(fields: Fields, computed: Mapping[str, tuple[Any, ...] | None]) -> None:
    """Raises AppError for a field with a value that is not listed; None lists all values."""
    for name, allowed in computed.items():
        value = fields.values.get(name)
        if value is not None and allowed is not None and value not in allowed:
            raise AppError("config_value_not_computed", field=f"{fields.section}.{name}", value=repr(value)[:60])


def refuse_other_kinds(raw: Mapping[str, Any], section: str, kind: str, params: Mapping[str, Any]) -> None:
    """Raises AppError where a section asks for another class than `kind`, or for values that are not in `params`.

    A section that is missing asks for nothing.
    """
    fields = fields_at(raw, section)
    refuse_other_values(fields, {"cls": (kind,)})
    refuse_other_values(fields_at(raw, section, "params"), params)


def refuse_other_projectors(raw: Mapping[str, Any], *sections: str) -> None:
    """Raises AppError for a projector of another kind than two linears with a GELU between them."""
    for section in sections:
        refuse_other_kinds(raw, section, "MlpProjector", _PROJECTOR)


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
    refuse_other_kinds(raw, section, "CLIPVisionTower", _TOWER)
    layers = fields.whole("layers", layers)
    keep = fields.whole("select_layer", -1, low=-layers)
    return VisionConfig(
        image_size=fields.whole("image_size", 384),
        width=fields.whole("width", width),
        layers=min(layers, keep if keep > 0 else layers + keep + 1),
        heads=fields.whole("heads", heads),
        patch_size=fields.whole("patch_size", patch),
        mlp_ratio=fields.number("mlp_ratio", ratio),
    )


def parse_processor(raw: Mapping[str, Any]) -> ImageProcessor:
    """preprocessor_config.json; the padding colour follows the mean, as in the reference."""
    fields = Fields("preprocessor_config", raw)
    refuse_other_values(fields, _PICTURES)
    mean = tuple(raw.get("image_mean") or (0.5, 0.5, 0.5))
    std = tuple(raw.get("image_std") or (0.5, 0.5, 0.5))
    if not all(len(v) == 3 and all(isinstance(x, (int, float)) for x in v) for v in (mean, std)) or 0 in std:
        raise AppError("preprocessor_mean_unusable")
    grey = tuple(int(x * 255) for x in mean)
    size = fields_at(raw, "size").whole("height") if isinstance(raw.get("size"), Mapping) else None
    return ImageProcessor(
        size=fields.whole("image_size", size),
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
