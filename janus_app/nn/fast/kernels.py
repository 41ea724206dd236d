"""The small operations of a decode step: reference implementations, and Triton kernels where a GPU verified them.

Every kernel has a reference implementation in plain PyTorch, which runs wherever the kernel does not. The kernels are
compared with it by Triton's interpreter in the tests, and once on every GPU before they are used there: where Triton is
missing, or a kernel fails or differs, the reference implementations run. JANUS_APP_KERNELS=off switches all kernels
off. Not measured on a GPU.

Shapes: a step has one new position for each of `rows` rows. `kv` [2, rows, kv_heads, capacity, head_dim] holds a
layer's keys and values; `position` [1] is the cache slot of the new position.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.nn.fast.linear import MAX_DECODE_ROWS
from janus_app.nn.llama import rms_norm

ENV_SWITCH = "JANUS_APP_KERNELS"
logger = logging.getLogger(__name__)


def int8_linear_reference(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """(x @ weight.T) * scale for x [n, in], int8 weight [out, in] and float32 scale [out]; sums in float32."""
    return (F.linear(x.float(), weight.float()) * scale).to(x.dtype)


def add_rms_norm_reference(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + residual, and its RMSNorm; all [rows, hidden]."""
    total = x + residual
    return total, rms_norm(total, weight, eps)


def silu_mul_reference(gate_up: Tensor) -> Tensor:
    """silu(gate) * up for gate and up side by side, [..., 2 n] to [..., n]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def apply_rope_and_cache_reference(heads: Tensor, cos: Tensor, sin: Tensor, position: Tensor, kv: Tensor) -> Tensor:
    """Rotate queries and keys by their rotary angles, and write keys and values to the cache at `position`.

    heads [rows, groups, kv_heads, head_dim] are groups of queries, then one of keys, then one of values; cos and sin
    are [rows or 1, groups, 1, head_dim], signed as `llama.rotary_table` makes them. Returns the queries
    [rows, heads, head_dim].
    """
    heads = (heads * cos).addcmul_(heads.roll(heads.shape[-1] // 2, -1), sin)
    kv.index_copy_(3, position, heads[:, -2:].transpose(0, 1).unsqueeze(3).to(kv.dtype))
    return heads[:, :-2].reshape(len(heads), -1, heads.shape[-1])


def attend_reference(query: Tensor, kv: Tensor, position: Tensor, mask: Tensor | None, span: int) -> Tensor:
    """Attention of the queries [rows, heads, head_dim] over the first `span` slots of kv, [rows, heads * head_dim].

    mask [rows or 1, 1, 1, span] is True where a slot may be attended to. It is needed where `span` goes beyond
    `position`; the kernels stop there by themselves.
    """
    keys, values = kv[:, :, :, :span]
    grouped = query.shape[1] != keys.shape[1]
    out = F.scaled_dot_product_attention(query.unsqueeze(2).to(kv.dtype), keys, values, mask, enable_gqa=grouped)
    return out.reshape(len(query), -1).to(query.dtype)


@dataclass(frozen=True)
class Kernels:
    """The functions that a step calls.

    `int8_linear` is None where int8 linears multiply in their own way, `add_rms_norm` where the linear before it may
    add the residual by itself.
    """

    int8_linear: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]] | None = add_rms_norm_reference
    silu_mul: Callable[[Tensor], Tensor] = silu_mul_reference
    apply_rope_and_cache: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor] = apply_rope_and_cache_reference
    attend: Callable[[Tensor, Tensor, Tensor, Tensor | None, int], Tensor] = attend_reference


REFERENCE = Kernels(add_rms_norm=None)


def kernels_for(device: torch.device, dtype: torch.dtype) -> Kernels:
    """The Triton kernels where they were verified on this device in this dtype, else REFERENCE."""
    if device.type != "cuda" or os.environ.get(ENV_SWITCH, "").lower() in ("off", "0", "no"):
        return REFERENCE
    return verified_kernels(device, dtype)


@cache
def verified_kernels(device: torch.device, dtype: torch.dtype) -> Kernels:
    """The Triton kernels if they compile and agree with the reference implementations on `device`, else REFERENCE."""
    try:
        from janus_app.nn.fast import triton_kernels as triton

        kernels = Kernels(
            triton.int8_linear, triton.add_rms_norm, triton.silu_mul, triton.apply_rope_and_cache, triton.attend
        )
        with torch.inference_mode():
            mismatch = find_mismatch(kernels, device, dtype)
    except Exception as error:  # no Triton, no compiler for it, or a GPU that it does not support
        logger.info("decode steps run without Triton's kernels: %s", error)
        return REFERENCE
    if mismatch is not None:
        logger.warning("decode steps run without Triton's kernels: %s is wrong on this device", mismatch)
        return REFERENCE
    return kernels


def find_mismatch(kernels: Kernels, device: torch.device, dtype: torch.dtype, width: int = 1000) -> str | None:
    """The name of the first result that differs from the reference by more than rounding, or None.

    Each kernel is given random inputs with rows of `width` numbers, or of two head sizes.
    """
    source = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source).to(device, dtype)

    weight = torch.randint(-127, 128, (90, width), generator=source, dtype=torch.int8).to(device)
    scale = torch.rand(90, generator=source).to(device) / 127
    assert kernels.int8_linear is not None and kernels.add_rms_norm is not None
    results: dict[str, tuple[Any, Any]] = {}  # name -> (the kernel's, the reference's)
    for rows in (2, 16, MAX_DECODE_ROWS):
        x = random(rows, width)
        both = kernels.int8_linear(x, weight, scale), int8_linear_reference(x, weight, scale)
        results[f"int8_linear of {rows} rows"] = both
    x, residual, norm_weight = random(3, width), random(3, width), random(width)
    result = kernels.add_rms_norm(x, residual, norm_weight, 1e-6)
    expected = add_rms_norm_reference(x, residual, norm_weight, 1e-6)
    results |= {"the sum of add_rms_norm": (result[0], expected[0]), "add_rms_norm": (result[1], expected[1])}
    gate_up = random(3, 2 * width)
    results["silu_mul"] = kernels.silu_mul(gate_up), silu_mul_reference(gate_up)
    for groups, dim in ((3, 64), (4, 48)):
        heads, (cos, sin), kv = random(3, groups, 2, dim), random(2, 3, groups, 1, dim), random(2, 3, 2, 90, dim)
        position, kv_reference = torch.tensor([70], device=device), kv.clone()
        query = kernels.apply_rope_and_cache(heads, cos, sin, position, kv)
        query_reference = apply_rope_and_cache_reference(heads, cos, sin, position, kv_reference)
        results[f"apply_rope_and_cache of {groups} groups"] = query, query_reference
        results[f"the cache after apply_rope_and_cache of {groups} groups"] = kv, kv_reference
        visible = (torch.arange(80, device=device) <= 70).repeat(3, 1)
        visible[1, :33] = False  # a row with so much padding
        for mask, span in ((None, 71), (visible[:, None, None], 80)):
            inputs = query_reference, kv_reference, position, mask, span
            results[f"attend of {groups} groups to {span} slots"] = kernels.attend(*inputs), attend_reference(*inputs)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for name, (one, other) in results.items():
        close = (one.float() - other.float()).norm() <= tolerance * other.float().norm()
        if not bool(close):  # also where the norm is NaN
            return name
    return None


def bitsandbytes_int8(linear: nn.Module) -> tuple[Tensor, Tensor] | None:
    """The int8 weight [out, in] and float32 scale [out] of a bitsandbytes linear without bias; None for others."""
    if type(linear).__name__ != "Linear8bitLt" or linear.bias is not None:
        return None
    weight: Any = linear.weight
    state: Any = linear.state  # the library moves the scales there at the first product
    scale = weight.SCB if state.SCB is None else state.SCB
    return (weight.data, scale.float() / 127) if weight.dtype == torch.int8 and scale is not None else None
