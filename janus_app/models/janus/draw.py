"""Drawing image tokens one after the other: guidance, sampling, and cells whose tokens are given (kept)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_app.models.janus.modeling import JanusNetwork
from janus_app.nn import sampling
from janus_app.nn.fast.cuda_graphs import CudaGraphRunner
from janus_app.nn.fast.decode_step import can_capture, make_decode_step
from janus_app.nn.llama import KVCache
from janus_app.nn.prefill import next_positions, prefill

Noise = Callable[[int], Tensor]  # takes a number of cells; the noise of the next cells, [cells, count, codes]
CELLS_PER_SYNC = 24  # cells drawn without waiting for the device: a row of the published models' pictures


@dataclass(frozen=True)
class SamplingRule:
    """From logits to tokens. guidance 1 needs no unconditional row; temperature 0 needs no noise.

    `image_weight` is set where there are two conditional rows that read the input picture in two ways: it is the
    weight of the second one.
    """

    guidance: float
    temperature: float
    noise: Noise
    image_weight: float | None = None

    def mix(self, rows: Sequence[Tensor]) -> Tensor:
        """Logits of the rows, each [count, codes], to [count, codes]. The unconditional row, if any, is the last."""
        if self.image_weight is not None:  # Janus-4o's published code averages the two before guidance
            first, second, *unconditional = rows
            conditional = (first + self.image_weight * second) / (1 + self.image_weight)
        else:
            conditional, *unconditional = rows
        if not unconditional:
            return conditional
        return sampling.mix_guidance(conditional, unconditional[0], self.guidance)


@torch.inference_mode()
def draw_tokens(
    network: JanusNetwork, prompts: Sequence[Tensor], count: int, rule: SamplingRule, known: Tensor
) -> Iterator[Tensor]:
    """Draw `count` pictures of one prompt; yields the same tensor [count, cells] after every new cell.

    prompts are the embedded rows whose logits `SamplingRule.mix` takes. known [cells] is -1 where a cell is to be
    drawn, else its token. Noise is drawn for known cells too, so that cell k always gets the same noise. Each token is
    appended to all rows (Janus, section 3.3).
    """
    tokens = known.to(network.device).repeat(count, 1)
    if bool((known >= 0).all()):
        yield tokens
        return
    first, last = drawn_range(known)
    hidden, cache = prefill_prompts(network, prompts, tokens[:, :first], rule, len(known))
    step = ImageTokenStep(network, cache, hidden, tokens, known, rule)
    step.draw_noise(min(CELLS_PER_SYNC, last + 1 - first))
    advance: Callable[[int], None] = step.advance
    if can_capture(network.language_model.model, network.device, hidden):
        advance = CudaGraphRunner(step.advance, network.device, step.state, cache.capacity, step.decode.bucket)
    for cell in range(first, last + 1):
        if (cell - first) % CELLS_PER_SYNC == 0:
            step.use_noise(cell)
        if cell < last:
            advance(cache.length + 1)
            cache.length += 1
        else:
            step.choose()
        if cell == last or (cell - first) % CELLS_PER_SYNC == CELLS_PER_SYNC - 1:
            if cell < last:
                step.draw_noise(min(CELLS_PER_SYNC, last - cell))
            step.check()
        yield tokens


def drawn_range(known: Tensor) -> tuple[int, int]:
    """The first and the last cell to be drawn; there must be one."""
    drawn = (known < 0).nonzero().flatten()
    return int(drawn[0]), int(drawn[-1])


def prefill_prompts(
    network: JanusNetwork, prompts: Sequence[Tensor], prefix: Tensor, rule: SamplingRule, free_slots: int
) -> tuple[Tensor, KVCache]:
    """Prefill the embedded prompts once for all pictures, then the first tokens `prefix` [count, n] of each picture.

    Returns the hidden states [rows, hidden] that predict cell n, and the cache with `free_slots` behind the prompts.
    The noise of these cells is drawn and dropped.
    """
    count, length = prefix.shape
    hidden, cache = prefill(network, prompts, free_slots)
    cache.repeat_rows(count)
    if not length:
        return hidden[:, -1].repeat_interleave(count, dim=0), cache
    embeds = network.token_embeds(prefix).repeat(len(prompts), 1, 1)
    hidden = network(embeds, next_positions(cache, length), cache)
    for _ in range(length):
        rule.noise(1)
    return hidden[:, -1], cache


class ImageTokenStep:
    """The buffers of a drawing, and the step of every cell: choose its token, then run it through the decoder.

    Only `check` waits for a GPU, once in CELLS_PER_SYNC cells.
    """

    def __init__(
        self, network: JanusNetwork, cache: KVCache, hidden: Tensor, tokens: Tensor, known: Tensor, rule: SamplingRule
    ) -> None:
        count, device = len(tokens), network.device
        self._network, self._rule, self.tokens = network, rule, tokens
        self.decode = make_decode_step(network.language_model.model, cache)
        self._count, self._rows_per_picture = count, cache.rows // count
        self._hidden = hidden.clone()
        self._known = known.to(device) if bool((known >= 0).any()) else None
        self._used_noise = self._next_noise = torch.empty(0)
        self._noise = torch.ones(CELLS_PER_SYNC, count, network.config.vq.codebook_size, device=device)
        self._cell = torch.zeros(1, dtype=torch.long, device=device)
        self._noise_index = torch.zeros_like(self._cell)
        self._logits_sum = torch.zeros((), device=device)  # over all steps; not finite once a logit was not
        self._table = network.token_table() if device.type == "cuda" else network.small_token_table()

    @property
    def state(self) -> tuple[Tensor, ...]:
        """The buffers that `advance` changes, except the cache; see CudaGraphRunner."""
        return self._hidden, self._cell, self._noise_index, self._logits_sum, self.tokens, self.decode.position

    def draw_noise(self, cells: int) -> None:
        """Draw the noise of the next `cells` cells, while the device still computes the ones before."""
        self._used_noise, self._next_noise = self._next_noise, self._rule.noise(cells)

    def use_noise(self, cell: int) -> None:
        """Copy the drawn noise to the device; `cell` is its first cell."""
        sampling.fill_buffer(self._noise[: len(self._next_noise)], self._next_noise)
        self._cell.fill_(cell)
        self._noise_index.zero_()

    def choose(self) -> Tensor:
        """Choose the tokens [count] of the current cell and write them to `tokens`."""
        logits = self._network.gen_head(self._hidden)
        self._logits_sum.add_(logits.sum(dtype=torch.float32))
        mixed = self._rule.mix(logits.split(self._count))
        token = sampling.sample(mixed, self._rule.temperature, self._noise.index_select(0, self._noise_index)[0])
        if self._known is not None:
            known = self._known.index_select(0, self._cell)
            token = torch.where(known < 0, token, known)
        self.tokens.index_copy_(1, self._cell, token[:, None])
        return token

    def advance(self, span: int) -> None:
        """Choose the tokens of the current cell and run them through the decoder; `span` as for DecodeStep."""
        token = self.choose()
        table = self._table
        embeds = self._network.token_embeds(token) if table is None else F.embedding(token, table)
        self._hidden.copy_(self.decode(torch.cat((embeds,) * self._rows_per_picture), span))
        self._cell.add_(1)
        self._noise_index.add_(1)

    def check(self) -> None:
        """Wait for the device. Raises AppError where a logit was not finite since the first cell."""
        sampling.require_finite(self._logits_sum, self._hidden.dtype)


@torch.inference_mode()
def decode_tokens(network: JanusNetwork, tokens: Tensor) -> Generator[None, None, Tensor]:
    """Token ids [n, cells] to pictures [n, 3, S, S], one at a time. Pauses after each large layer; returns them.

    A batch would round differently, and the same tokens must give the same picture bit for bit whatever else is in the
    batch. One picture also has the smallest memory peak (144 MiB in bf16 at 384 pixels).
    """
    pictures = []
    for row in tokens:
        pictures.append((yield from network.gen_vision_model.decoding(row[None])))
    return torch.cat(pictures)
