"""Answers in which words and other inputs follow each other: how words are chosen, and how inputs are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from janus_app.nn import sampling
from janus_app.nn.fast.cuda_graphs import CudaGraphRunner
from janus_app.nn.fast.decode_step import can_capture, make_decode_step
from janus_app.nn.llama import KVCache
from janus_app.nn.prefill import Network


@dataclass(frozen=True)
class WordRule:
    """How words are chosen: temperature 0 is greedy. ends: ids that end an answer. picture_start: the id that begins a
    picture, None where none does. excluded: ids that are never chosen."""

    ends: tuple[int, ...]
    picture_start: int | None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    excluded: Sequence[int] = ()

    def chooser(self) -> Callable[[Tensor], tuple[Tensor, int]]:
        """A function from logits [1, vocab] to the next word: its token [1], and its id.

        It raises AppError where a logit is not finite.
        """
        stream = sampling.generator(self.seed)
        never = torch.tensor(self.excluded, dtype=torch.long)

        def choose(logits: Tensor) -> tuple[Tensor, int]:
            if len(never):
                logits = logits.index_fill(-1, never.to(logits.device), torch.finfo(logits.dtype).min)
            noise = sampling.exponential_noise([stream], logits.shape[-1])[0] if self.temperature else None
            nucleus = sampling.apply_top_p(logits, self.temperature, self.top_p)
            token = sampling.sample(nucleus, self.temperature, noise)
            return token, sampling.read_token(token, logits)

        return choose


class InputReader:
    """The last input [1, hidden] of an answer and the final hidden state [1, hidden] that follows from it."""

    def __init__(self, network: Network, cache: KVCache, hidden: Tensor) -> None:
        model = network.language_model.model
        self._cache, self._step = cache, make_decode_step(model, cache)
        self.hidden, self._input = hidden.clone(), torch.empty_like(hidden)
        self._run: Callable[[int], None] = self._advance
        if can_capture(model, network.device, self.hidden):
            state = (self.hidden, self._step.position)
            self._run = CudaGraphRunner(self._advance, network.device, state, cache.capacity, self._step.bucket)

    def read(self, embeds: Tensor) -> None:
        """Read one more input [1, hidden]."""
        self._input.copy_(embeds)
        self._run(self._cache.length + 1)
        self._cache.length += 1

    def resume(self) -> None:
        """Go on behind inputs that were appended to the cache by other means."""
        self._step.position.fill_(self._cache.length)

    def _advance(self, span: int) -> None:
        self.hidden.copy_(self._step(self._input, span))
