"""Several linears that read the same input, as one matrix product: q, k and v; gate and up.

The linears stay where they are, under the checkpoint's names: their weights become views of the one matrix, so fusing
costs no memory. It happens after loading; a module whose weights travel (`janus_app.runtime.offload`) is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.nn.fast.int8 import Int8Linear, joined
from janus_app.nn.fast.linear import Linear, Packed, multiply

SMALL = 1 << 17  # weights up to which an addition saved is worth more than a product that changes places
Product = Callable[[Tensor], Tensor]


class FusedLinear(nn.Module):
    """x [..., in] to the outputs of the linears side by side, [..., sum of out]."""

    weight: Tensor

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        # A buffer that no checkpoint has: names and shapes of the state stay the checkpoint's.
        self.register_buffer("weight", torch.cat([linear.weight.data for linear in linears]), persistent=False)
        self.parts = tuple(linears)  # a tuple, so that they are not registered a second time
        sizes = [linear.out_features for linear in linears]
        for linear, part in zip(linears, self.weight.split(sizes), strict=True):
            linear.weight = nn.Parameter(part, requires_grad=False)

    def leave(self) -> None:
        """Take the numbers of the single linears away, as this product is no longer used."""
        for linear in self.parts:
            linear.weight = nn.Parameter(linear.weight.to("meta"), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return multiply(x, self.weight)


class UnfusedLinear(nn.Module):
    """The same from linears that cannot be one matrix (4 bits, bitsandbytes' own 8 bits); it owns none of them."""

    def __init__(self, linears: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = tuple(linears)  # as in Joined

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([linear(x) for linear in self.parts], dim=-1)


def fuse(*linears: nn.Linear) -> nn.Module:
    """The linears as one module; none may have a bias."""
    assert all(linear.bias is None for linear in linears)
    if all(type(linear) in (nn.Linear, Linear) and not linear.weight.is_meta for linear in linears):
        return FusedLinear(linears)
    eight = [linear for linear in linears if isinstance(linear, Int8Linear)]
    return joined(eight) if len(eight) == len(linears) else UnfusedLinear(linears)


def product(linear: nn.Module) -> Product:
    """The module as a plain function where it is a plain linear: a module's own call costs a small kernel's time."""
    if not plain(linear):
        return linear.forward
    weight, bias = linear.weight, getattr(linear, "bias", None)
    assert isinstance(weight, Tensor)
    way = multiply if weight.device.type == "cpu" else F.linear
    return lambda x: way(x, weight, bias)


def adding(linear: nn.Module, multiplied: Product) -> Callable[[Tensor, Tensor], Tensor]:
    """(total, x) [rows, ...] to total + linear(x), in one operation where a CPU has one, else by `multiplied`."""
    if isinstance(linear, Packed):
        return linear.add
    weight, bias = getattr(linear, "weight", None), getattr(linear, "bias", None)
    if not (plain(linear) and isinstance(weight, Tensor)) or bias is not None or weight.device.type != "cpu":
        return lambda total, x: total + multiplied(x)
    if weight.dtype == torch.float32 and weight.numel() < SMALL:
        columns = weight.t()
        return lambda total, x: torch.addmm(total, x, columns)
    return lambda total, x: total + multiplied(x)


def plain(linear: nn.Module) -> TypeGuard[FusedLinear | nn.Linear]:
    """Whether it is one matrix and nothing else, which lies where it is used."""
    return type(linear) in (FusedLinear, nn.Linear, Linear) and not hasattr(linear, "_hf_hook")
