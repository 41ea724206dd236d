"""The kernels behind `kernels.py`, in Triton. Imported only where Triton is there; each has its twin in that file."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from janus_app.nn.fast.kernels import Angles


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


def silu_mul(both: Tensor) -> Tensor:
    """See `kernels.gated`."""
    both, size = both.contiguous(), both.shape[-1] // 2
    out = torch.empty(*both.shape[:-1], size, device=both.device, dtype=both.dtype)
    _gated[(out.numel() // size, triton.cdiv(size, 1024))](both, out, size, BLOCK=1024)
    return out


@triton.jit
def _turned(
    heads_at, cos_at, sin_at, position_at, held_at, query_at, rows, groups, kv_heads, capacity, dim, step,
    DIM: tl.constexpr,
):  # fmt: skip
    """One head of one row: turned, and stored with the queries or in the cache. `step` leads to a row's angles."""
    row, group, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    places = tl.arange(0, DIM)
    mask, half = places < dim, dim // 2
    start = heads_at + ((row * groups + group) * kv_heads + head) * dim
    x = tl.load(start + places, mask=mask, other=0.0)
    other = tl.load(start + (places + half) % dim, mask=mask, other=0.0).to(tl.float32)
    angle = row * step + group * dim + places
    cos = tl.load(cos_at + angle, mask=mask, other=0.0).to(tl.float32)
    sin = tl.load(sin_at + angle, mask=mask, other=0.0).to(tl.float32)
    first = (x.to(tl.float32) * cos).to(query_at.dtype.element_ty).to(tl.float32)
    out = (first + other * sin).to(query_at.dtype.element_ty)
    asking = groups - 2
    if group < asking:
        tl.store(query_at + ((row * asking + group) * kv_heads + head) * dim + places, out, mask=mask)
    else:
        place = (((group - asking) * rows + row) * kv_heads + head).to(tl.int64) * capacity + tl.load(position_at)
        tl.store(held_at + place * dim + places, out, mask=mask)


def turned(heads: Tensor, angles: Angles, position: Tensor, held: Tensor) -> Tensor:
    """See `kernels.turned`."""
    rows, groups, kv_heads, dim = heads.shape
    heads, (cos, sin) = heads.contiguous(), (angle.contiguous() for angle in angles)
    query = torch.empty(rows, (groups - 2) * kv_heads, dim, device=heads.device, dtype=heads.dtype)
    _turned[(rows, groups, kv_heads)](
        heads, cos, sin, position, held, query, rows, groups, kv_heads, held.shape[3], dim,
        groups * dim if len(cos) > 1 else 0,
        DIM=triton.next_power_of_2(dim),
    )  # fmt: skip
    return query


@triton.jit
def _attend(
    query_at, held_at, position_at, mask_at, out_at, heads, kv_heads, capacity, dim, apart, step, scale,
    MASKED: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One query over the filled slots of its keys, BLOCK at a time, the softmax kept up to date (Dao et al. 2022).

    `apart` leads from the keys to the values, `step` to the next row of the mask.
    """
    row, head = tl.program_id(0), tl.program_id(1)
    places, slots = tl.arange(0, DIM), tl.arange(0, BLOCK)
    inside = places < dim
    query = tl.load(query_at + (row * heads + head) * dim + places, mask=inside, other=0.0).to(tl.float32) * scale
    keys = held_at + (row * kv_heads + head // (heads // kv_heads)).to(tl.int64) * capacity * dim
    values = keys + apart
    filled = tl.load(position_at) + 1
    most, total = tl.full((1,), -1e30, dtype=tl.float32), tl.zeros((1,), dtype=tl.float32)
    out = tl.zeros((DIM,), dtype=tl.float32)
    for start in range(0, filled, BLOCK):
        at = start + slots
        seen = at < filled
        if MASKED:
            seen = seen & (tl.load(mask_at + row * step + at, mask=seen, other=0) != 0)
        both = seen[:, None] & inside[None, :]
        key = tl.load(keys + at[:, None] * dim + places[None, :], mask=both, other=0.0).to(tl.float32)
        score = tl.where(seen, tl.sum(key * query[None, :], axis=1), -1e30)
        more = tl.maximum(most, tl.max(score, axis=0))
        weight = tl.where(seen, tl.exp(score - more), 0.0)
        value = tl.load(values + at[:, None] * dim + places[None, :], mask=both, other=0.0).to(tl.float32)
        fade = tl.exp(most - more)
        total = total * fade + tl.sum(weight, axis=0)
        out = out * fade + tl.sum(weight[:, None] * value, axis=0)
        most = more
    out = (out / total).to(out_at.dtype.element_ty)
    tl.store(out_at + (row * heads + head) * dim + places, out, mask=inside)


def attend(query: Tensor, held: Tensor, position: Tensor, mask: Tensor | None, span: int) -> Tensor:
    """See `kernels.attend`; the filled slots alone are read, whatever `span` is."""
    (rows, heads, dim), query = query.shape, query.contiguous()
    out = torch.empty(rows, heads * dim, device=query.device, dtype=query.dtype)
    seen = position if mask is None else mask.view(torch.uint8)
    step = 0 if mask is None or mask.shape[0] == 1 else mask.stride(0)
    _attend[(rows, heads)](
        query, held, position, seen, out, heads, held.shape[2], held.shape[3], dim,
        held[0].numel(), step, dim**-0.5, MASKED=mask is not None, DIM=triton.next_power_of_2(dim), BLOCK=32,
    )  # fmt: skip
    return out
