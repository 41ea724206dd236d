"""Prefill: from prompts of text and pictures to a filled KV cache, in one forward pass over rows of unequal length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from janus_app.nn.llama import Cache, KVCache, LlamaForCausalLM


class Network(Protocol):
    """What prefill and chat need of a family's network."""

    language_model: LlamaForCausalLM

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def picture_embeds(self, pixels: Tensor) -> Tensor: ...

    def text_embeds(self, ids: Tensor) -> Tensor: ...

    def new_cache(self, rows: int, capacity: int) -> KVCache: ...

    def __call__(self, embeds: Tensor, positions: Tensor | None = None, cache: Cache | None = None) -> Tensor: ...


def prompt_embeds(network: Network, ids: Sequence[int], placeholder: int, pixels: Tensor | None) -> Tensor:
    """Decoder inputs [T, hidden] of token ids; picture embeddings replace those of the placeholder ids, in order.

    pixels [n, 3, S, S] are the n pictures of the prompt, in -1..1; None without pictures.
    """
    row = torch.tensor(ids, device=network.device)
    embeds = network.text_embeds(row)
    if pixels is not None:
        pictures = network.picture_embeds(pixels.to(network.device, network.dtype))
        embeds[row == placeholder] = pictures.flatten(0, 1)
    return embeds


def prefill(network: Network, rows: Sequence[Tensor], free_slots: int) -> tuple[Tensor, KVCache]:
    """Run prompts [T_i, hidden] through the decoder at once; the cache has `free_slots` left afterwards.

    Shorter rows are padded on the left; nothing attends to padding, and positions do not count it. Returns the final
    hidden states [rows, T, hidden] and the cache.
    """
    longest = max(len(row) for row in rows)
    cache = network.new_cache(len(rows), longest + free_slots)
    batch = torch.zeros(len(rows), longest, rows[0].shape[1], device=network.device, dtype=network.dtype)
    padding = torch.tensor([longest - len(row) for row in rows], device=network.device)
    for padded, row, start in zip(batch, rows, padding.tolist(), strict=True):
        padded[start:] = row
    positions = None
    if bool(padding.any()):
        slots = torch.arange(longest + free_slots, device=network.device)
        cache.padding_mask = slots[None] < padding[:, None]
        positions = (slots[None, :longest] - padding[:, None]).clamp(min=0)
    return network(batch, positions, cache), cache


def next_positions(cache: KVCache, steps: int) -> Tensor | None:
    """Positions [rows, steps] of the next inputs, without left padding; None where the cache has no padding."""
    if (padding := cache.padding_lengths()) is None:
        return None
    return torch.arange(cache.length, cache.length + steps, device=padding.device)[None] - padding
