"""Drawing token by token: guidance, sampling, and cells that are known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_app.models.janus.modeling import JanusNetwork
from janus_app.nn import sampling
from janus_app.nn.fast.cuda_graphs import recorded
from janus_app.nn.fast.decode_step import bucket, recordable, trunk_step
from janus_app.nn.llama import KVCache
from janus_app.nn.prefill import next_positions, prefill

Noise = Callable[[int], Tensor]  # that of the next cells, [cells, count, codes]
ROW = 24  # cells that follow one another without waiting for the device: a row of the published models' pictures


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
    tokens = known.to(network.device).repeat(count, 1)
    if bool((known >= 0).all()):
        yield tokens
        return
    first, last = drawn_cells(known)
    hidden, cache = read_prompts(network, prompts, tokens[:, :first], rule, len(known))
    step = PictureStep(network, cache, hidden, tokens, known, rule)
    step.draw_noise(min(ROW, last + 1 - first))
    advance: Callable[[int], None] = step.advance
    if recordable(network.language_model.model, network.device, hidden):
        advance = recorded(step.advance, step.state, cache.capacity, bucket(step.read))
    for cell in range(first, last + 1):
        if (cell - first) % ROW == 0:
            step.begin_row(cell)
        if cell < last:
            advance(cache.length + 1)
            cache.length += 1
        else:
            step.choose()
        if cell == last or (cell - first) % ROW == ROW - 1:
            if cell < last:
                step.draw_noise(min(ROW, last - cell))
            step.check()
        yield tokens


def drawn_cells(known: Tensor) -> tuple[int, int]:
    """The first and the last cell that is to be drawn; there must be one."""
    wanted = (known < 0).nonzero().flatten()
    return int(wanted[0]), int(wanted[-1])


def read_prompts(
    network: JanusNetwork, prompts: Sequence[Tensor], kept: Tensor, rule: Sampling, room: int
) -> tuple[Tensor, KVCache]:
    """The embedded prompts once for all pictures, then each picture's beginning `kept` [count, n] in one go.

    Returns the hidden states [rows, H] that tell of cell n, and the cache with `room` positions behind the prompts. The
    noise of the kept cells is drawn and left.
    """
    count, length = kept.shape
    hidden, cache = prefill(network, prompts, room)
    cache.repeat_rows(count)
    if not length:
        return hidden[:, -1].repeat_interleave(count, dim=0), cache
    embeds = network.token_embeds(kept).repeat(len(prompts), 1, 1)
    hidden = network(embeds, next_positions(cache, length), cache)
    for _ in range(length):
        rule.noise(1)
    return hidden[:, -1], cache


class PictureStep:
    """The buffers of one drawing and what is done with them for every cell: choose its token, then read it.

    Between two calls nothing waits for the device; `begin_row` and `check` do, once in ROW cells.
    """

    def __init__(
        self, network: JanusNetwork, cache: KVCache, hidden: Tensor, tokens: Tensor, known: Tensor, rule: Sampling
    ) -> None:
        count, device = len(tokens), network.device
        self._network, self._rule, self.tokens = network, rule, tokens
        self.read = trunk_step(network.language_model.model, cache)
        self._count, self._rows = count, cache.rows // count
        self._hidden = hidden.clone()
        self._known = known.to(device) if bool((known >= 0).any()) else None
        self._next = torch.empty(0)
        self._noise = torch.ones(ROW, count, network.config.vq.codebook_size, device=device)
        self._cell, self._place = torch.zeros(1, dtype=torch.long, device=device), torch.zeros_like(tokens[0, :1])
        self._sum = torch.zeros((), device=device)  # of all logits: not finite once one of them was not
        self._table = network.token_table() if device.type == "cuda" else network.small_token_table()

    @property
    def state(self) -> tuple[Tensor, ...]:
        """What a step changes beside the cache, where doing it twice leaves the same."""
        return self._hidden, self._cell, self._place, self._sum, self.tokens, self.read.position

    def draw_noise(self, cells: int) -> None:
        """Draw the noise of the next row, which has so many cells, while the device is at work on this one."""
        self._next = self._rule.noise(cells)

    def begin_row(self, cell: int) -> None:
        """Lay out the noise that was drawn; `cell` is the first of its cells."""
        self._noise[: len(self._next)], self._next = self._next, torch.empty(0)
        self._cell.fill_(cell)
        self._place.zero_()

    def choose(self) -> Tensor:
        """The tokens [count] of the current cell, written to their place."""
        logits = self._network.gen_head(self._hidden)
        self._sum.add_(logits.sum(dtype=torch.float32))
        mixed = self._rule.mix(logits.split(self._count))
        token = sampling.pick(mixed, self._rule.temperature, self._noise.index_select(0, self._place)[0])
        if self._known is not None:
            kept = self._known.index_select(0, self._cell)
            token = torch.where(kept < 0, token, kept)
        self.tokens.index_copy_(1, self._cell, token[:, None])
        return token

    def advance(self, span: int) -> None:
        """Choose, and read what was chosen; `span` as for TrunkStep."""
        token = self.choose()
        table = self._table
        embeds = self._network.token_embeds(token) if table is None else F.embedding(token, table)
        self._hidden.copy_(self.read(torch.cat((embeds,) * self._rows), span))
        self._cell.add_(1)
        self._place.add_(1)

    def check(self) -> None:
        """Wait for the device. Raises AppError where a logit was not finite since the beginning."""
        if not bool(self._sum.isfinite()):
            raise sampling.not_finite(self._hidden.dtype)


@torch.inference_mode()
def decode_tokens(network: JanusNetwork, tokens: Tensor) -> Tensor:
    """Token ids [n, cells] to pictures [n, 3, S, S], one at a time.

    A batch would round differently, and the same tokens must give the same picture bit for bit whatever they were
    drawn beside; one picture is also the smallest peak (144 MiB in bf16 at 384 pixels).
    """
    return torch.cat([network.gen_vision_model.decode(row[None]) for row in tokens])
