"""Memory that MetaQuery needs beside its weights to draw and to answer, from the sizes in its configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from janus_app.models.common.memory import BytesPerElement, Job, Peak, cache_bytes, decoder_work
from janus_app.models.common.mllm import decoder_config
from janus_app.models.metaquery.config import parse_config
from janus_app.models.metaquery.modeling import MARKERS, PARTS

_PICTURE_TOKENS = 1500  # LLaVA-OneVision's two views of a 384 pixel picture; Qwen2.5-VL's largest picture has 1,280


def peak(raw: Mapping[str, Any], job: Job, widths: BytesPerElement) -> Peak:
    """The higher of drawing and answering, from a config with its parts (modeling.read_parts)."""
    config, language = parse_config(raw), decoder_config(raw[PARTS]["language"])
    read = job.words + job.pictures * _PICTURE_TOKENS
    answering = Peak(
        cache_bytes(language, 1, read + job.answer, widths.decoder), decoder_work(language, 1, read, widths)
    )
    prompt = decoder_work(language, 1, read + config.queries + MARKERS, widths)
    rows = (3 if job.guided else 1) * job.count
    denoiser, vae = raw[PARTS]["denoiser"], raw[PARTS]["vae"]
    step = int(rows * config.latent_side**2 * _cell(denoiser) * widths.decoder)
    channels = vae.get("decoder_block_out_channels") or vae.get("block_out_channels") or [128]
    decode = int(channels[0] * config.side**2 * widths.pictures * (4 + widths.conv_scratch))
    return max(answering, Peak(0, max(prompt, step, decode)), key=lambda peak: peak.total)


def _cell(denoiser: Mapping[str, Any]) -> float:
    """Values in memory for one latent cell at the widest layer of the denoiser."""
    if "block_out_channels" in denoiser:  # a U-Net: the hidden layer of a block at full resolution, and the skips
        return 16 * denoiser["block_out_channels"][0]
    width = denoiser.get("num_attention_heads", 70) * denoiser.get("attention_head_dim", 32)
    return width * (4 * denoiser.get("mlp_ratio", 2.5) + 4)  # SANA: the convolved MLP's two halves, in and out
