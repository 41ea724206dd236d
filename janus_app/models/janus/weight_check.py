"""A look at weights that were never used on a machine: the first rows of a picture, and how sure the model was."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import closing
from statistics import mean

import torch

from janus_app.errors import Message
from janus_app.models.common.weight_check import PROMPT, tokens_problem
from janus_app.models.janus.draw import CELLS_PER_SYNC, SamplingRule, draw_tokens
from janus_app.models.janus.inspect import token_facts
from janus_app.models.janus.pipeline import JanusModel
from janus_app.nn import sampling
from janus_app.types import Event, GenerateRequest, Progress

CELLS = 2 * CELLS_PER_SYNC  # two rows of the published models' pictures, and two looks at whether numbers are finite


def check_drawing(model: JanusModel) -> Generator[Event, None, Message | None]:
    """Draw the first rows of a picture. Raises AppError where a logit is not finite."""
    network, request = model.network, GenerateRequest(PROMPT)
    count, codes = min(CELLS, model.grid**2), network.config.vq.codebook_size
    streams = sampling.generators(request.seed, 1)
    rule = SamplingRule(
        request.guidance, request.temperature, lambda cells: sampling.exponential_noise(streams, codes, cells)
    )
    prompts, known = model.prompt_rows(request), torch.full((model.grid**2,), -1)
    with closing(draw_tokens(network, prompts, 1, rule, known)) as drawing:  # type: ignore[type-var]
        for cell in range(count):
            tokens = next(drawing)
            yield Progress("draw", cell + 1, count, "tokens")
    drawn = tokens[0, :count].cpu()
    (facts,) = token_facts(network, prompts, drawn, request.guidance, request.temperature, 1)
    entropy = mean(fact.entropy for fact in facts)
    return tokens_problem(drawn.tolist(), entropy, math.log2(codes))
