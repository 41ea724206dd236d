"""The odds behind a finished picture: one forward over its tokens says what every place could have become.

Nothing has to be kept while drawing, so it works for any picture whose tokens and words are known.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from janus_app.models.common.image_processor import to_picture
from janus_app.models.janus.draw import decode_tokens
from janus_app.models.janus.modeling import JanusNetwork
from janus_app.nn import sampling
from janus_app.nn.prefill import next_positions, prefill
from janus_app.types import (
    Event,
    Finished,
    Inspection,
    InspectRequest,
    Picture,
    Progress,
    SwapRequest,
    TokenFacts,
)

_AT_ONCE = 96  # cells between two steps: a step can be stopped, and float32 logits of all cells would be large


def look_inside(
    network: JanusNetwork, prompts: Sequence[Tensor], tokens: Tensor, columns: int, request: InspectRequest
) -> Iterator[Event]:
    """Progress, then Finished with the picture and the facts of its `tokens` [cells]."""
    started, facts = time.perf_counter(), list[TokenFacts]()
    yield Progress("inspect", 0, len(tokens), "tokens")
    for part in token_facts(network, prompts, tokens, request.guidance, request.temperature, request.alternatives):
        facts += part
        yield Progress("inspect", len(facts), len(tokens), "tokens")
    picture = to_picture(decode_tokens(network, tokens[None].to(network.device))[0])
    found = Inspection(picture, columns, tuple(facts))
    yield Finished(inspection=found, compute_seconds=time.perf_counter() - started)


def swapped(network: JanusNetwork, tokens: Tensor, request: SwapRequest) -> Iterator[Event]:
    """Progress, then Finished with one picture for each token of the request, in their order."""
    started, pictures = time.perf_counter(), list[Picture]()
    for token in request.tokens:
        yield Progress("decode", len(pictures), len(request.tokens))
        row = tokens.clone()
        row[request.cell] = token
        pixels = decode_tokens(network, row[None].to(network.device))
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
    """Facts of the picture `tokens` [cells], some cells at a time, in order.

    prompts are the embedded conditional and unconditional rows; both read the same tokens, as in drawing. Sums run in
    float64 over float32 logits: an entropy near 0 is a difference of small numbers.
    """
    cells = len(tokens)
    tokens = tokens.to(network.device)
    hidden, cache = prefill(network, prompts, cells)
    hidden, finite = hidden[:, -1:], sampling.NonFiniteGuard()
    for start in range(0, cells, _AT_ONCE):
        part = tokens[start : start + _AT_ONCE]
        # The last hidden state there is tells of this part's first cell; its own tokens tell of the others.
        read = network.token_embeds(part[None]).expand(len(prompts), -1, -1)
        behind = network(read, next_positions(cache, len(part)), cache)
        logits = network.gen_head(torch.cat([hidden, behind[:, :-1]], dim=1)).float()
        hidden = behind[:, -1:]
        finite.watch(logits)
        yield _facts(logits[0], logits[1], part, guidance, temperature, alternatives)


def _facts(
    conditional: Tensor, unconditional: Tensor, tokens: Tensor, guidance: float, temperature: float, most: int
) -> list[TokenFacts]:
    """Facts of `tokens` [n] from two rows of logits [n, codes]; see TokenFacts for what the numbers are."""
    mixed = conditional if guidance == 1 else sampling.mix_guidance(conditional, unconditional, guidance)
    log = torch.log_softmax(mixed / (temperature or 1.0), dim=-1).double()
    odds = log.exp()
    chosen = odds.gather(-1, tokens[:, None])[:, 0]
    entropy = -torch.special.xlogy(odds, odds).sum(-1) / math.log(2)
    with_words, without = (torch.log_softmax(row, dim=-1).double() for row in (conditional, unconditional))
    gap = (with_words.exp() * (with_words - without)).sum(-1) / math.log(2)
    likely, ids = odds.topk(min(most, odds.shape[-1]), dim=-1)
    columns = (tokens, chosen, entropy.clamp(min=0), gap.clamp(min=0), ids, likely)
    return [
        TokenFacts(token, probability, bits, apart, tuple(zip(others, theirs, strict=True)))
        for token, probability, bits, apart, others, theirs in zip(*(c.tolist() for c in columns), strict=True)
    ]
