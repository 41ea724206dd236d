"""Drawing token by token: guidance, sampling, and cells that are known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from janus_app.models import sampling
from janus_app.models.janus.network import JanusNetwork
from janus_app.models.prefill import next_positions, prefill

Noise = Callable[[], Tensor]
_LOOK = 24  # cells between two looks at whether the numbers are still finite


@dataclass(frozen=True)
class Sampling:
    """guidance 1 needs no unconditional row; temperature 0 needs no noise.

    `pictures` is set where a prompt comes in two readings of its picture: the weight of the plainer one.
    """

    guidance: float
    temperature: float
    noise: Noise
    pictures: float | None = None

    def mix(self, rows: Sequence[Tensor]) -> Tensor:
        """Logits of the rows, each [count, codes], to [count, codes]. The unconditional row, if any, is the last."""
        if self.pictures is not None:  # Janus-4o's published code: the two readings are averaged before guidance
            whole, plain, *less = rows
            conditional = (whole + self.pictures * plain) / (1 + self.pictures)
        else:
            conditional, *less = rows
        return sampling.mix_guidance(conditional, less[0], self.guidance) if less else conditional


@torch.inference_mode()
def draw_tokens(
    network: JanusNetwork, prompts: Sequence[Tensor], count: int, rule: Sampling, known: Tensor
) -> Iterator[Tensor]:
    """Draw `count` pictures of one prompt; yield the same tensor [count, cells] after every new cell.

    prompts are the embedded rows whose logits `Sampling.mix` takes. known [cells] holds -1 where a cell is to be drawn
    and its token where it is kept. Noise is drawn for kept cells too, so that cell k sees the same noise whatever is
    kept before it. Janus, section 3.3: each token goes to all rows.
    """
    cells = len(known)
    tokens = known.to(network.device).repeat(count, 1)
    wanted = (known < 0).nonzero().flatten()
    if not len(wanted):
        yield tokens
        return
    first, last = int(wanted[0]), int(wanted[-1])
    hidden, cache = prefill(network, prompts, cells)
    cache.repeat_rows(count)
    hidden = hidden[:, -1:].repeat_interleave(count, dim=0)
    if first:  # the kept beginning is read in one go
        embeds = network.token_embeds(tokens[:, :first]).repeat(len(prompts), 1, 1)
        hidden = network(embeds, next_positions(cache, first), cache)
        for _ in range(first):
            rule.noise()
    finite = sampling.Finite(_LOOK)
    for cell in range(first, last + 1):
        logits = network.gen_head(hidden[:, -1])
        finite.watch(logits)
        logits = rule.mix(logits.split(count))
        noise = rule.noise()
        if int(known[cell]) < 0:
            tokens[:, cell] = sampling.pick(logits, rule.temperature, noise)
        if cell == last:
            finite.check(logits.dtype)
        yield tokens
        if cell < last:
            embeds = network.token_embeds(tokens[:, cell : cell + 1]).repeat(len(prompts), 1, 1)
            hidden = network(embeds, next_positions(cache, 1), cache)


@torch.inference_mode()
def decode_tokens(network: JanusNetwork, tokens: Tensor) -> Tensor:
    """Token ids [n, cells] to pictures [n, 3, S, S], one at a time.

    A batch would round differently, and the same tokens must give the same picture bit for bit whatever they were
    drawn beside; one picture is also the smallest peak (144 MiB in bf16 at 384 pixels).
    """
    return torch.cat([network.gen_vision_model.decode(row[None]) for row in tokens])
