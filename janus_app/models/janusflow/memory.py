"""What JanusFlow needs beside its weights while it draws and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from janus_app.models.common.memory import BytesPerElement, Job, Peak, cache_bytes, decoder_work, vision_work
from janus_app.models.janusflow.config import JanusFlowConfig


def peak(config: JanusFlowConfig, autoencoder: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement) -> Peak:
    """The higher of drawing and answering, for pictures of `side` pixels; `autoencoder` is vae/config.json or empty."""
    return max(
        _drawing(config, autoencoder, side, job, widths), _answering(config, job, widths), key=lambda peak: peak.total
    )


def _drawing(
    config: JanusFlowConfig, autoencoder: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement
) -> Peak:
    """The prompt's keys and values are held once for all pictures; a step runs every row of every latent at once."""
    prompts = 2 if job.guided else 1
    channels = autoencoder.get("block_out_channels") or [128, 256, 512, 512]  # of SDXL's
    cells = (side // (2 ** (len(channels) - 1) * config.encoder.stride)) ** 2
    rows = prompts * job.count
    cache = cache_bytes(config.language, prompts, job.prompt, widths.cache)
    seen = 2 * rows * (job.prompt + cells) * config.language.hidden_size * widths.cache  # one layer's keys and values
    step = decoder_work(config.language, rows, cells + 1, widths) + seen
    both = config.decoder.in_channels + config.decoder.skip
    out = rows * cells * both * (3 * 4 + 3) * widths.decoder  # three hidden layers, and the stream
    return Peak(cache, max(step, out, autoencoder_work(channels, side, widths)))


def autoencoder_work(channels: list[int], side: int, widths: BytesPerElement) -> int:
    """The decode at its highest: the last enlargement's convolution and the block behind it, at full resolution."""
    feature_map = channels[min(1, len(channels) - 1)] * side * side * widths.pictures
    return int(feature_map * (3 + widths.conv_scratch))


def _answering(config: JanusFlowConfig, job: Job, widths: BytesPerElement) -> Peak:
    read = job.words + job.pictures * (config.vision.patches + 1)
    cache = cache_bytes(config.language, 1, read + job.answer, widths.cache)
    see = vision_work(config.vision, job.pictures, widths.decoder)
    return Peak(cache, max(decoder_work(config.language, 1, read, widths), see))
