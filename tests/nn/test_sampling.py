"""Noise and sampling: number for number what `torch.multinomial` would draw."""

from __future__ import annotations

import pytest
import torch

from janus_app.errors import AppError
from janus_app.nn import sampling


def test_sampling_with_noise_picks_what_multinomial_picks() -> None:
    """A whole row of noise at once against one draw a step from the same seed."""
    size, steps = 500, 24
    stream, reference = (torch.Generator().manual_seed(11) for _ in range(2))
    logits = torch.randn(steps, size, generator=torch.Generator().manual_seed(2)) * 2
    noise = sampling.exponential_noise([stream], size, steps)
    picked = [int(sampling.sample(row[None], 0.7, drawn)) for row, drawn in zip(logits, noise, strict=True)]
    wanted = [int(torch.multinomial((row / 0.7).softmax(-1), 1, generator=reference)) for row in logits]
    assert picked == wanted


@pytest.mark.parametrize(("size", "threads"), [(1, 2), (500, 2), (500, 8), (16_384, 8)])
def test_noise_equals_pytorchs_exponential_for_any_threads(
    size: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for seed in range(20):
        streams, references = sampling.generators(seed, 3), sampling.generators(seed, 3)
        for cells in (2, 1):  # the second draw continues the streams
            noise = sampling.exponential_noise(streams, size, cells)
            wanted = [[torch.empty(size).exponential_(1, generator=r) for r in references] for _ in range(cells)]
            assert torch.equal(noise, torch.stack([torch.stack(row) for row in wanted]))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_values_that_are_not_finite_raise_an_error_for_their_precision(value: float) -> None:
    sampling.require_finite(torch.ones(3))
    values = torch.tensor([1.0, value])
    with pytest.raises(AppError) as overflow:
        sampling.require_finite(values.half())
    assert overflow.value.code == "model_output_overflows_fp16"
    with pytest.raises(AppError) as damaged:
        sampling.require_finite(values)
    assert damaged.value.code == "model_output_not_finite"
    with pytest.raises(AppError, match="range of fp16"):
        sampling.require_finite(values, torch.float16)
