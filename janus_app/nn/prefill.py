"""From prompts to a filled cache: embeddings of text and pictures, and one run over rows of unequal length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from janus_app.nn.llama import Cache, KVCache, LlamaForCausalLM


class Network(Protocol):
    """What reading and answering need of a family's network."""

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
    """Decoder inputs [T, hidden]; picture embeddings are written over the placeholder ids, in order.

    pixels is [n, 3, S, S] for the n pictures of the prompt, or None.
    """
    row = torch.tensor(ids, device=network.device)
    embeds = network.text_embeds(row)
    if pixels is not None:
        pictures = network.picture_embeds(pixels.to(network.device, network.dtype))
        embeds[row == placeholder] = pictures.flatten(0, 1)
    return embeds


def prefill(network: Network, rows: Sequence[Tensor], room: int) -> tuple[Tensor, KVCache]:
    """Run prompts [T_i, hidden] through the decoder at once; the cache has `room` positions left afterwards.

    Shorter rows are padded on the left; padding is seen by no one and counts for no position. Returns the final
    hidden states [rows, T, hidden] and the cache.
    """
    longest = max(len(row) for row in rows)
    cache = network.new_cache(len(rows), longest + room)
    batch = torch.zeros(len(rows), longest, rows[0].shape[1], device=network.device, dtype=network.dtype)
    padding = torch.tensor([longest - len(row) for row in rows], device=network.device)
    for line, row, skip in zip(batch, rows, padding.tolist(), strict=True):
        line[skip:] = row
    positions = None
    if bool(padding.any()):
        slots = torch.arange(longest + room, device=network.device)
        cache.hidden = slots[None] < padding[:, None]
        positions = (slots[None, :longest] - padding[:, None]).clamp(min=0)
    return network(batch, positions, cache), cache


def next_positions(cache: KVCache, steps: int) -> Tensor | None:
    """Positions [rows, steps] of the next inputs, not counting left padding; None where there is none."""
    if cache.hidden is None:
        return None
    padding = cache.hidden.sum(-1, keepdim=True)
    return torch.arange(cache.length, cache.length + steps, device=padding.device)[None] - padding
