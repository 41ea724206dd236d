"""Choosing tokens from logits with randomness that belongs to a request's seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from janus_app.errors import AppError


def generators(seed: int, count: int) -> list[torch.Generator]:
    """One CPU generator per picture: picture i draws from seed + i whatever the batch or the device."""
    return [torch.Generator("cpu").manual_seed(seed + i) for i in range(count)]


def exponential_noise(streams: Sequence[torch.Generator], size: int, cells: int = 1) -> Tensor:
    """Exp(1) of every stream for `cells` cells, [cells, len(streams), size] float32 on the CPU.

    argmax(p / noise) then picks the token that `torch.multinomial(p, 1)` on the CPU would pick from the same stream:
    the exponential race it runs inside. These are the numbers of `torch.empty(size).exponential_(1, generator=stream)`,
    cell after cell: the same uniform ones through the same formula, but a logarithm of many at once. A stream's numbers
    come one after the other, so with several threads each has one to itself.
    """
    noise = torch.empty(cells, len(streams), size)

    @torch.inference_mode()  # which is each thread's own
    def fill(picture: int, stream: torch.Generator) -> None:
        uniform = torch.rand(cells, size, dtype=torch.float64, generator=stream)
        for cell, row in enumerate(uniform):
            noise[cell, picture] = row.neg_().log1p_().neg_()

    workers = min(len(streams), torch.get_num_threads() - 1)
    if workers < 2:
        list(map(fill, range(len(streams)), streams))
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(fill, range(len(streams)), streams))
    return noise


def mix_guidance(conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
    """Classifier-free guidance on logits: u + w (c - u) (Ho and Salimans 2022; Janus, section 3.3)."""
    return (conditional - unconditional).mul_(weight).add_(unconditional)


def pick(logits: Tensor, temperature: float, noise: Tensor | None) -> Tensor:
    """One token a row from [rows, vocab] logits; temperature 0 (or no noise) is the most probable one."""
    if temperature == 0 or noise is None:
        return logits.argmax(-1)
    wide = logits.float()
    probabilities = torch.softmax(wide if temperature == 1 else wide / temperature, dim=-1)
    return probabilities.div_(noise.to(logits.device)).argmax(-1)


def keep_top_p(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Logits [rows, vocab] with everything outside the nucleus at -inf (Holtzman et al. 2020).

    The nucleus is the smallest set of tokens whose probability at this temperature reaches top_p.
    """
    if temperature == 0 or top_p >= 1:
        return logits
    ordered, order = torch.sort(logits.float() / temperature, descending=True, dim=-1)
    probabilities = ordered.softmax(-1)
    outside = probabilities.cumsum(-1) - probabilities >= top_p
    return logits.masked_fill(outside.scatter(-1, order, outside), float("-inf"))


class NonFiniteGuard:
    """Sees to it that logits stay numbers, so that half precision's overflow becomes a sentence and not a grey picture.

    Looking waits for the device, so it is done after every `every` steps and whenever `check` is called.
    """

    def __init__(self, every: int = 1) -> None:
        self._every, self._steps = every, 0
        self._lost: Tensor | None = None

    def watch(self, logits: Tensor) -> None:
        """Note a step's logits. Raises AppError where one of the steps since the last look was not finite."""
        lost = ~torch.isfinite(logits).all()
        self._lost = lost if self._lost is None else self._lost | lost
        self._steps += 1
        if self._steps % self._every == 0:
            self.check(logits.dtype)

    def check(self, dtype: torch.dtype) -> None:
        if self._lost is not None and bool(self._lost):
            raise not_finite(dtype)


def not_finite(dtype: torch.dtype) -> AppError:
    """What to say where a model calculates infinities or NaN."""
    if dtype == torch.float16:
        return AppError(
            "The model's numbers left the range of fp16, so there is nothing to show. Load it in bf16, fp32 or int8."
        )
    return AppError(
        "The model calculates infinities instead of numbers, so there is nothing to show: its weights may be damaged. "
        "Verify its files, or load it in fp32."
    )
