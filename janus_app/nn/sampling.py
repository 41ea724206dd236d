"""Sampling tokens from logits, with random numbers that depend on the seed of a request alone."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from janus_app.errors import AppError


def generator(seed: int) -> torch.Generator:
    """A CPU generator for a seed of any size.

    PyTorch's own reads the lowest 32 bits alone: to it 5 and 2**32 + 5 are one seed. So all bits of a larger one are
    mixed into 32 first.
    """
    narrow = seed if seed < 2**32 else int(np.random.SeedSequence(seed).generate_state(1)[0])
    return torch.Generator("cpu").manual_seed(narrow)


def generators(seed: int, count: int) -> list[torch.Generator]:
    """One CPU generator a picture: picture i draws from seed + i, whatever the batch size or the device."""
    return [generator(seed + i) for i in range(count)]


def exponential_noise(streams: Sequence[torch.Generator], size: int, cells: int = 1) -> Tensor:
    """Exp(1) noise for `cells` cells from every stream, [cells, len(streams), size] float32 on the CPU.

    argmax(p / noise) is the token that `torch.multinomial(p, 1)` on the CPU picks from the same stream, because it runs
    the same exponential race. The numbers are those of `torch.empty(size).exponential_(1, generator=stream)`, cell
    after cell: the same uniform numbers through the same formula, but with the logarithms of many at once. A stream is
    sequential, so several threads take a stream each.
    """
    noise = torch.empty(cells, len(streams), size)

    @torch.inference_mode()  # the mode is per thread
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
    """Classifier-free guidance: u + w (c - u) (Ho and Salimans 2022, eq. 6; Janus, section 3.3)."""
    return (conditional - unconditional).mul_(weight).add_(unconditional)


def sample(logits: Tensor, temperature: float, noise: Tensor | None) -> Tensor:
    """One token a row, [rows], from logits and Exp(1) noise [rows, vocab]; the most probable one at temperature 0 or
    without noise."""
    if temperature == 0 or noise is None:
        return logits.argmax(-1)
    wide = logits.float()
    probabilities = torch.softmax(wide if temperature == 1 else wide / temperature, dim=-1)
    # CUDA brings it there behind its present work; the caller keeps it until the next wait.
    noise = noise.to(logits.device, non_blocking=logits.device.type == "cuda")
    return probabilities.div_(noise).argmax(-1)


def apply_top_p(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Logits [rows, vocab] with -inf outside the nucleus (Holtzman et al. 2020, section 3.1).

    The nucleus is the smallest set of tokens whose probability at this temperature reaches top_p.
    """
    if temperature == 0 or top_p >= 1:
        return logits
    ordered, order = torch.sort(logits.float() / temperature, descending=True, dim=-1)
    probabilities = ordered.softmax(-1)
    outside = probabilities.cumsum(-1) - probabilities >= top_p
    return logits.masked_fill(outside.scatter(-1, order, outside), float("-inf"))


def fill_buffer(buffer: Tensor, values: Tensor) -> None:
    """Copy values from main memory. A CUDA buffer is filled without waiting for the card's present work: keep the
    values until the next wait."""
    buffer.copy_(values, non_blocking=buffer.device.type == "cuda")


def read_token(token: Tensor, logits: Tensor) -> int:
    """The token [1] that was chosen from logits [1, vocab]; the one wait for the device in a step of an answer.

    Raises AppError where a logit is infinite or NaN.
    """
    chosen = int(torch.where(torch.isfinite(logits).all(), token, -1))
    if chosen < 0:
        raise non_finite_error(logits.dtype)
    return chosen


def require_finite(values: Tensor, dtype: torch.dtype | None = None) -> None:
    """Raises AppError where a value is infinite or NaN: half precision overflowed, or the weights are damaged.

    It waits for the device. `dtype` is the one the model computes in, that of the values by default.
    """
    if not bool(torch.isfinite(values).all()):
        raise non_finite_error(dtype or values.dtype)


def non_finite_error(dtype: torch.dtype) -> AppError:
    """The error for a model that computed infinities or NaN in `dtype`."""
    return AppError("model_output_overflows_fp16" if dtype == torch.float16 else "model_output_not_finite")
