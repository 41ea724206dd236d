"""Turbo: speculative Jacobi decoding, which draws the same tokens in fewer forward passes.

A pass looks at a window of guessed tokens at once, keeps the guesses up to the first wrong one, and takes what it drew
behind that as the guesses of the next pass (Teng et al. 2025, arXiv 2410.01699, section 3). Their rule accepts guesses
at random; here guess and check share the noise of each cell, the simplest form of the coupling of So et al. 2025
(arXiv 2510.24211), so a guess is accepted where ordinary decoding would draw that very token from that noise (the
fixed-point iteration of Wiggers and Hoogeboom 2020, arXiv 2002.09928). The tokens are therefore those of ordinary
decoding, as far as a pass over many positions rounds as one over a single position does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_app.models.janus.draw import SamplingRule, drawn_range, prefill_prompts
from janus_app.models.janus.modeling import JanusNetwork
from janus_app.nn import sampling
from janus_app.nn.fast.cuda_graphs import CudaGraphRunner
from janus_app.nn.fast.decode_step import can_capture
from janus_app.nn.llama import KVCache, causal_attention

MAX_WINDOW = 16  # tokens of a picture in one pass; guesses further ahead are almost never right
# Inputs of all rows in a pass that cost little more than two, because reading the weights takes most of the time. On
# CPUs that was measured (benchmarks.turbo --trunk); for GPUs it is an estimate from their speeds.
MAX_INPUTS = {"cpu": 8, "cuda": 32}


def window_size(rows: int, device: torch.device) -> int:
    """How many tokens of a picture a pass looks at if all pictures together have `rows` rows; 1 = turbo is no gain."""
    return max(1, min(MAX_WINDOW, MAX_INPUTS.get(device.type, MAX_INPUTS["cpu"]) // rows))


@torch.inference_mode()
def jacobi_decode(
    network: JanusNetwork, prompts: Sequence[Tensor], count: int, rule: SamplingRule, known: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """As `draw_tokens`, in fewer passes; yields the last cell that is final in all pictures, and tokens [count, cells].

    Tokens behind that cell may be guesses. At least one cell of `known` must be one to draw.
    """
    cells, window = len(known), window_size(len(prompts) * count, network.device)
    first, last = drawn_range(known)
    prefix = known[:first].to(network.device).repeat(count, 1)
    hidden, cache = prefill_prompts(network, prompts, prefix, rule, cells + window)
    decoder = JacobiDecoder(network, cache, hidden, known, rule, window, count)
    advance: Callable[[int], None] = decoder.advance
    if can_capture(network.language_model.model, network.device):
        advance = CudaGraphRunner(decoder.advance, network.device, decoder.state, cache.capacity)
    final = [first] * count
    while True:
        yield min(final), decoder.tokens[:, :cells]
        if min(final) == last:
            return
        decoder.use_noise(final)
        advance(cache.length - first + max(final) + window)
        final = decoder.final_cells()


class JacobiDecoder:
    """The buffers of a drawing, in which every picture has its own current cell, and the pass over all windows.

    `_window` [count, window] begins with the last final token, at cell `_cell` [count]; guesses follow.
    """

    def __init__(
        self,
        network: JanusNetwork,
        cache: KVCache,
        hidden: Tensor,
        known: Tensor,
        rule: SamplingRule,
        window: int,
        count: int,
    ) -> None:
        device = network.device
        first, self._last = drawn_range(known)
        self._network, self._rule, self._rows_per_picture = network, rule, cache.rows // count
        self._noise_of_cell: dict[int, Tensor] = {}
        self._noise = torch.ones(count, window, network.config.vq.codebook_size, device=device)
        self._known = F.pad(known, (0, window)).to(device)  # token 0 behind the picture: nothing is drawn there
        self.tokens = self._known.repeat(count, 1)
        self._logits_sum = torch.zeros((), device=device)  # over all passes; not finite once a logit was not
        self._offsets = torch.arange(window, device=device)
        self._cache = WindowCache(cache, cache.length - first, self._offsets)
        self._cell = torch.full((count,), first, device=device)
        self.use_noise([first - 1] * count, cells=1)
        token = self._choose(network.gen_head(hidden)[:, None], self._noise[:, :1])
        self.tokens[:, first] = token[:, 0]
        self._window = self._with_known(token.repeat(1, window))

    @property
    def state(self) -> tuple[Tensor, ...]:
        """The buffers that `advance` changes, except the cache; see CudaGraphRunner."""
        return self._window, self._cell, self.tokens, self._logits_sum

    def use_noise(self, final: Sequence[int], cells: int = 0) -> None:
        """Copy the noise of the cells behind each picture's last final cell to the device.

        The noise of each cell is drawn once, in order. `cells` is the length of the window by default.
        """
        noise, cells = self._noise_of_cell, cells or len(self._offsets)
        for cell in range(max(noise, default=min(final)) + 1, min(max(final) + cells, self._last) + 1):
            noise[cell] = self._rule.noise(1)[0]
        for cell in [cell for cell in noise if cell <= min(final) and cell != max(noise)]:
            del noise[cell]
        rows = [[noise[min(f + 1 + i, self._last)][n] for i in range(cells)] for n, f in enumerate(final)]
        self._next_noise = torch.stack([torch.stack(row) for row in rows])
        sampling.fill_buffer(self._noise[:, :cells], self._next_noise)

    def advance(self, span: int) -> None:
        """One pass over all windows, with attention to `span` slots of the cache; then each window moves on."""
        embeds = self._network.token_embeds(self._window).repeat(self._rows_per_picture, 1, 1)
        positions = self._cache.begin(self._cell.repeat(self._rows_per_picture), span)
        drawn = self._choose(self._network.gen_head(self._network(embeds, positions, self._cache)), self._noise)
        cells = self._cell[:, None] + 1 + self._offsets
        known = self._known[cells]
        drawn = torch.where(known < 0, drawn, known)
        self.tokens.scatter_(1, cells, drawn)
        # The token drawn behind the last right guess is final as well.
        final = count_accepted(self._window[:, 1:], drawn[:, :-1]) + 1
        steps = torch.minimum(final, self._last - self._cell)
        row = torch.cat([self._window[:, :1], drawn], dim=1)
        self._cell.add_(steps)
        # Behind the pass's last token, that token is the guess: neighbouring cells are often alike.
        next_window = row.gather(1, (steps[:, None] + self._offsets).clamp(max=len(self._offsets)))
        self._window.copy_(self._with_known(next_window))

    def final_cells(self) -> list[int]:
        """Each picture's last final cell; waits for the device. Raises AppError where a logit was not finite."""
        *cells, logits_sum = torch.cat([self._cell.float(), self._logits_sum[None]]).tolist()
        if not math.isfinite(logits_sum):
            raise sampling.non_finite_error(self._network.dtype)
        return [int(cell) for cell in cells]

    def _choose(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Tokens [count, n] from logits [rows * count, n, codes] and noise [count, n, codes]."""
        self._logits_sum.add_(logits.sum(dtype=torch.float32))
        mixed = self._rule.mix(logits.split(len(self._cell)))
        tokens = sampling.sample(mixed.flatten(0, 1), self._rule.temperature, noise.flatten(0, 1))
        return tokens.view(mixed.shape[:2])

    def _with_known(self, tokens: Tensor) -> Tensor:
        """The tokens [count, window] of the windows, replaced where cells are known."""
        known = self._known[self._cell[:, None] + self._offsets]
        return torch.where(known < 0, tokens, known)


def count_accepted(guesses: Tensor, drawn: Tensor) -> Tensor:
    """How many guesses [count, n] are right before the first wrong one, [count]."""
    return (guesses == drawn).long().cumprod(1).sum(1)


class WindowCache:
    """A KVCache whose rows each continue at their own slot; slots behind that are overwritten.

    `prompt_slots` is the number of slots before a picture's first cell.
    """

    length = 0  # unused: LlamaModel gets its positions

    def __init__(self, cache: KVCache, prompt_slots: int, offsets: Tensor) -> None:
        self._cache, self._prompt_slots, self._offsets = cache, prompt_slots, offsets
        self._rows = torch.arange(cache.rows, device=cache.device)[:, None]
        self._slots, self._span = offsets, cache.capacity

    @property
    def device(self) -> torch.device:
        return self._cache.device

    def begin(self, cells: Tensor, span: int) -> Tensor:
        """Begin a pass at cells [rows] over `span` slots; returns the positions [rows, window] of its inputs."""
        self._slots, self._span = (self._prompt_slots + cells)[:, None] + self._offsets, span
        padding = self._cache.padding_lengths()
        return self._slots if padding is None else self._slots - padding

    def mask(self, steps: int) -> Tensor:
        slots, padding_mask = torch.arange(self._span, device=self.device), self._cache.padding_mask
        visible = slots <= self._slots[:, None, :, None]
        return visible if padding_mask is None else visible & ~padding_mask[:, None, None, : self._span]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        keys, values = self._cache.kv[layer]
        keys[self._rows, :, self._slots] = key.transpose(1, 2).to(keys.dtype)
        values[self._rows, :, self._slots] = value.transpose(1, 2).to(values.dtype)
        return causal_attention(query, keys[:, :, : self._span], values[:, :, : self._span], mask)

    def advance(self, steps: int) -> None:
        pass
