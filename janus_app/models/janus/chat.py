"""Answering token by token."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from janus_app.models import sampling
from janus_app.models.janus.network import JanusNetwork
from janus_app.models.janus.prefill import next_positions, prefill


@torch.inference_mode()
def answer_tokens(
    network: JanusNetwork, prompt: Tensor, *, end: int, limit: int, temperature: float, top_p: float, seed: int
) -> Iterator[int]:
    """Ids of the answer to an embedded prompt [T, hidden], without the end-of-sentence id, at most `limit`."""
    stream = torch.Generator("cpu").manual_seed(seed)
    hidden, cache = prefill(network, [prompt], limit)
    for _ in range(limit):
        logits = network.language_model.lm_head(hidden[:, -1])
        noise = sampling.exponential_noise([stream], logits.shape[-1]) if temperature else None
        token = sampling.pick(sampling.keep_top_p(logits, temperature, top_p), temperature, noise)
        chosen = int(token)
        if chosen == end:
            return
        yield chosen
        hidden = network(network.text_embeds(token[:, None]), next_positions(cache, 1), cache)
