"""What drawing with JanusFlow costs: a pass of the decoder for every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from janus_app.models.common.cost import DrawingCost
from janus_app.models.common.memory import BytesPerElement, Job, cache_bytes
from janus_app.models.janusflow.config import JanusFlowConfig
from janus_app.models.janusflow.memory import picture_cells


def drawing_cost(
    config: JanusFlowConfig, autoencoder: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement
) -> DrawingCost:
    """The cost for pictures of `side` pixels. The convolutions around the decoder, 4 % more, are left out."""
    prompts = 2 if job.guided else 1
    vectors = prompts * job.count * (picture_cells(config, autoencoder, side) + 1)  # one vector is the time
    cache = cache_bytes(config.language, prompts, job.prompt, widths.cache)
    return DrawingCost(job.steps, ("language_model.model.layers.",), vectors, cache)
