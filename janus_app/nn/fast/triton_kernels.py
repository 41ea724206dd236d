"""The Triton kernels of a decode step. Imported only where Triton is installed.

`kernels.py` has a reference implementation of each under the same name, with the shapes; it verifies the kernels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _int8_linear(
    x_ptr, weight_ptr, scale_ptr, out_ptr, rows, out_size, in_size,
    ROWS: tl.constexpr, OUT_BLOCK: tl.constexpr, IN_BLOCK: tl.constexpr,
):  # fmt: skip
    """OUT_BLOCK outputs of all rows: int8 weights are read once, converted in registers, and scaled after the sum."""
    row, out_index = tl.arange(0, ROWS), tl.program_id(0) * OUT_BLOCK + tl.arange(0, OUT_BLOCK)
    total = tl.zeros((ROWS, OUT_BLOCK), dtype=tl.float32)
    for start in range(0, in_size, IN_BLOCK):
        in_index = start + tl.arange(0, IN_BLOCK)
        x_mask = (row[:, None] < rows) & (in_index[None, :] < in_size)
        x = tl.load(x_ptr + row[:, None] * in_size + in_index[None, :], mask=x_mask, other=0.0)
        weight_mask = (out_index[None, :] < out_size) & (in_index[:, None] < in_size)
        weight_offset = out_index[None, :].to(tl.int64) * in_size + in_index[:, None]
        weight = tl.load(weight_ptr + weight_offset, mask=weight_mask, other=0)
        # "ieee": float32 is not rounded to TF32
        total = tl.dot(x, weight.to(tl.float32).to(x.dtype), total, input_precision="ieee")
    scale = tl.load(scale_ptr + out_index, mask=out_index < out_size, other=0.0)
    out_mask = (row[:, None] < rows) & (out_index[None, :] < out_size)
    out = (total * scale[None, :]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row[:, None] * out_size + out_index[None, :], out, mask=out_mask)


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """See `kernels.int8_linear_reference`."""
    (rows, in_size), out_size = x.shape, weight.shape[0]
    out = torch.empty(rows, out_size, device=x.device, dtype=x.dtype)
    float32 = x.dtype == torch.float32
    block = 16 if float32 or out_size <= 8192 else 32  # small, so that a short output still occupies a whole GPU
    _int8_linear[(triton.cdiv(out_size, block),)](
        x.contiguous(), weight, scale, out, rows, out_size, in_size,
        ROWS=16 if rows <= 16 else 32, OUT_BLOCK=block, IN_BLOCK=32 if float32 else 128,
    )  # fmt: skip
    return out


@triton.jit
def _add_rms_norm(x_ptr, residual_ptr, weight_ptr, sum_ptr, out_ptr, size, eps, SIZE: tl.constexpr):
    """One row a program; rounded to the rows' dtype where the reference rounds."""
    index = tl.arange(0, SIZE)
    mask, offset = index < size, tl.program_id(0) * size + index
    x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    total = x + tl.load(residual_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    total = total.to(sum_ptr.dtype.element_ty)
    tl.store(sum_ptr + offset, total, mask=mask)
    wide = total.to(tl.float32)
    scale = 1 / tl.sqrt(tl.sum(wide * wide, axis=0) / size + eps)
    normed = (wide * scale).to(out_ptr.dtype.element_ty).to(tl.float32)
    weight = tl.load(weight_ptr + index, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + offset, (normed * weight).to(out_ptr.dtype.element_ty), mask=mask)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `kernels.add_rms_norm_reference`."""
    size = x.shape[-1]
    x, residual = x.contiguous(), residual.contiguous()
    total, out = torch.empty_like(x), torch.empty_like(x)
    _add_rms_norm[(x.numel() // size,)](
        x, residual, weight, total, out, size, eps, SIZE=triton.next_power_of_2(size)
    )  # fmt: skip
    return total, out


@triton.jit
def _silu_mul(gate_up_ptr, out_ptr, size, BLOCK: tl.constexpr):
    """BLOCK values of one row: SiLU of the first half times the second."""
    index = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask, start = index < size, tl.program_id(0).to(tl.int64) * 2 * size
    gate = tl.load(gate_up_ptr + start + index, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + start + size + index, mask=mask, other=0.0).to(tl.float32)
    activated = (gate / (1 + tl.exp(-gate))).to(out_ptr.dtype.element_ty).to(tl.float32)
    offset = tl.program_id(0).to(tl.int64) * size + index
    tl.store(out_ptr + offset, (activated * up).to(out_ptr.dtype.element_ty), mask=mask)


def silu_mul(gate_up: Tensor) -> Tensor:
    """See `kernels.silu_mul_reference`."""
    gate_up, size = gate_up.contiguous(), gate_up.shape[-1] // 2
    out = torch.empty(*gate_up.shape[:-1], size, device=gate_up.device, dtype=gate_up.dtype)
    _silu_mul[(out.numel() // size, triton.cdiv(size, 1024))](gate_up, out, size, BLOCK=1024)
    return out


@triton.jit
def _apply_rope_and_cache(
    heads_ptr, cos_ptr, sin_ptr, position_ptr, kv_ptr, query_ptr, rows, groups, kv_heads, capacity, dim, angle_stride,
    DIM: tl.constexpr,
):  # fmt: skip
    """One head of one row: rotated, and stored with the queries or in the cache."""
    row, group, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    index = tl.arange(0, DIM)
    mask, half = index < dim, dim // 2
    start = heads_ptr + ((row * groups + group) * kv_heads + head) * dim
    x = tl.load(start + index, mask=mask, other=0.0)
    rolled = tl.load(start + (index + half) % dim, mask=mask, other=0.0).to(tl.float32)
    angle = row * angle_stride + group * dim + index
    cos = tl.load(cos_ptr + angle, mask=mask, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + angle, mask=mask, other=0.0).to(tl.float32)
    first = (x.to(tl.float32) * cos).to(query_ptr.dtype.element_ty).to(tl.float32)
    out = (first + rolled * sin).to(query_ptr.dtype.element_ty)
    query_groups = groups - 2
    if group < query_groups:
        tl.store(query_ptr + ((row * query_groups + group) * kv_heads + head) * dim + index, out, mask=mask)
    else:
        kv_row = (((group - query_groups) * rows + row) * kv_heads + head).to(tl.int64)
        tl.store(kv_ptr + (kv_row * capacity + tl.load(position_ptr)) * dim + index, out, mask=mask)


def apply_rope_and_cache(heads: Tensor, cos: Tensor, sin: Tensor, position: Tensor, kv: Tensor) -> Tensor:
    """See `kernels.apply_rope_and_cache_reference`."""
    rows, groups, kv_heads, dim = heads.shape
    query = torch.empty(rows, (groups - 2) * kv_heads, dim, device=heads.device, dtype=heads.dtype)
    _apply_rope_and_cache[(rows, groups, kv_heads)](
        heads.contiguous(), cos.contiguous(), sin.contiguous(), position, kv, query,
        rows, groups, kv_heads, kv.shape[3], dim, groups * dim if len(cos) > 1 else 0,
        DIM=triton.next_power_of_2(dim),
    )  # fmt: skip
    return query


@triton.jit
def _attend(
    query_ptr, kv_ptr, position_ptr, mask_ptr, out_ptr, heads, kv_heads, capacity, dim, value_offset, mask_stride,
    scale, MASKED: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One query over the filled slots of its keys, BLOCK at a time, with an online softmax (Dao et al. 2022)."""
    row, head = tl.program_id(0), tl.program_id(1)
    index, slots = tl.arange(0, DIM), tl.arange(0, BLOCK)
    in_head = index < dim
    query = tl.load(query_ptr + (row * heads + head) * dim + index, mask=in_head, other=0.0).to(tl.float32) * scale
    keys = kv_ptr + (row * kv_heads + head // (heads // kv_heads)).to(tl.int64) * capacity * dim
    values = keys + value_offset
    filled = tl.load(position_ptr) + 1
    maximum, total = tl.full((1,), -1e30, dtype=tl.float32), tl.zeros((1,), dtype=tl.float32)
    out = tl.zeros((DIM,), dtype=tl.float32)
    for start in range(0, filled, BLOCK):
        slot = start + slots
        visible = slot < filled
        if MASKED:
            visible = visible & (tl.load(mask_ptr + row * mask_stride + slot, mask=visible, other=0) != 0)
        load = visible[:, None] & in_head[None, :]
        key = tl.load(keys + slot[:, None] * dim + index[None, :], mask=load, other=0.0).to(tl.float32)
        score = tl.where(visible, tl.sum(key * query[None, :], axis=1), -1e30)
        new_maximum = tl.maximum(maximum, tl.max(score, axis=0))
        weight = tl.where(visible, tl.exp(score - new_maximum), 0.0)
        value = tl.load(values + slot[:, None] * dim + index[None, :], mask=load, other=0.0).to(tl.float32)
        rescale = tl.exp(maximum - new_maximum)
        total = total * rescale + tl.sum(weight, axis=0)
        out = out * rescale + tl.sum(weight[:, None] * value, axis=0)
        maximum = new_maximum
    out = (out / total).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + (row * heads + head) * dim + index, out, mask=in_head)


def attend(query: Tensor, kv: Tensor, position: Tensor, mask: Tensor | None, span: int) -> Tensor:
    """See `kernels.attend_reference`; only the filled slots are read, whatever `span` is."""
    (rows, heads, dim), query = query.shape, query.contiguous()
    out = torch.empty(rows, heads * dim, device=query.device, dtype=query.dtype)
    mask_bytes = position if mask is None else mask.view(torch.uint8)
    mask_stride = 0 if mask is None or mask.shape[0] == 1 else mask.stride(0)
    _attend[(rows, heads)](
        query, kv, position, mask_bytes, out, heads, kv.shape[2], kv.shape[3], dim, kv[0].numel(), mask_stride,
        dim**-0.5, MASKED=mask is not None, DIM=triton.next_power_of_2(dim), BLOCK=32,
    )  # fmt: skip
    return out
