"""Memory that UniPic2 needs beside its weights to draw and to answer, from the sizes in its configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from janus_app.models.common.memory import BytesPerElement, Job, Peak, cache_bytes, decoder_work
from janus_app.models.common.mllm import decoder_config
from janus_app.models.unipic2.config import PATCH, parse_conditioner

_PICTURE_TOKENS = 1500  # of a photograph of about 1.2 megapixels in a conversation
_REFERENCE = 2  # tokens of an edit for each of a drawing


def peak(raw: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement) -> Peak:
    """The higher of drawing and answering, from a config with its parts (config.read_config)."""
    config, language = parse_conditioner(raw), decoder_config(raw["language"])
    read = job.words + job.pictures * _PICTURE_TOKENS
    answering = Peak(
        cache_bytes(language, 1, read + job.answer, widths.decoder), decoder_work(language, 1, read, widths)
    )
    prompt = decoder_work(language, 1, job.words + (side // 32) ** 2 + config.queries, widths)
    transformer, vae = raw["transformer"], raw["vae"]
    width = transformer.get("num_attention_heads", 24) * transformer.get("attention_head_dim", 64)
    tokens = _REFERENCE * (side // PATCH) ** 2 + config.queries
    rows = (2 if job.guided else 1) * job.count
    step = rows * tokens * 12 * width * widths.decoder  # a block: the MLP's 4 widths twice, and four of the stream
    decode = int(vae.get("block_out_channels", [128])[0] * side**2 * widths.pictures * (4 + widths.conv_scratch))
    return max(answering, Peak(0, max(prompt, step, decode)), key=lambda peak: peak.total)
