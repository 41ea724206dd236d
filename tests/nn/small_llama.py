"""A small Llama with random weights, a cache with prompts, and a recorder of PyTorch operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from janus_app.nn.llama import DecoderConfig, KVCache, LlamaModel

CPU = torch.device("cpu")
# Operations that read a value of the device, or whose output shape depends on one: a CUDA graph cannot capture them.
WAITS = {"_local_scalar_dense", "item", "nonzero", "masked_select", "unique", "is_nonzero", "repeat_interleave.Tensor"}


class OperationRecorder(TorchDispatchMode):
    """Records every operation with the shapes and dtypes of its inputs; fails at one that waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        if name in WAITS or name.partition(".")[0] in WAITS:
            raise AssertionError(f"the step waits for the device: {name}")
        shapes = [(tuple(a.shape), str(a.dtype)) for a in args if isinstance(a, Tensor)]
        self.seen.append((name, str(shapes)))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def small_llama(heads: int, kv_heads: int, *, fused: bool) -> LlamaModel:
    """Three blocks of width 64."""
    model = LlamaModel(DecoderConfig(32, 64, 96, 3, heads, kv_heads, 256)).eval().requires_grad_(False)
    source = torch.Generator().manual_seed(0)
    for tensor in model.parameters():
        tensor.copy_(torch.randn(tensor.shape, generator=source) * 0.2 + (tensor.dim() == 1))
    if fused:
        model.fuse()
    return model


@torch.no_grad()
def prefilled(model: LlamaModel, lengths: Sequence[int]) -> tuple[KVCache, Tensor]:
    """A cache with random prompts, left-padded to one length, and the six inputs [6, rows, 64] that follow."""
    rows, longest = len(lengths), max(lengths)
    source = torch.Generator().manual_seed(1)
    cache = KVCache(model.config, rows, longest + 40, device=CPU, dtype=torch.float32)
    positions = None
    if len(set(lengths)) > 1:
        padding = torch.tensor([longest - n for n in lengths])
        cache.padding_mask = torch.arange(longest + 40)[None] < padding[:, None]
        positions = (torch.arange(longest)[None] - padding[:, None]).clamp(min=0)
    model(torch.randn(rows, longest, 64, generator=source), positions, cache)
    return cache, torch.randn(6, rows, 64, generator=source)
