"""A linear layer in the way that is fastest where it lies; the numbers are those of `torch.nn.Linear`.

On a card that is PyTorch's own product. On a CPU its libraries are made for many inputs at a time, and for a step of
drawing or for bfloat16 there are better ways to use them. benchmarks/README.md has what they were measured to give.
"""

from __future__ import annotations

import platform
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW, LARGE = 32, 1 << 15  # inputs and weights of a float32 product that changes places
MANY = 4  # bfloat16 inputs that are worth unpacking the weights for
LEAST = 1 << 19  # weights from which packing gains with two inputs; with fewer weights it needs more inputs
PACKED_FOR = 32  # inputs oneDNN is told to pack for; it reads that order as well for other numbers of them
PIECE = 1 << 20  # weights unpacked at a time: what a processor's cache holds


class Linear(nn.Linear):
    """`torch.nn.Linear` by `multiply`."""

    def forward(self, input: Tensor) -> Tensor:
        return multiply(input, self.weight, self.bias)


class Packed(nn.Linear):
    """A float32 linear on a CPU whose weights lie in the order in which oneDNN reads them.

    They are held once: `weight` keeps its name and shape, but its numbers can no longer be read.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight.requires_grad_(False)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR)

    def forward(self, input: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, "none", [], "")

    def add(self, total: Tensor, input: Tensor) -> Tensor:
        """total + self(input) in one operation."""
        return torch.ops.mkldnn._linear_pointwise.binary(input, total, self.packed, self.bias, "add")


class Widened(nn.Linear):
    """A bfloat16 linear with a second copy of its weights, packed in float32, where that is faster."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
        # In a tuple it is no part of the state, whose names are the checkpoint's.
        self.wide = (Packed(weight.float(), None if bias is None else bias.float()),)

    def forward(self, input: Tensor) -> Tensor:
        if input.numel() <= 2 * self.in_features and self.weight.numel() < LEAST:
            return F.linear(input, self.weight, self.bias)
        return self.wide[0](input.float()).to(input.dtype)


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear(x, weight, bias) for x [..., in], weight [out, in], bias [out]."""
    count = x.numel() // x.shape[-1]
    if weight.device.type == "cpu" and x.dtype == weight.dtype:
        if x.dtype == torch.float32 and 1 < count <= FEW and weight.numel() >= LARGE and torch.get_num_threads() > 1:
            return _swapped(x, weight, bias, count)
        if x.dtype == torch.bfloat16 and count >= MANY and slow_bfloat16():
            product = in_pieces(x.float(), weight)
            return (product if bias is None else product.add_(bias)).to(x.dtype)
    return F.linear(x, weight, bias)


def _swapped(x: Tensor, weight: Tensor, bias: Tensor | None, count: int) -> Tensor:
    """weight @ x.T: the library then divides the weights among its threads, and not the few inputs.

    It likes some widths better than others, so zeros fill up to them.
    """
    flat = x.reshape(count, -1)
    width = 1 << (count - 1).bit_length() if count <= 8 else -(-count // 8) * 8
    columns = (F.pad(flat, (0, 0, 0, width - count)) if width > count else flat).t()
    product = torch.mm(weight, columns)[:, :count].t().contiguous()
    return (product if bias is None else product.add_(bias)).view(*x.shape[:-1], -1)


def in_pieces(x: Tensor, rows: Tensor) -> Tensor:
    """x [..., in] @ rows.T for rows of another dtype, unpacked to that of x a piece at a time."""
    count = min(len(rows), max(1, PIECE // rows.shape[1]))
    wide = torch.empty(count, rows.shape[1], dtype=x.dtype, device=x.device)  # new memory for each piece costs as much
    return torch.cat([multiply(x, wide[: len(part)].copy_(part)) for part in rows.split(count)], dim=-1)


@cache
def slow_bfloat16() -> bool:
    """Whether this processor has no instructions for bfloat16, and PyTorch widens each number whenever it is used.

    Only of x86 processors that can be known; it is asked in a private part of PyTorch.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    found = [getattr(torch.cpu, name) for name in names if hasattr(torch.cpu, name)]
    return bool(found) and not any(ask() for ask in found)
