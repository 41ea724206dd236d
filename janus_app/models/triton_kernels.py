"""The kernels behind `kernels.py`, in Triton. Imported only where Triton is there; each has its twin in that file."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _int8_product(
    x_at, rows_at, scale_at, out_at, count, outer, inner,
    COUNT: tl.constexpr, OUTER: tl.constexpr, INNER: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """OUTER outputs of all inputs: rows of int8 are read once, widened on the way, and scaled when the sum is whole."""
    inputs, outs = tl.arange(0, COUNT), tl.program_id(0) * OUTER + tl.arange(0, OUTER)
    total = tl.zeros((COUNT, OUTER), dtype=tl.float32)
    for start in range(0, inner, INNER):
        places = start + tl.arange(0, INNER)
        x_mask = (inputs[:, None] < count) & (places[None, :] < inner)
        x = tl.load(x_at + inputs[:, None] * inner + places[None, :], mask=x_mask, other=0.0)
        row_mask = (outs[None, :] < outer) & (places[:, None] < inner)
        rows = tl.load(rows_at + outs[None, :].to(tl.int64) * inner + places[:, None], mask=row_mask, other=0)
        if WIDE:  # float32 keeps all its digits; cards would else round it to fewer for their matrix units
            total += tl.sum(x[:, :, None] * rows.to(tl.float32)[None, :, :], axis=1)
        else:
            total = tl.dot(x, rows.to(tl.float32).to(x.dtype), total)
    scale = tl.load(scale_at + outs, mask=outs < outer, other=0.0)
    out_mask = (inputs[:, None] < count) & (outs[None, :] < outer)
    out = (total * scale[None, :]).to(out_at.dtype.element_ty)
    tl.store(out_at + inputs[:, None] * outer + outs[None, :], out, mask=out_mask)


def int8_product(x: Tensor, rows: Tensor, scale: Tensor) -> Tensor:
    """See `kernels.int8_product`."""
    (count, inner), outer = x.shape, rows.shape[0]
    out = torch.empty(count, outer, device=x.device, dtype=x.dtype)
    wide = x.dtype == torch.float32
    block = 16 if wide or outer <= 8192 else 32  # small, so that a short output still keeps a card's processors busy
    _int8_product[(triton.cdiv(outer, block),)](
        x.contiguous(), rows, scale, out, count, outer, inner,
        COUNT=16 if count <= 16 else 32, OUTER=block, INNER=32 if wide else 128, WIDE=wide,
    )  # fmt: skip
    return out


@triton.jit
def _add_norm(x_at, more_at, weight_at, sum_at, out_at, size, eps, SIZE: tl.constexpr):
    """One row a program; rounded to the rows' dtype where the twin rounds."""
    places = tl.arange(0, SIZE)
    mask, at = places < size, tl.program_id(0) * size + places
    total = tl.load(x_at + at, mask=mask, other=0.0).to(tl.float32) + tl.load(more_at + at, mask=mask, other=0.0).to(
        tl.float32
    )
    total = total.to(sum_at.dtype.element_ty)
    tl.store(sum_at + at, total, mask=mask)
    wide = total.to(tl.float32)
    scale = 1 / tl.sqrt(tl.sum(wide * wide, axis=0) / size + eps)
    turned = (wide * scale).to(out_at.dtype.element_ty).to(tl.float32)
    weight = tl.load(weight_at + places, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_at + at, (turned * weight).to(out_at.dtype.element_ty), mask=mask)


def add_norm(x: Tensor, more: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `kernels.add_norm`."""
    size = x.shape[-1]
    x, more = x.contiguous(), more.contiguous()
    total, out = torch.empty_like(x), torch.empty_like(x)
    _add_norm[(x.numel() // size,)](
        x, more, weight, total, out, size, eps, SIZE=triton.next_power_of_2(size)
    )  # fmt: skip
    return total, out


@triton.jit
def _gated(both_at, out_at, size, BLOCK: tl.constexpr):
    """BLOCK values of one row: silu of the first half times the second."""
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask, start = places < size, tl.program_id(0).to(tl.int64) * 2 * size
    gate = tl.load(both_at + start + places, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(both_at + start + size + places, mask=mask, other=0.0).to(tl.float32)
    swished = (gate / (1 + tl.exp(-gate))).to(out_at.dtype.element_ty).to(tl.float32)
    at = out_at + tl.program_id(0).to(tl.int64) * size + places
    tl.store(at, (swished * up).to(out_at.dtype.element_ty), mask=mask)


def gated(both: Tensor) -> Tensor:
    """See `kernels.gated`."""
    both, size = both.contiguous(), both.shape[-1] // 2
    out = torch.empty(*both.shape[:-1], size, device=both.device, dtype=both.dtype)
    _gated[(out.numel() // size, triton.cdiv(size, 1024))](both, out, size, BLOCK=1024)
    return out
