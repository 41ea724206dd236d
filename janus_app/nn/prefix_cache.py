"""A read-only cache of prompts: each is run once and shared by any number of rows and steps.

What a causal decoder computes for a prompt does not depend on what follows it. So a flow model, which runs the same
prompt with new latents at every step, may reuse the prompt's keys and values: exactly, not as an approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from janus_app.nn.llama import KVCache, causal_attention, full_attention


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a prompt, [layers, 1, kv_heads, P, head_dim] each, and the position of the next input."""

    keys: Tensor
    values: Tensor
    next_position: int

    @classmethod
    def from_cache(cls, cache: KVCache, next_position: int) -> Prefix:
        """The filled slots of a cache of one row without padding."""
        assert cache.rows == 1 and cache.padding_mask is None
        filled = cache.kv[..., : cache.length, :]
        return cls(filled[:, 0], filled[:, 1], next_position)


class SharedPrefixCache:
    """A cache that stores nothing: group i of the rows attends to prefix i and, causally, to the row's own inputs.

    Where not `causal`, an input attends to all inputs of its row.

    The rows are as many equal groups as there are prefixes, one after the other. Prompts of different lengths need no
    padding and no mask over the batch: attention runs group by group, everything else on all rows at once.
    """

    def __init__(self, prefixes: Sequence[Prefix], *, causal: bool = True) -> None:
        self.prefixes = tuple(prefixes)
        self._attend = self._causal if causal else full_attention
        self.length = max(prefix.next_position for prefix in self.prefixes)
        self._masks: dict[tuple[int, int], Tensor] = {}
        self._positions: dict[tuple[int, int], Tensor] = {}

    @property
    def device(self) -> torch.device:
        return self.prefixes[0].keys.device

    def positions(self, rows: int, steps: int, device: torch.device) -> Tensor:
        """Positions [rows, steps] of the inputs behind the prompts."""
        if (rows, steps) not in self._positions:  # kept, because a CUDA graph cannot capture a copy from the host
            starts = torch.tensor([prefix.next_position for prefix in self.prefixes], device=device)
            positions = starts[:, None] + torch.arange(steps, device=device)
            self._positions[rows, steps] = positions.repeat_interleave(rows // len(self.prefixes), dim=0)
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
            parts.append(self._attend(q, keys, values))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def advance(self, steps: int) -> None:
        pass

    def _causal(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention aligned at the lower right. CUDA has kernels for this that need no mask in memory."""
        steps, total = query.shape[2], key.shape[2]
        if query.device.type == "cuda" and query.shape[1] == key.shape[1]:
            bias = causal_lower_right(steps, total)
            return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        if (steps, total) not in self._masks:
            mask = torch.ones(steps, total, dtype=torch.bool, device=query.device).tril(total - steps)
            self._masks[steps, total] = mask
        return causal_attention(query, key, value, self._masks[steps, total])


class FullAttentionCache:
    """A view of a KV cache for inputs that all attend to each other and to what is filled; they are appended to it."""

    def __init__(self, cache: KVCache) -> None:
        assert cache.padding_mask is None
        self._cache = cache

    @property
    def length(self) -> int:
        return self._cache.length

    @property
    def device(self) -> torch.device:
        return self._cache.device

    def mask(self, steps: int) -> Tensor | None:
        return None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        return full_attention(query, *self._cache.append(layer, key, value))

    def advance(self, steps: int) -> None:
        self._cache.advance(steps)
