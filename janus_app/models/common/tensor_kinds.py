"""What the names and types of tensors say about them: adapters, quantised layers, other architectures. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from janus_app.errors import AppError, Message

# Parts of names that only adapters have, as PEFT, diffusers, kohya and LyCORIS write them.
_ADAPTER = re.compile(
    r"(^|[._])(lora_(A|B|down|up|embedding_A|embedding_B|magnitude_vector|mid)|lora_(unet|te\d?)_.*|dora_scale"
    r"|hada_w\d_[ab]|lokr_w\d(_[ab])?|vera_lambda_[bd]|ia3_l|oft_[rs]|boft_[rs]|prompt_embeddings)([._]|$)"
)
_BESIDE_ADAPTER = re.compile(r"\.(base_layer|original_module|modules_to_save)\.")
_QUANTISED = (
    (re.compile(r"\.g_idx$"), "GPTQ"),
    (re.compile(r"\.(qweight|qzeros)$"), "GPTQ/AWQ"),
    (
        re.compile(r"\.(absmax|quant_map|quant_state\.bitsandbytes__\w+|SCB|weight_format)$"),
        "bitsandbytes",
    ),
    (re.compile(r"\.(weight_packed|weight_global_scale|weight_zero_point)$"), "compressed-tensors"),
    (
        re.compile(r"(^|\.)(weight_scale(_inv)?|scale_weight|input_scale|scale_input|scaled_fp8)$"),
        "FP8",
    ),
    (re.compile(r"\.(W_q|nbits|weight_scales)$"), "HQQ/EETQ"),
    (re.compile(r"\.weight\._(data|scale)$"), "Quanto"),
    (re.compile(r"\.(codebooks|codes|Qidxs|SU|SV)$"), "AQLM/QuIP"),
    (re.compile(r"\.(trellis|svh|suh)$"), "EXL3"),
)
_WHOLE_DTYPES = ("U8", "I8", "I16", "U16", "I32", "U32", "F4", "uint8", "int8", "int16", "int32", "uint16", "uint32")

# Architectures that are not run here, by parts of names, the more particular first; all parts of a row must occur.
_ARCHITECTURES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("the transformers library's layout", ("vqmodel.", "generation_head.")),
    ("Stable Diffusion XL", ("conditioner.embedders.",)),
    ("Stable Diffusion 3", ("joint_blocks.",)),
    ("ControlNet", ("zero_convs.",)),
    ("ControlNet", ("controlnet_down_blocks.",)),
    ("Stable Diffusion", ("model.diffusion_model.",)),
    ("FLUX", ("double_blocks.", "single_blocks.")),
    ("FLUX (diffusers)", ("single_transformer_blocks.",)),
    ("SANA", ("transformer_blocks.", "caption_projection.")),
    ("U-Net (diffusers)", ("down_blocks.", "time_embedding.")),
    ("VAE (diffusers)", ("decoder.up_blocks.",)),
    ("VAE (Stable Diffusion)", ("decoder.up.0.block.",)),
    ("BAGEL", ("moe_gen.",)),
    ("Qwen-VL", ("visual.blocks.", "model.")),
    ("LLaVA", ("multi_modal_projector.",)),
    ("LLaVA", ("mm_projector.",)),
    ("Whisper", ("encoder_attn.", "embed_positions.")),
    ("T5", ("SelfAttention.q.",)),
    ("CLIP", ("text_model.encoder.layers.", "vision_model.encoder.layers.")),
    ("CLIP", ("text_model.encoder.layers.",)),
    ("SigLIP/CLIP", ("vision_model.encoder.layers.",)),
    ("CLIP (OpenAI)", ("transformer.resblocks.",)),
    ("BERT", ("attention.self.query.",)),
    ("GPT-2", ("wte.weight", "attn.c_attn.")),
    ("GPT-NeoX", ("gpt_neox.",)),
    ("Mamba", ("mixer.in_proj.",)),
    ("Mixture of experts", ("mlp.experts.",)),
    ("Llama", ("layers.0.self_attn.q_proj.", "embed_tokens.")),
    ("Phi", ("self_attn.qkv_proj.",)),
    ("ESRGAN", ("RRDB",)),
    ("ESRGAN", (".rdb1.conv1.",)),
    ("ViT", ("blocks.0.attn.qkv.", "patch_embed.")),
)


def other_architecture_of(names: Iterable[str]) -> str | None:
    """The architecture that has tensors of these names and is not run here, None where it is not known."""
    return next((title for title, parts in _ARCHITECTURES if contain_all(names, parts)), None)


def contain_all(names: Iterable[str], parts: Iterable[str]) -> bool:
    """Whether each part occurs in one of the names."""
    return all(any(part in f".{name}" for name in names) for part in parts)


def is_adapter(names: Iterable[str]) -> bool:
    """Whether all tensors are those of an adapter; no names are none."""
    names = list(names)
    return bool(names) and all(_ADAPTER.search(name) or name.endswith(".alpha") for name in names)


def refuse_changed_layers(where: Path, dtypes: Mapping[str, str], metadata: Mapping[str, Any]) -> None:
    """Raises AppError for an adapter, layers with an adapter beside them, and quantised layers.

    `dtypes` has a tensor's type by its name, `metadata` what a safetensors header says of the file.
    """
    if is_adapter(dtypes):
        raise AppError("checkpoint_is_adapter", folder=where, base=Message("its_base_model"))
    for name in dtypes:
        if _ADAPTER.search(name) or _BESIDE_ADAPTER.search(name):
            raise AppError("checkpoint_lora_unmerged", folder=where, name=name)
    biased = {name.removesuffix(".biases") for name in dtypes if name.endswith(".biases")}
    if metadata.get("format") == "mlx" or any(f"{name}.scales" in dtypes for name in biased):
        raise AppError("weights_other_format", file=where.name, format="MLX")
    for pattern, method in _QUANTISED:
        if any(pattern.search(name) for name in dtypes):
            raise AppError("checkpoint_quantized", folder=where, method=method)
    whole = next((n for n, dtype in dtypes.items() if dtype in _WHOLE_DTYPES and n.endswith(".weight")), None)
    if whole is not None:
        raise AppError("checkpoint_quantized", folder=where, method=f"{dtypes[whole]} ({whole})")
