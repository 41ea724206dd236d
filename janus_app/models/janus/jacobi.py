"""Turbo: guess the next tokens, check all guesses in one pass, keep those that hold; the picture stays what it is.

Speculative Jacobi decoding (Teng et al. 2025, arXiv 2410.01699) takes what one pass draws behind a wrong guess as the
guesses of the next. Guess and check share each cell's noise, the coupling of So et al. 2025 (arXiv 2510.24211) in its
simplest form, so the check is equality: a guess holds where the plain way draws that very token from that noise
(the fixed-point iteration of Wiggers and Hoogeboom 2020, arXiv 2002.09928). Nothing is accepted by chance, and the
tokens are the plain way's, as far as a pass over many positions rounds as one over one does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_app.models.janus.draw import Sampling, drawn_cells, read_prompts
from janus_app.models.janus.modeling import JanusNetwork
from janus_app.nn import sampling
from janus_app.nn.fast.cuda_graphs import recorded
from janus_app.nn.fast.decode_step import recordable
from janus_app.nn.llama import KVCache, causal_attention

WINDOW = 16  # tokens of a picture a pass looks at; more hardly ever hold
# Inputs of all rows in a pass that cost little more than two, because reading the weights is what takes the time. On
# CPUs that was measured (benchmarks.turbo --trunk); on cards it is a guess from their speeds.
INPUTS = {"cpu": 8, "cuda": 32}


def window(rows: int, device: torch.device) -> int:
    """How many tokens a picture's pass looks at where there are `rows` rows; 1 = turbo is no help."""
    return max(1, min(WINDOW, INPUTS.get(device.type, INPUTS["cpu"]) // rows))


@torch.inference_mode()
def jacobi_decode(
    network: JanusNetwork, prompts: Sequence[Tensor], count: int, rule: Sampling, known: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """As `draw_tokens`, in fewer passes; yields the last cell drawn in every picture, and tokens [count, cells].

    Tokens behind that cell may be guesses. One cell of `known` at least must be one to draw.
    """
    cells, wide = len(known), window(len(prompts) * count, network.device)
    first, last = drawn_cells(known)
    kept = known[:first].to(network.device).repeat(count, 1)
    hidden, cache = read_prompts(network, prompts, kept, rule, cells + wide)
    passes = JacobiDecoder(network, cache, hidden, known, rule, wide, count)
    advance: Callable[[int], None] = passes.advance
    if recordable(network.language_model.model, network.device):
        advance = recorded(passes.advance, passes.state, cache.capacity)
    places = [first] * count
    while True:
        yield min(places), passes.tokens[:, :cells]
        if min(places) == last:
            return
        passes.take_noise(places)
        advance(cache.length - first + max(places) + wide)
        places = passes.places()


class JacobiDecoder:
    """The buffers of one drawing, every picture of which is at a cell of its own, and what a pass does with them.

    `window` [count, wide] begins with the last token that is certain, at cell `at`; guesses follow.
    """

    def __init__(
        self,
        network: JanusNetwork,
        cache: KVCache,
        hidden: Tensor,
        known: Tensor,
        rule: Sampling,
        wide: int,
        count: int,
    ) -> None:
        device = network.device
        first, self._last = drawn_cells(known)
        self._network, self._rule, self._rows = network, rule, cache.rows // count
        self._noise_of: dict[int, Tensor] = {}
        self._noise = torch.ones(count, wide, network.config.vq.codebook_size, device=device)
        self._known = F.pad(known, (0, wide)).to(device)  # what lies behind the picture is never drawn
        self.tokens = self._known.repeat(count, 1)
        self._sum = torch.zeros((), device=device)
        self._ahead = torch.arange(wide, device=device)
        self._cache = Window(cache, cache.length - first, self._ahead)
        self._at = torch.full((count,), first, device=device)
        self.take_noise([first - 1] * count, cells=1)
        token = self._choose(network.gen_head(hidden)[:, None], self._noise[:, :1])
        self.tokens[:, first] = token[:, 0]
        self._window = self._guess(token.repeat(1, wide))

    @property
    def state(self) -> tuple[Tensor, ...]:
        """What a pass changes beside the cache."""
        return self._window, self._at, self.tokens, self._sum

    def take_noise(self, places: Sequence[int], cells: int = 0) -> None:
        """Lay out the noise of the cells behind each picture's place; each cell's is drawn once, in order."""
        held, wide = self._noise_of, cells or len(self._ahead)
        for cell in range(max(held, default=min(places)) + 1, min(max(places) + wide, self._last) + 1):
            held[cell] = self._rule.noise(1)[0]
        for cell in [cell for cell in held if cell <= min(places) and cell != max(held)]:
            del held[cell]
        rows = [[held[min(p + 1 + i, self._last)][n] for i in range(wide)] for n, p in enumerate(places)]
        self._noise[:, :wide] = torch.stack([torch.stack(row) for row in rows])

    def advance(self, span: int) -> None:
        """One pass over all windows, looking at `span` slots of the cache; then each window moves on."""
        embeds = self._network.token_embeds(self._window).repeat(self._rows, 1, 1)
        positions = self._cache.begin(self._at.repeat(self._rows), span)
        drawn = self._choose(self._network.gen_head(self._network(embeds, positions, self._cache)), self._noise)
        cells = self._at[:, None] + 1 + self._ahead
        kept = self._known[cells]
        drawn = torch.where(kept < 0, drawn, kept)
        self.tokens.scatter_(1, cells, drawn)
        certain = holding(self._window[:, 1:], drawn[:, :-1]) + 1  # what is drawn behind the last guess that holds, too
        steps = torch.minimum(certain, self._last - self._at)
        row = torch.cat([self._window[:, :1], drawn], dim=1)
        self._at.add_(steps)
        # Where the pass saw no further, its furthest token is repeated: pictures go on as they are.
        self._window.copy_(self._guess(row.gather(1, (steps[:, None] + self._ahead).clamp(max=len(self._ahead)))))

    def places(self) -> list[int]:
        """Each picture's last certain cell; waits for the device. Raises AppError where a logit was not finite."""
        *places, total = torch.cat([self._at.float(), self._sum[None]]).tolist()
        if not math.isfinite(total):
            raise sampling.not_finite(self._network.dtype)
        return [int(place) for place in places]

    def _choose(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Tokens [count, n] from logits [rows * count, n, codes] and noise [count, n, codes]."""
        self._sum.add_(logits.sum(dtype=torch.float32))
        mixed = self._rule.mix(logits.split(len(self._at)))
        return sampling.pick(mixed.flatten(0, 1), self._rule.temperature, noise.flatten(0, 1)).view(mixed.shape[:2])

    def _guess(self, tokens: Tensor) -> Tensor:
        """A window's tokens [count, wide], those of kept cells as they are."""
        kept = self._known[self._at[:, None] + self._ahead]
        return torch.where(kept < 0, tokens, kept)


def holding(guesses: Tensor, drawn: Tensor) -> Tensor:
    """How many guesses [count, n] hold, from the left: a token is drawn rightly behind right tokens alone."""
    return (guesses == drawn).long().cumprod(1).sum(1)


class Window:
    """A KVCache whose rows go on from places of their own; what lies behind a row's place is overwritten."""

    length = 0  # positions are told to the trunk

    def __init__(self, cache: KVCache, prompt: int, ahead: Tensor) -> None:
        self._cache, self._prompt, self._ahead = cache, prompt, ahead
        self._rows = torch.arange(cache.rows, device=cache.device)[:, None]
        self._slots, self._span = ahead, cache.capacity

    @property
    def device(self) -> torch.device:
        return self._cache.device

    def begin(self, at: Tensor, span: int) -> Tensor:
        """The next pass starts at cells `at` [rows]; returns the positions [rows, steps] of its inputs."""
        self._slots, self._span = (self._prompt + at)[:, None] + self._ahead, span
        hidden = self._cache.hidden
        return self._slots if hidden is None else self._slots - hidden.sum(-1, keepdim=True)

    def mask(self, steps: int) -> Tensor:
        places = torch.arange(self._span, device=self.device)
        seen = places <= self._slots[:, None, :, None]
        return seen if self._cache.hidden is None else seen & ~self._cache.hidden[:, None, None, : self._span]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        keys, values = self._cache.held[layer]
        keys[self._rows, :, self._slots] = key.transpose(1, 2).to(keys.dtype)
        values[self._rows, :, self._slots] = value.transpose(1, 2).to(values.dtype)
        return causal_attention(query, keys[:, :, : self._span], values[:, :, : self._span], mask)

    def advance(self, steps: int) -> None:
        pass
