"""Linear layers on a CPU whose weights lie in the order in which oneDNN reads them.

    PackedLinear    float32 or bfloat16 weights in that order
    WidenedLinear   bfloat16 weights with a packed float32 copy, for processors without bfloat16 instructions

`pack_linears` replaces plain layers after loading. The state dict keeps the checkpoint's names and shapes.
benchmarks/README.md has the measurements behind the limits below.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.nn.fast.linear import (
    TRANSPOSE_MIN_WEIGHTS,
    FusedLinear,
    LinearFunction,
    has_bfloat16_instructions,
    has_offload_hooks,
    is_plain_linear,
)

ADDMM_MAX_WEIGHTS = 1 << 17  # weights up to which saving an addition gains more than the transposed product
PACK_MIN_WEIGHTS = 1 << 19  # weights from which packing gains with two rows; smaller matrices need more rows
PACK_ROWS = 32  # the number of rows oneDNN is told to pack for; the same order serves other numbers as well
WIDEN_MAX_WEIGHTS = 1_000_000  # bfloat16 weights up to which a float32 copy may stand beside them


class PackedLinear(nn.Linear):
    """A linear on a CPU whose weights, float32 or bfloat16, lie in the order in which oneDNN reads them.

    The weights are in memory once: `weight` keeps its name and shape but is on the meta device, so it cannot be read.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta", dtype=weight.dtype)
        self.weight.requires_grad_(False)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PACK_ROWS)

    def forward(self, input: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, "none", [], "")

    def add(self, residual: Tensor, input: Tensor) -> Tensor:
        """residual + self(input) in one operation."""
        return torch.ops.mkldnn._linear_pointwise.binary(input, residual, self.packed, self.bias, "add")


class WidenedLinear(nn.Linear):
    """A bfloat16 linear with a second, packed float32 copy of its weights, which is used where it is faster."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
        # In a tuple the copy is no submodule, so the state dict keeps the checkpoint's names.
        self.wide = (PackedLinear(weight.float(), None if bias is None else bias.float()),)

    def forward(self, input: Tensor) -> Tensor:
        if input.numel() <= 2 * self.in_features and self.weight.numel() < PACK_MIN_WEIGHTS:
            return F.linear(input, self.weight, self.bias)
        return self.wide[0](input.float()).to(input.dtype)


def pack_linears(*networks: nn.Module) -> None:
    """Replace the plain linears of networks on a CPU by packed ones, where the processor gains by it.

    The plain weights are freed, so the networks can compute afterwards, but their weights can no longer be read.
    Where linears were fused before, the single ones keep only their names and shapes.
    """
    for network in networks:
        if can_pack() and not has_offload_hooks(network):
            for parent in [module for module in network.modules() if not is_plain_linear(module)]:
                _pack_children(parent)


def _pack_children(parent: nn.Module) -> None:
    """Pack one layer after the other and keep no reference to the old one: only one layer is in memory twice."""
    fused = [child for child in parent.children() if isinstance(child, FusedLinear)]
    parts = {id(part) for each in fused for part in each.parts}
    del fused
    for name in [name for name, child in parent.named_children() if is_plain_linear(child) and id(child) not in parts]:
        linear = getattr(parent, name)
        if packed_class := _packed_class(linear.weight):
            packed = packed_class(linear.weight, getattr(linear, "bias", None))
            if isinstance(linear, FusedLinear):
                _make_weight_non_persistent(packed)
                if packed_class is PackedLinear:
                    linear.release_parts()
            setattr(parent, name, packed)


def _packed_class(weight: Tensor) -> type[PackedLinear | WidenedLinear] | None:
    if weight.device.type != "cpu":
        return None
    size = weight.numel()
    half = weight.dtype == torch.bfloat16
    if half and has_bfloat16_instructions() is False:
        return WidenedLinear if TRANSPOSE_MIN_WEIGHTS <= size <= WIDEN_MAX_WEIGHTS else None
    packs = has_bfloat16_instructions() if half else weight.dtype == torch.float32
    return PackedLinear if packs and size >= PACK_MIN_WEIGHTS else None


def _make_weight_non_persistent(linear: nn.Linear) -> None:
    """Keep the weight out of the state dict, as FusedLinear does."""
    weight = linear.weight.data
    del linear.weight
    linear.register_buffer("weight", weight, persistent=False)


@cache
def can_pack() -> bool:
    """Whether PyTorch has oneDNN's packing operations, on the processors on which they were measured (x86).

    The operations are private to PyTorch, so they are looked up first.
    """
    names = ("_reorder_linear_weight", "_linear_pointwise")
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


def residual_function(linear: nn.Module, function: LinearFunction) -> Callable[[Tensor, Tensor], Tensor]:
    """(residual, x), both [rows, ...], to residual + linear(x): one operation where a CPU has one, else `function`."""
    if isinstance(linear, PackedLinear):
        return linear.add
    weight = linear.weight if is_plain_linear(linear) and getattr(linear, "bias", None) is None else None
    small = weight is not None and weight.dtype == torch.float32 and weight.numel() < ADDMM_MAX_WEIGHTS
    if weight is not None and small and weight.device.type == "cpu":
        columns = weight.t()
        return lambda residual, x: torch.addmm(residual, x, columns)
    return lambda residual, x: residual + function(x)
