"""Weights of a network on a CPU, rearranged once into the order in which its library reads them.

A product of few inputs then runs at the speed of the memory; benchmarks/README.md has what it was measured to give.
Nothing large is held twice, so afterwards the weights can be multiplied with and no longer read.
"""

from __future__ import annotations

import platform
from functools import cache

import torch
from torch import Tensor, nn

from janus_app.nn.fast.decode_step import has_offload_hooks
from janus_app.nn.fast.fused import FusedLinear, plain
from janus_app.nn.fast.linear import LARGE, LEAST, Packed, Widened, slow_bfloat16

MOST = 1_000_000  # bfloat16 weights up to which a processor without bfloat16 is given a float32 copy beside them


def pack(*networks: nn.Module) -> None:
    """Replace the plain linears of the networks by packed ones, where the processor gains by it.

    Where several linears are one product (`fused.fuse`), the single ones then keep names and shapes alone.
    """
    for network in networks:
        if packs() and not has_offload_hooks(network):
            for parent in [module for module in network.modules() if not plain(module)]:
                _pack_children(parent)


def _pack_children(parent: nn.Module) -> None:
    """One after the other, and nothing holds on to what was replaced: a second copy is there for a moment alone."""
    joined = [child for child in parent.children() if isinstance(child, FusedLinear)]
    single = {id(part) for product in joined for part in product.parts}
    del joined
    for name in [name for name, child in parent.named_children() if plain(child) and id(child) not in single]:
        linear = getattr(parent, name)
        if kind := _kind(linear.weight):
            made = kind(linear.weight, getattr(linear, "bias", None))
            if isinstance(linear, FusedLinear):
                _unname(made)
                if kind is Packed:
                    linear.leave()
            setattr(parent, name, made)


def _kind(weight: Tensor) -> type[Packed | Widened] | None:
    if weight.device.type != "cpu":
        return None
    if weight.dtype == torch.float32 and weight.numel() >= LEAST:
        return Packed
    if weight.dtype == torch.bfloat16 and LARGE <= weight.numel() <= MOST and slow_bfloat16():
        return Widened
    return None


def _unname(linear: nn.Linear) -> None:
    """Keep its weight out of the state, as that of Joined is."""
    weight = linear.weight.data
    del linear.weight
    linear.register_buffer("weight", weight, persistent=False)


@cache
def packs() -> bool:
    """Whether PyTorch's oneDNN is here, on a processor on which it was measured.

    Its operations are a private part of PyTorch, so they are looked for first.
    """
    names = ("_reorder_linear_weight", "_linear_pointwise")
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)
