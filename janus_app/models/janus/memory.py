"""Memory that Janus and Janus-Pro need beside their weights to draw and to answer."""

from __future__ import annotations

from janus_app.models.common.memory import (
    BytesPerElement,
    Job,
    Peak,
    answering_peak,
    cache_bytes,
    decoder_work,
    vq_work,
)
from janus_app.models.janus.config import JanusConfig


def peak(config: JanusConfig, side: int, job: Job, widths: BytesPerElement) -> Peak:
    """The higher peak of drawing and answering, for pictures of `side` pixels."""
    answering = answering_peak(config.language, config.vision, config.vision.patches, job, widths)
    return max(_drawing(config, side, job, widths), answering, key=lambda peak: peak.total)


def _drawing(config: JanusConfig, side: int, job: Job, widths: BytesPerElement) -> Peak:
    """Every picture keeps its rows in the cache to the last token; previews decode one picture meanwhile."""
    prompts = (2 if job.guided else 1) + job.instructed
    rows = prompts * job.count
    cells = (side // config.vq.cell) ** 2
    read = job.prompt + job.thought + (config.vision.patches + cells if job.instructed or job.judged else 0)
    cache = cache_bytes(config.language, rows, read + cells, widths.cache)
    prefill = decoder_work(config.language, prompts, read, widths)
    step = decoder_work(config.language, rows, 1, widths) + 6 * 4 * rows * config.vq.codebook_size  # logits and noise
    return Peak(cache, max(prefill, step, vq_work(config.vq, side, widths)))
