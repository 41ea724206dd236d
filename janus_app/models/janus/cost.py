"""What drawing with Janus and Janus-Pro costs: a pass of the decoder and of the image head for every token."""

from __future__ import annotations

from janus_app.models.common.cost import DrawingCost
from janus_app.models.common.memory import BytesPerElement, Job, cache_bytes
from janus_app.models.janus.config import JanusConfig


def drawing_cost(config: JanusConfig, side: int, job: Job, widths: BytesPerElement) -> DrawingCost:
    """The cost for pictures of `side` pixels. On average half of a picture's tokens are in the cache."""
    tokens = (side // config.vq.cell) ** 2
    rows = (2 if job.guided else 1) * job.count
    cache = cache_bytes(config.language, rows, job.prompt + tokens // 2, widths.cache)
    return DrawingCost(tokens, ("language_model.model.layers.", "gen_head."), rows, cache)
