"""What Janus and Janus-Pro need beside their weights while they draw and answer."""

from __future__ import annotations

from janus_app.models.common.memory import BytesPerElement, Job, Peak, cache_bytes, decoder_work, vision_work, vq_work
from janus_app.models.janus.config import JanusConfig


def peak(config: JanusConfig, side: int, job: Job, widths: BytesPerElement) -> Peak:
    """The higher of drawing and answering, for pictures of `side` pixels."""
    return max(_drawing(config, side, job, widths), _answering(config, job, widths), key=lambda peak: peak.total)


def _drawing(config: JanusConfig, side: int, job: Job, widths: BytesPerElement) -> Peak:
    """Every picture has its rows in the cache to the last token; previews decode one picture beside it."""
    prompts = (2 if job.guided else 1) + job.instructed
    rows = prompts * job.count
    cells = (side // config.vq.cell) ** 2
    read = job.prompt + (config.vision.patches + cells if job.instructed else 0)
    cache = cache_bytes(config.language, rows, read + cells, widths.cache)
    prefill = decoder_work(config.language, prompts, read, widths)
    step = decoder_work(config.language, rows, 1, widths) + 6 * 4 * rows * config.vq.codebook_size  # logits and noise
    return Peak(cache, max(prefill, step, vq_work(config.vq, side, widths)))


def _answering(config: JanusConfig, job: Job, widths: BytesPerElement) -> Peak:
    read = job.words + job.pictures * config.vision.patches
    cache = cache_bytes(config.language, 1, read + job.answer, widths.cache)
    see = vision_work(config.vision, job.pictures, widths.decoder)
    return Peak(cache, max(decoder_work(config.language, 1, read, widths), see))
