"""Memory that JanusFlow needs beside its weights to draw and to answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from janus_app.models.common.memory import (
    BytesPerElement,
    Job,
    Peak,
    answering_peak,
    autoencoder_work,
    cache_bytes,
    decoder_work,
)
from janus_app.models.janusflow.config import JanusFlowConfig


def peak(config: JanusFlowConfig, autoencoder: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement) -> Peak:
    """The higher peak of drawing and answering; `side`: pixels, `autoencoder`: vae/config.json or empty."""
    answering = answering_peak(config.language, config.vision, config.vision.patches + 1, job, widths)
    return max(_drawing(config, autoencoder, side, job, widths), answering, key=lambda peak: peak.total)


def _drawing(
    config: JanusFlowConfig, autoencoder: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement
) -> Peak:
    """Keys and values of the prompt are stored once for all pictures; a step runs all rows of all latents."""
    prompts = 2 if job.guided else 1
    channels = _channels(autoencoder)
    cells = picture_cells(config, autoencoder, side)
    rows = prompts * job.count
    cache = cache_bytes(config.language, prompts, job.prompt, widths.cache)
    cached = 2 * rows * (job.prompt + cells) * config.language.hidden_size * widths.cache  # one layer's keys and values
    step = decoder_work(config.language, rows, cells + 1, widths) + cached
    both = config.decoder.in_channels + config.decoder.skip
    out = rows * cells * both * (3 * 4 + 3) * widths.decoder  # three hidden layers, and the stream
    return Peak(cache, max(step, out, autoencoder_work(channels, side, widths)))


def picture_cells(config: JanusFlowConfig, autoencoder: Mapping[str, Any], side: int) -> int:
    """The vectors that a picture takes in the language model."""
    return (side // (2 ** (len(_channels(autoencoder)) - 1) * config.encoder.stride)) ** 2


def _channels(autoencoder: Mapping[str, Any]) -> list[int]:
    return autoencoder.get("block_out_channels") or [128, 256, 512, 512]  # of SDXL's
