"""Linear layers of the decode engine: fused, or with int8 weights on a CPU. `packing` has those in oneDNN's order.

All of them compute what `torch.nn.Linear` computes, up to rounding. On a GPU, PyTorch's own product is used. On a CPU,
the libraries behind it are made for many inputs at a time; for the few rows of a decode step, or for bfloat16, there
are faster ways to call them. benchmarks/README.md has the measurements behind the limits below.

    Linear          plain weights; `apply_linear` chooses the product
    FusedLinear     several linears that read the same input, as one matrix: q, k and v; gate and up
    FusedQuantized  the same for bitsandbytes' int8 and nf4 on a GPU
    UnfusedLinear   the same interface where the weights cannot be one matrix (offloaded; nf4 on a CPU)
    Int8Linear      int8 weights with one scale a row (CPU)

`fuse_linears` replaces layers after loading. The state dict keeps the checkpoint's names and shapes.
"""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_DECODE_ROWS = 32  # rows of the largest decode step: 16 pictures, each with and without its prompt
TRANSPOSE_MIN_WEIGHTS = 1 << 15  # float32 weights from which the transposed product is faster for few rows
UNPACK_MIN_ROWS = 4  # bfloat16 rows from which unpacking the weights to float32 is worth it
UNPACK_CHUNK = 1 << 20  # weights unpacked at a time: about what fits a processor's cache
INT8_KERNEL_MAX_ROWS = 12  # inputs up to which the kernel is quicker than bfloat16 instructions after unpacking
INT8_KERNEL_BLOCK = 16  # PyTorch's int8 kernel reads beyond the row where its length is no multiple of this

LinearFunction = Callable[[Tensor], Tensor]


class Linear(nn.Linear):
    """`torch.nn.Linear` through `apply_linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return apply_linear(input, self.weight, self.bias)


def apply_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear(x, weight, bias) for x [..., in], weight [out, in], bias [out], by the fastest product there is."""
    rows = x.numel() // x.shape[-1]
    if weight.device.type == "cpu" and x.dtype == weight.dtype:
        few = 1 < rows <= MAX_DECODE_ROWS
        if x.dtype == torch.float32 and few and weight.numel() >= TRANSPOSE_MIN_WEIGHTS and torch.get_num_threads() > 1:
            return _transposed_product(x, weight, bias, rows)
        if x.dtype == torch.bfloat16 and rows >= UNPACK_MIN_ROWS and has_bfloat16_instructions() is False:
            product = chunked_product(x.float(), weight)
            return (product if bias is None else product.add_(bias)).to(x.dtype)
    return F.linear(x, weight, bias)


def _transposed_product(x: Tensor, weight: Tensor, bias: Tensor | None, rows: int) -> Tensor:
    """weight @ x.T, transposed back: the library then divides the weights among its threads instead of the few rows.

    The library is faster for some widths than for others, so x is padded with zeros to the next of these.
    """
    flat = x.reshape(rows, -1)
    width = 1 << (rows - 1).bit_length() if rows <= 8 else -(-rows // 8) * 8
    columns = (F.pad(flat, (0, 0, 0, width - rows)) if width > rows else flat).t()
    product = torch.mm(weight, columns)[:, :rows].t().contiguous()
    return (product if bias is None else product.add_(bias)).view(*x.shape[:-1], -1)


def chunked_product(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., in] @ weight.T for a weight [out, in] of another dtype, converted to x's a chunk at a time."""
    count = min(len(weight), max(1, UNPACK_CHUNK // weight.shape[1]))
    # One buffer for all chunks: allocating takes as long as a product.
    buffer = torch.empty(count, weight.shape[1], dtype=x.dtype, device=x.device)
    return torch.cat([apply_linear(x, buffer[: len(part)].copy_(part)) for part in weight.split(count)], dim=-1)


@cache
def has_bfloat16_instructions() -> bool | None:
    """Whether this processor multiplies bfloat16 numbers by itself; without, PyTorch converts each at every use.

    None where that is not known: on others than x86, and where PyTorch lacks the private functions that tell it.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    checks = [getattr(torch.cpu, name) for name in names if hasattr(torch.cpu, name)]
    return any(supported() for supported in checks) if checks else None


# ---- int8


class Int8Linear(nn.Linear):
    """y = (x @ weight.T) * scale + bias for an int8 `weight` [out, in] and a float32 `scale` [out], on a CPU.

    LLM.int8() (Dettmers et al. 2022) rounds the activations to eight bits too, which is slow on a CPU. Here they keep
    bfloat16's eight significant bits and their own exponents, and for few rows the weights are multiplied without being
    unpacked first.
    """

    scale: Tensor
    ones: Tensor

    def __init__(self, weight: Tensor, scale: Tensor, *, persistent: bool = True) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        del self.weight
        self.register_buffer("weight", weight, persistent=persistent)
        self.register_buffer("scale", scale.float(), persistent=False)
        # The kernel takes scales in bfloat16, which would round them. It gets ones; the scales are applied after it.
        self.register_buffer("ones", torch.ones_like(scale, dtype=torch.bfloat16), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        flat = x if x.dim() == 2 else x.reshape(-1, self.in_features)  # a step's x is flat: each operation costs time
        fast = has_bfloat16_instructions()
        few = len(flat) <= (INT8_KERNEL_MAX_ROWS if fast else MAX_DECODE_ROWS)
        # The kernel is private to PyTorch. For other dtypes than bfloat16 it is slower than unpacking.
        if few and self.in_features % INT8_KERNEL_BLOCK == 0 and has_int8_kernel():
            product = torch._weight_int8pack_mm(_in_dtype(flat, torch.bfloat16), self.weight, self.ones)
        else:
            product = chunked_product(_in_dtype(flat, torch.bfloat16 if fast else torch.float32), self.weight)
        out = _in_dtype(product * self.scale, x.dtype)
        out = out if self.bias is None else out + self.bias
        return out if x.dim() == 2 else out.view(*x.shape[:-1], self.out_features)


def _in_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)


def has_int8_kernel() -> bool:
    return hasattr(torch, "_weight_int8pack_mm")


def int8_linear_reference(linear: Int8Linear, x: Tensor) -> Tensor:
    """What `linear` computes, from weights unpacked to float32: the reference implementation for the tests."""
    weight = linear.weight.float() * linear.scale[:, None]
    return F.linear(x.float(), weight, None if linear.bias is None else linear.bias.float()).to(x.dtype)


# ---- fusing


class FusedLinear(nn.Module):
    """x [..., in] to the outputs of several linears side by side, [..., sum of out].

    The linears stay where they are, under the checkpoint's names: their weights become views of the one matrix, so
    fusing costs no memory.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        # Not persistent: the state dict keeps the checkpoint's names and shapes.
        self.register_buffer("weight", torch.cat([linear.weight.data for linear in linears]), persistent=False)
        biases = [linear.bias.data for linear in linears if linear.bias is not None]
        self.register_buffer("bias", torch.cat(biases) if biases else None, persistent=False)
        self.parts = tuple(linears)  # a tuple, so that they are not registered as submodules a second time
        sizes = [linear.out_features for linear in linears]
        for linear, part in zip(linears, self.weight.split(sizes), strict=True):
            linear.weight = nn.Parameter(part, requires_grad=False)

    def release_parts(self) -> None:
        """Move the weights of the single linears to the meta device, once this module is no longer used."""
        for linear in self.parts:
            linear.weight = nn.Parameter(linear.weight.to("meta"), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return apply_linear(x, self.weight, self.bias)


class UnfusedLinear(nn.Module):
    """As FusedLinear, where the weights cannot be one matrix. It owns none of them."""

    def __init__(self, linears: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = tuple(linears)  # as in FusedLinear

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([linear(x) for linear in self.parts], dim=-1)


class FusedQuantized(nn.Module):
    """Linears of bitsandbytes that read the same input, as one linear of bitsandbytes; as FusedLinear otherwise."""

    def __init__(self, linears: Sequence[nn.Linear], whole: nn.Linear) -> None:
        super().__init__()
        self.parts, self._whole = tuple(linears), (whole,)  # as in FusedLinear

    @property
    def whole(self) -> nn.Linear:
        return self._whole[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.whole(x)


def fuse_linears(*linears: nn.Linear) -> nn.Module:
    """Several linears that read the same input as one module; all have a bias, or none has."""
    biased = {linear.bias is not None for linear in linears}
    assert len(biased) == 1
    if all(type(linear) in (nn.Linear, Linear) and not linear.weight.is_meta for linear in linears):
        return FusedLinear(linears)
    if biased == {True}:
        return UnfusedLinear(linears)
    int8 = [linear for linear in linears if isinstance(linear, Int8Linear)]
    if len(int8) == len(linears):
        return fuse_int8(int8)
    on_gpu = all(linear.weight.device.type == "cuda" for linear in linears)
    return (fuse_bitsandbytes(linears) if on_gpu else None) or UnfusedLinear(linears)


def fuse_int8(linears: Sequence[Int8Linear]) -> Int8Linear:
    """One linear whose outputs are those of `linears` side by side; their weights become views of its own."""
    weight, scale = torch.cat([one.weight for one in linears]), torch.cat([one.scale for one in linears])
    sizes = [one.out_features for one in linears]
    for one, part, scales in zip(linears, weight.split(sizes), scale.split(sizes), strict=True):
        one.weight, one.scale = part, scales
    return Int8Linear(weight, scale, persistent=False)


def fuse_bitsandbytes(linears: Sequence[nn.Linear]) -> FusedQuantized | None:
    """Linears of bitsandbytes that were not used yet as one; None where their weights cannot be joined.

    Both formats are lists of rows: int8 has a scale for each, nf4 one for every block of a row.
    """
    names = {type(linear).__name__ for linear in linears}
    try:
        if names == {"Linear8bitLt"}:
            return FusedQuantized(linears, _join_int8(linears))
        return FusedQuantized(linears, _join_nf4(linears)) if names == {"Linear4bit"} else None
    except (AttributeError, TypeError, ValueError):  # another version of the library
        return None


def _join_int8(linears: Sequence[Any]) -> nn.Linear:
    first, sizes = linears[0], [linear.out_features for linear in linears]
    weight, scale = (
        torch.cat(parts) for parts in zip(*((one.weight.CB, one.weight.SCB) for one in linears), strict=True)
    )
    whole = type(first)(
        first.in_features,
        sum(sizes),
        bias=False,
        has_fp16_weights=False,
        threshold=first.state.threshold,
        device="meta",
    )
    whole.weight = type(first.weight)(weight, requires_grad=False, has_fp16_weights=False, CB=weight, SCB=scale)
    for one, rows, scales in zip(linears, weight.split(sizes), scale.split(sizes), strict=True):
        one.weight.data, one.weight.CB, one.weight.SCB = rows, rows, scales
    return whole.eval()


def _join_nf4(linears: Sequence[Any]) -> nn.Linear:
    first, states = linears[0], [linear.weight.quant_state for linear in linears]
    size, block = first.in_features, states[0].blocksize
    alike = {(state.blocksize, state.quant_type, state.dtype, state.nested) for state in states}
    packed = any(getattr(state, "packing_format_for_cpu", False) for state in states)
    if len(alike) > 1 or states[0].nested or packed or size % block:
        raise ValueError
    outputs = [linear.out_features for linear in linears]
    weight, scale = torch.cat([linear.weight.data for linear in linears]), torch.cat([state.absmax for state in states])
    state = copy.copy(states[0])
    state.absmax, state.shape = scale, torch.Size((sum(outputs), size))
    kind = {"compress_statistics": False, "quant_type": state.quant_type}
    whole = type(first)(size, sum(outputs), bias=False, compute_dtype=first.compute_dtype, device="meta", **kind)
    whole.weight = type(first.weight)(
        weight, requires_grad=False, quant_state=state, blocksize=block, bnb_quantized=True, module=whole, **kind
    )
    whole.quant_state, whole.support_avx512bf16_for_cpu = state, False
    for one, part, scales in zip(
        linears,
        weight.split([linear.weight.shape[0] for linear in linears]),
        scale.split([len(each.absmax) for each in states]),
        strict=True,
    ):
        one.weight.data, one.weight.quant_state.absmax = part, scales
    return whole.eval()


# ---- layers as functions, for a decode step


def has_offload_hooks(network: nn.Module) -> bool:
    """Whether accelerate's hooks move weights of the network between devices (`janus_app.runtime.offload`)."""
    return any(hasattr(module, "_hf_hook") for module in network.modules())


def is_plain_linear(module: nn.Module) -> TypeGuard[FusedLinear | nn.Linear]:
    """Whether the module is one weight matrix, an optional bias and nothing else, and stays on its device."""
    return type(module) in (FusedLinear, nn.Linear, Linear) and not hasattr(module, "_hf_hook")


def linear_function(linear: nn.Module) -> LinearFunction:
    """The layer as a function. For plain linears it skips the module call, which costs as much as a small kernel."""
    if not is_plain_linear(linear):
        return linear.forward
    weight, bias = linear.weight, getattr(linear, "bias", None)
    assert isinstance(weight, Tensor)
    multiply = apply_linear if weight.device.type == "cpu" else F.linear
    return lambda x: multiply(x, weight, bias)
