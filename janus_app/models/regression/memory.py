"""Memory that a model needs beside its weights to draw and to answer, from the sizes in its configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from janus_app.models.common.memory import BytesPerElement, Job, Peak, answering_peak, cache_bytes, decoder_work
from janus_app.models.regression.config import PAINTER, TOWER_CONFIG, parse_config


def peak(raw: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement) -> Peak:
    """The higher of drawing and answering, from a config with its parts (layouts.read_config)."""
    config = parse_config(raw, raw.get(TOWER_CONFIG))
    answering = answering_peak(config.language, config.vision, config.read.count, job, widths)
    if (painter := raw.get(PAINTER)) is None:
        return answering
    read = job.words + job.pictures * config.read.count
    writing = Peak(
        cache_bytes(config.language, 1, read + config.written.count, widths.cache),
        decoder_work(config.language, 1, read, widths),
    )
    unet, vae = painter["unet"], painter["vae"]
    rows, latent = (2 if job.guided else 1) * job.count, unet.get("sample_size", 64)
    # Of a U-Net: the hidden layer of a block at full resolution, and the skips.
    step = rows * latent**2 * 16 * unet.get("block_out_channels", [320])[0] * widths.decoder
    decode = int(vae.get("block_out_channels", [128])[0] * side**2 * widths.pictures * (4 + widths.conv_scratch))
    painting = Peak(0, max(step, decode))
    return max(answering, writing, painting, key=lambda one: one.total)
