"""Memory that a model needs beside its weights to draw and to answer, from the sizes in its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from janus_app.models.common.components import AUTOENCODER
from janus_app.models.common.memory import (
    BytesPerElement,
    Job,
    Peak,
    autoencoder_work,
    cache_bytes,
    decoder_work,
)
from janus_app.models.mixed_diffusion.config import READER, parse_config

_TILES = 5  # the whole picture, and at most four tiles of it


def peak(raw: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement) -> Peak:
    """The higher of drawing and answering, from a config with its parts (layouts.read_config)."""
    config = parse_config(raw)
    image, language, cells, channels = config.image, config.language, 0, list[int]()
    if image is not None:
        channels = raw[AUTOENCODER].get("block_out_channels") or [128]
        cells = image.grid(2 ** (len(channels) - 1)) ** 2
    seen = cells + 2
    if READER in raw:
        tower = raw[READER].get("vision_config", {})
        seen = _TILES * (tower.get("image_size", 336) // tower.get("patch_size", 14)) ** 2
    read = job.words + job.pictures * seen
    answering = Peak(cache_bytes(language, 1, read + job.answer, widths.cache), decoder_work(language, 1, read, widths))
    if image is None:
        return answering
    prompts = 3 if job.instructed and image.edits else 2 if job.guided else 1
    prompt = job.prompt + (cells + 2 if image.edits else 0)
    rows = prompts * job.count
    cache = cache_bytes(language, prompts, prompt, widths.cache)
    layer = 2 * language.num_key_value_heads * language.head_dim * widths.cache  # keys and values of a position
    joined = rows * (prompt + cells) * layer
    step = decoder_work(language, rows, cells, widths) + joined
    latent = (side // 2 ** (len(channels) - 1)) ** 2
    # Of a U-Net: what the way down keeps, and the hidden layers of a block.
    codec = rows * latent * sum(image.widths) * (image.blocks + 4) * widths.decoder
    decode = autoencoder_work(channels, side, widths)
    return max(answering, Peak(cache, max(step + codec, decode)), key=lambda one: one.total)
