"""Prompts that were read once and serve any number of rows and steps after that.

What a causal decoder computes for a prompt depends on nothing behind it, so a flow that runs the same prompt with new
latents at every step may keep the prompt's keys and values. That is exact, not an approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from janus_app.nn.llama import KVCache, causal_attention


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a prompt, [layers, 1, kv_heads, P, head_dim], and the position of what comes next."""

    keys: Tensor
    values: Tensor
    next_position: int

    @classmethod
    def of(cls, cache: KVCache, next_position: int | None = None) -> Prefix:
        """What a cache of one row holds; positions go on after it unless told otherwise."""
        assert cache.keys.shape[1] == 1 and cache.hidden is None
        end = cache.length
        return cls(
            cache.keys[:, :, :, :end], cache.values[:, :, :, :end], end if next_position is None else next_position
        )


class SharedPrefixes:
    """A cache that lends prompts and keeps nothing: group i of the rows sees prompt i, then its own inputs, causally.

    The rows are as many equal groups as there are prefixes, one after the other. Prompts of different length need no
    padding and no mask over the batch: attention runs group by group, everything else on all rows at once.
    """

    def __init__(self, prefixes: Sequence[Prefix]) -> None:
        self.prefixes = tuple(prefixes)
        self.length = max(prefix.next_position for prefix in self.prefixes)
        self._masks: dict[tuple[int, int], Tensor] = {}
        self._positions: dict[tuple[int, int], Tensor] = {}

    @property
    def device(self) -> torch.device:
        return self.prefixes[0].keys.device

    def positions(self, rows: int, steps: int, device: torch.device) -> Tensor:
        """Positions [rows, steps] of the inputs behind the prompts."""
        if (
            rows,
            steps,
        ) not in self._positions:  # kept, because numbers of the host cannot be brought over in a recording
            starts = torch.tensor([prefix.next_position for prefix in self.prefixes], device=device)
            counted = starts[:, None] + torch.arange(steps, device=device)
            self._positions[rows, steps] = counted.repeat_interleave(rows // len(self.prefixes), dim=0)
        return self._positions[rows, steps]

    def mask(self, steps: int) -> Tensor | None:
        return None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        count = query.shape[0] // len(self.prefixes)
        parts = []
        for prefix, q, k, v in zip(
            self.prefixes, query.split(count), key.split(count), value.split(count), strict=True
        ):
            keys = torch.cat([prefix.keys[layer].expand(count, -1, -1, -1), k], dim=2)
            values = torch.cat([prefix.values[layer].expand(count, -1, -1, -1), v], dim=2)
            parts.append(self._causal(q, keys, values))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def advance(self, steps: int) -> None:
        pass

    def _causal(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention aligned at the lower right. CUDA has kernels for it that need no mask in memory."""
        steps, total = query.shape[2], key.shape[2]
        if query.device.type == "cuda" and query.shape[1] == key.shape[1]:
            bias = causal_lower_right(steps, total)
            return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        if (steps, total) not in self._masks:
            seen = torch.ones(steps, total, dtype=torch.bool, device=query.device).tril(total - steps)
            self._masks[steps, total] = seen
        return causal_attention(query, key, value, self._masks[steps, total])
