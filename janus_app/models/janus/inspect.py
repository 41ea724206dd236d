"""The probabilities behind a finished picture: one forward pass over its tokens gives those of every cell.

Nothing is stored while drawing, so this works for any picture whose tokens and prompt are known.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from janus_app.models.common.image_processor import to_picture
from janus_app.models.janus.draw import decode_tokens
from janus_app.models.janus.modeling import JanusNetwork
from janus_app.nn import sampling
from janus_app.nn.prefill import next_positions, prefill
from janus_app.types import (
    Events,
    Finished,
    Inspection,
    InspectRequest,
    Picture,
    Progress,
    SwapRequest,
    TokenFacts,
    saying,
)

CELLS_PER_STEP = 96  # work can be cancelled between two steps, and float32 logits of all cells would be large


def inspect_tokens(
    network: JanusNetwork, prompts: Sequence[Tensor], tokens: Tensor, columns: int, request: InspectRequest
) -> Events:
    """Progress, then Finished with the picture of `tokens` [cells], `columns` in a row, and a TokenFacts for each."""
    started, facts = time.perf_counter(), list[TokenFacts]()
    yield Progress("inspect", 0, len(tokens), "tokens")
    for part in token_facts(network, prompts, tokens, request.guidance, request.temperature, request.alternatives):
        facts += part
        yield Progress("inspect", len(facts), len(tokens), "tokens")
    read = partial(Progress, "inspect", len(facts), len(tokens), "tokens")
    picture = to_picture((yield from saying(read, decode_tokens(network, tokens[None].to(network.device))))[0])
    yield Finished(inspection=Inspection(picture, columns, tuple(facts)), compute_seconds=time.perf_counter() - started)


def swap_token(network: JanusNetwork, tokens: Tensor, request: SwapRequest) -> Events:
    """Progress, then Finished with a picture for each token of the request, put into its cell of `tokens` [cells]."""
    started, pictures = time.perf_counter(), list[Picture]()
    for token in request.tokens:
        done = partial(Progress, "decode", len(pictures), len(request.tokens))
        row = tokens.clone()
        row[request.cell] = token
        pixels = yield from saying(done, decode_tokens(network, row[None].to(network.device)))
        pictures.append(Picture(to_picture(pixels[0]), 0, tuple(row.tolist())))
    yield Finished(pictures=tuple(pictures), compute_seconds=time.perf_counter() - started)


@torch.inference_mode()
def token_facts(
    network: JanusNetwork,
    prompts: Sequence[Tensor],
    tokens: Tensor,
    guidance: float,
    temperature: float,
    alternatives: int,
) -> Iterator[list[TokenFacts]]:
    """Facts of the picture `tokens` [cells], CELLS_PER_STEP at a time, in order.

    prompts are the embedded conditional and unconditional rows [T, hidden]; the same tokens follow both, as in drawing.
    Sums are in float64 over float32 logits, because an entropy near 0 is a difference of small numbers. Raises AppError
    where a logit is not finite.
    """
    cells = len(tokens)
    tokens = tokens.to(network.device)
    hidden, cache = prefill(network, prompts, cells)
    hidden = hidden[:, -1:]
    for start in range(0, cells, CELLS_PER_STEP):
        part = tokens[start : start + CELLS_PER_STEP]
        # The last hidden state of before predicts the first cell of this part; its own tokens predict the others.
        embeds = network.token_embeds(part[None]).expand(len(prompts), -1, -1)
        new_hidden = network(embeds, next_positions(cache, len(part)), cache)
        # On the CPU from here, because not every device has float64.
        logits = network.gen_head(torch.cat([hidden, new_hidden[:, :-1]], dim=1)).float().cpu()
        hidden = new_hidden[:, -1:]
        sampling.require_finite(logits, network.dtype)
        yield _facts(logits[0], logits[1], part.cpu(), guidance, temperature, alternatives)


def _facts(
    conditional: Tensor, unconditional: Tensor, tokens: Tensor, guidance: float, temperature: float, alternatives: int
) -> list[TokenFacts]:
    """Facts of `tokens` [n] from two rows of logits [n, codes]; TokenFacts defines the numbers."""
    mixed = conditional if guidance == 1 else sampling.mix_guidance(conditional, unconditional, guidance)
    log = torch.log_softmax(mixed / (temperature or 1.0), dim=-1).double()
    probabilities = log.exp()
    chosen = probabilities.gather(-1, tokens[:, None])[:, 0]
    entropy = -torch.special.xlogy(probabilities, probabilities).sum(-1) / math.log(2)
    log_with, log_without = (torch.log_softmax(row, dim=-1).double() for row in (conditional, unconditional))
    gap = (log_with.exp() * (log_with - log_without)).sum(-1) / math.log(2)
    top, top_ids = probabilities.topk(min(alternatives, probabilities.shape[-1]), dim=-1)
    columns = (tokens, chosen, entropy.clamp(min=0), gap.clamp(min=0), top_ids, top)
    return [
        TokenFacts(token, probability, bits, divergence, tuple(zip(others, others_p, strict=True)))
        for token, probability, bits, divergence, others, others_p in zip(*(c.tolist() for c in columns), strict=True)
    ]
