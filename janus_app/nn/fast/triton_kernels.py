"""The Triton kernels of a decode step. Imported only where Triton is installed.

`kernels.py` has a reference implementation of each under the same name, with the shapes; it verifies the kernels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _linear(
    x_ptr, weight_ptr, scale_ptr, norm_ptr, residual_ptr, out_ptr, rows, out_size, in_size, eps,
    INT8: tl.constexpr, NORMED: tl.constexpr, GATED: tl.constexpr, ADDED: tl.constexpr,
    ROWS: tl.constexpr, OUT_BLOCK: tl.constexpr, IN_BLOCK: tl.constexpr,
):  # fmt: skip
    """OUT_BLOCK outputs of all rows; the weights are read once, and int8 is converted in registers.

    The norm of a row is one factor, applied after the sum. A 16th of the products keeps within float16's range.
    """
    row, out_index = tl.arange(0, ROWS), tl.program_id(0) * OUT_BLOCK + tl.arange(0, OUT_BLOCK)
    in_rows, in_out = row[:, None] < rows, out_index[None, :] < out_size
    weights = weight_ptr + out_index[None, :].to(tl.int64) * in_size
    up_weights = weights + tl.cast(out_size, tl.int64) * in_size
    total = tl.zeros((ROWS, OUT_BLOCK), dtype=tl.float32)
    up = tl.zeros((ROWS, OUT_BLOCK), dtype=tl.float32)
    squares = tl.zeros((ROWS, IN_BLOCK), dtype=tl.float32)
    for start in range(0, in_size, IN_BLOCK):
        in_index = start + tl.arange(0, IN_BLOCK)
        weight_mask = in_out & (in_index[:, None] < in_size)
        x_mask = in_rows & (in_index[None, :] < in_size)
        x = tl.load(x_ptr + row[:, None] * in_size + in_index[None, :], mask=x_mask, other=0.0)
        if NORMED:
            wide = x.to(tl.float32)
            squares += wide * wide
            norm = tl.load(norm_ptr + in_index, mask=in_index < in_size, other=0.0).to(tl.float32)
            x = (wide * (norm * 0.0625)[None, :]).to(x_ptr.dtype.element_ty)
        weight = tl.load(weights + in_index[:, None], mask=weight_mask, other=0)
        if INT8:
            weight = weight.to(tl.float32)
        # "ieee": float32 is not rounded to TF32
        total = tl.dot(x, weight.to(x_ptr.dtype.element_ty), total, input_precision="ieee")
        if GATED:
            up_weight = tl.load(up_weights + in_index[:, None], mask=weight_mask, other=0)
            if INT8:
                up_weight = up_weight.to(tl.float32)
            up = tl.dot(x, up_weight.to(x_ptr.dtype.element_ty), up, input_precision="ieee")
    if NORMED:
        factor = (16 / tl.sqrt(tl.sum(squares, axis=1) / in_size + eps))[:, None]
        total, up = total * factor, up * factor
    if INT8:
        total *= tl.load(scale_ptr + out_index, mask=out_index < out_size, other=0.0)[None, :]
        if GATED:
            up *= tl.load(scale_ptr + out_size + out_index, mask=out_index < out_size, other=0.0)[None, :]
    if GATED:
        total = total / (1 + tl.exp(-total)) * up
    offset = row[:, None] * out_size + out_index[None, :]
    if ADDED:
        total += tl.load(residual_ptr + offset, mask=in_rows & in_out, other=0.0).to(tl.float32)
    tl.store(out_ptr + offset, total.to(out_ptr.dtype.element_ty), mask=in_rows & in_out)


def linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None = None,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """See `kernels.linear_reference`."""
    (rows, in_size), out_size = x.shape, weight.shape[0] // (2 if gated else 1)
    x, out = x.contiguous(), torch.empty(rows, out_size, device=x.device, dtype=x.dtype)
    wide = x.dtype == torch.float32
    block = 16 if wide or gated or out_size <= 8192 else 32  # small, so that a short output still occupies a whole GPU
    _linear[(triton.cdiv(out_size, block),)](
        x, weight, x if scale is None else scale, x if norm is None else norm,
        x if residual is None else residual.contiguous(), out, rows, out_size, in_size, eps,
        INT8=scale is not None, NORMED=norm is not None, GATED=gated, ADDED=residual is not None,
        ROWS=16 if rows <= 16 else 32, OUT_BLOCK=block, IN_BLOCK=32 if wide else 128,
    )  # fmt: skip
    return out


int8_linear = linear  # verified by itself


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
def _rotate(start, cos, sin, index, dim, DIM: tl.constexpr):
    """One head [DIM] rotated by its angles, rounded where the reference rounds; float32."""
    mask = index < dim
    x = tl.load(start + index, mask=mask, other=0.0)
    rolled = tl.load(start + (index + dim // 2) % dim, mask=mask, other=0.0).to(tl.float32)
    first = (x.to(tl.float32) * cos).to(x.dtype).to(tl.float32)
    return (first + rolled * sin).to(x.dtype).to(tl.float32)


@triton.jit
def _attend(
    heads_ptr, cos_ptr, sin_ptr, position_ptr, mask_ptr, kv_ptr, out_ptr, sums_ptr, heads, kv_heads, capacity, dim,
    angle_stride, value_offset, mask_stride, scale,
    MASKED: tl.constexpr, SPLITS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One query over one part of the filled slots, BLOCK at a time, with an online softmax (Dao et al. 2022).

    Every part has as many slots, except the last ones; the first part also has the new slot, which it stores. With
    several parts, a part's weighted values, its largest score and its sum of weights are left to `_merge`.
    """
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    index, slots = tl.arange(0, DIM), tl.arange(0, BLOCK)
    in_head = index < dim
    angle = row * angle_stride + index
    cos = tl.load(cos_ptr + angle, mask=in_head, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + angle, mask=in_head, other=0.0).to(tl.float32)
    start_of_row = heads_ptr + row * (heads + 2 * kv_heads) * dim
    query = _rotate(start_of_row + head * dim, cos, sin, index, dim, DIM) * scale
    group = heads // kv_heads
    kv_head = head // group
    keys = kv_ptr + (row * kv_heads + kv_head).to(tl.int64) * capacity * dim
    values = keys + value_offset
    position = tl.load(position_ptr).to(tl.int32)
    maximum, total = tl.full((), -1e30, dtype=tl.float32), tl.full((), 0.0, dtype=tl.float32)
    out = tl.zeros((DIM,), dtype=tl.float32)
    if split == 0:
        new_key = _rotate(start_of_row + (heads + kv_head) * dim, cos, sin, index, dim, DIM)
        new_value = tl.load(start_of_row + (heads + kv_heads + kv_head) * dim + index, mask=in_head, other=0.0)
        if head % group == 0:
            new_slot = position.to(tl.int64) * dim + index
            tl.store(keys + new_slot, new_key.to(new_value.dtype), mask=in_head)
            tl.store(values + new_slot, new_value, mask=in_head)
        maximum, total = tl.sum(new_key * query, axis=0), tl.full((), 1.0, dtype=tl.float32)
        out = new_value.to(tl.float32)
    length = tl.cdiv(tl.cdiv(position, SPLITS), BLOCK) * BLOCK
    end = tl.minimum((split + 1) * length, position)
    for start in range(split * length, end, BLOCK):
        slot = start + slots
        visible = slot < end
        if MASKED:
            visible = visible & (tl.load(mask_ptr + row * mask_stride + slot, mask=visible, other=0) != 0)
        offset, load = slot[:, None] * dim + index[None, :], visible[:, None] & in_head[None, :]
        key = tl.load(keys + offset, mask=load, other=0.0).to(tl.float32)
        value = tl.load(values + offset, mask=load, other=0.0).to(tl.float32)
        score = tl.where(visible, tl.sum(key * query[None, :], axis=1), -1e30)
        new_maximum = tl.maximum(maximum, tl.max(score, axis=0))
        weight = tl.where(visible, tl.exp(score - new_maximum), 0.0)
        rescale = tl.exp(maximum - new_maximum)
        total = total * rescale + tl.sum(weight, axis=0)
        out = out * rescale + tl.sum(weight[:, None] * value, axis=0)
        maximum = new_maximum
    part = (row * heads + head) * SPLITS + split
    if SPLITS == 1:
        out = out / total
    else:
        tl.store(sums_ptr + 2 * part, maximum)
        tl.store(sums_ptr + 2 * part + 1, total)
    tl.store(out_ptr + part * dim + index, out.to(out_ptr.dtype.element_ty), mask=in_head)


@triton.jit
def _merge(parts_ptr, sums_ptr, out_ptr, dim, SPLITS: tl.constexpr, DIM: tl.constexpr):
    """The attention of one head from its parts; a part without a visible slot has the weight 0."""
    head, split, index = tl.program_id(0), tl.arange(0, SPLITS), tl.arange(0, DIM)
    in_head, part = index < dim, tl.program_id(0) * SPLITS + split
    maximum, total = tl.load(sums_ptr + 2 * part), tl.load(sums_ptr + 2 * part + 1)
    weight = tl.exp(maximum - tl.max(maximum, axis=0))
    parts = tl.load(parts_ptr + part[:, None] * dim + index[None, :], mask=in_head[None, :], other=0.0)
    out = tl.sum(parts * weight[:, None], axis=0) / tl.sum(total * weight, axis=0)
    tl.store(out_ptr + head * dim + index, out.to(out_ptr.dtype.element_ty), mask=in_head)


def attend(
    heads: Tensor,
    cos: Tensor,
    sin: Tensor,
    position: Tensor,
    kv: Tensor,
    mask: Tensor | None,
    span: int,
    splits: int = 1,
) -> Tensor:
    """See `kernels.attend_reference`; only the filled slots are read, whatever `span` is, in `splits` parts.

    `splits` is a power of two. Parts are merged by a second launch.
    """
    (rows, groups, kv_heads, dim), capacity = heads.shape, kv.shape[3]
    count = (groups - 2) * kv_heads
    mask_bytes = position if mask is None else mask.view(torch.uint8)
    out = torch.empty(rows, count * dim, device=heads.device, dtype=heads.dtype)
    sums = torch.empty(rows * count * splits * 2, device=heads.device)
    parts = out if splits == 1 else torch.empty(rows * count * splits * dim, device=heads.device)
    size = triton.next_power_of_2(dim)
    _attend[(rows, count, splits)](
        heads.contiguous(), cos.contiguous(), sin.contiguous(), position, mask_bytes, kv, parts, sums,
        count, kv_heads, capacity, dim, groups * dim if len(cos) > 1 else 0, kv[0].numel(),
        0 if mask is None or mask.shape[0] == 1 else mask.stride(0), dim**-0.5,
        MASKED=mask is not None, SPLITS=splits, DIM=size, BLOCK=32,
    )  # fmt: skip
    if splits > 1:
        _merge[(rows * count,)](parts, sums, out, dim, SPLITS=splits, DIM=size)
    return out
