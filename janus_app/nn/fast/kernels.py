"""The small operations of a decode step: reference implementations, and Triton kernels where a GPU verified them.

Every kernel has a reference implementation in plain PyTorch, which runs wherever the kernel does not. The kernels are
compared with it by Triton's interpreter in the tests, and once on every GPU before they are used there: where Triton is
missing, the reference implementations run, and so does the reference of a kernel that fails or differs.
JANUS_APP_KERNELS=off switches all kernels off. Not measured on a GPU.

Shapes: a step has one new position for each of `rows` rows. `kv` [2, rows, kv_heads, capacity, head_dim] holds a
layer's keys and values; `position` [1] is the cache slot of the new position.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.errors import is_out_of_memory
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
    """The Triton kernels that were verified on this device in this dtype, and the reference of each other one."""
    if device.type != "cuda" or os.environ.get(ENV_SWITCH, "").lower() in ("off", "0", "no"):
        return REFERENCE
    try:
        with torch.cuda.device(device):  # Triton launches on the current card
            return verified_kernels(device, dtype)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return REFERENCE  # for now: the next call verifies again


@cache
def verified_kernels(device: torch.device, dtype: torch.dtype) -> Kernels:
    """REFERENCE with each Triton kernel that compiles and agrees with its reference implementation on `device`.

    Raises what says that memory ran out, which is no verdict.
    """
    try:
        from janus_app.nn.fast import triton_kernels as triton
    except Exception as error:  # no Triton
        logger.info("decode steps run without Triton's kernels: %s", error)
        return REFERENCE
    verified: dict[str, Any] = {}
    for name in CHECKS:
        kernel = getattr(triton, name)
        try:
            with torch.inference_mode():
                mismatch = find_mismatch(name, kernel, device, dtype)
        except Exception as error:  # no compiler for it, or a GPU that it does not support
            if is_out_of_memory(error):
                raise
            logger.info("decode steps run without Triton's kernel %s: %s", name, error)
            continue
        if mismatch is None:
            verified[name] = kernel
        else:
            logger.warning("decode steps run without Triton's kernel %s: %s is wrong on this device", name, mismatch)
    return replace(REFERENCE, **verified)


class _Inputs:
    """Random inputs of a check, the same on every device."""

    def __init__(self, device: torch.device, dtype: torch.dtype, width: int) -> None:
        self.source, self.device, self.dtype, self.width = torch.Generator().manual_seed(0), device, dtype, width

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.source).to(self.device, self.dtype)

    def heads_and_cache(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """(groups, heads, cos, sin, position, kv) of two head sizes."""
        for groups, dim in ((3, 64), (4, 48)):
            heads, (cos, sin) = self.random(3, groups, 2, dim), self.random(2, 3, groups, 1, dim)
            yield groups, heads, cos, sin, torch.tensor([70], device=self.device), self.random(2, 3, 2, 90, dim)


Pairs = Iterator[tuple[str, Tensor, Tensor]]  # (name of a result, the kernel's, the reference's)


def _check_int8_linear(kernel: Callable[..., Tensor], inputs: _Inputs) -> Pairs:
    weight = torch.randint(-127, 128, (90, inputs.width), generator=inputs.source, dtype=torch.int8).to(inputs.device)
    scale = torch.rand(90, generator=inputs.source).to(inputs.device) / 127
    for rows in (2, 16, MAX_DECODE_ROWS):
        x = inputs.random(rows, inputs.width)
        yield f"int8_linear of {rows} rows", kernel(x, weight, scale), int8_linear_reference(x, weight, scale)


def _check_add_rms_norm(kernel: Callable[..., tuple[Tensor, Tensor]], inputs: _Inputs) -> Pairs:
    x, residual, weight = inputs.random(3, inputs.width), inputs.random(3, inputs.width), inputs.random(inputs.width)
    total, normed = kernel(x, residual, weight, 1e-6)
    expected_total, expected = add_rms_norm_reference(x, residual, weight, 1e-6)
    yield "the sum of add_rms_norm", total, expected_total
    yield "add_rms_norm", normed, expected


def _check_silu_mul(kernel: Callable[[Tensor], Tensor], inputs: _Inputs) -> Pairs:
    gate_up = inputs.random(3, 2 * inputs.width)
    yield "silu_mul", kernel(gate_up), silu_mul_reference(gate_up)


def _check_apply_rope_and_cache(kernel: Callable[..., Tensor], inputs: _Inputs) -> Pairs:
    for groups, heads, cos, sin, position, kv in inputs.heads_and_cache():
        expected_kv = kv.clone()
        query = kernel(heads, cos, sin, position, kv)
        expected = apply_rope_and_cache_reference(heads, cos, sin, position, expected_kv)
        yield f"apply_rope_and_cache of {groups} groups", query, expected
        yield f"the cache after apply_rope_and_cache of {groups} groups", kv, expected_kv


def _check_attend(kernel: Callable[..., Tensor], inputs: _Inputs) -> Pairs:
    for groups, heads, cos, sin, position, kv in inputs.heads_and_cache():
        query = apply_rope_and_cache_reference(heads, cos, sin, position, kv)
        visible = (torch.arange(80, device=inputs.device) <= 70).repeat(3, 1)
        visible[1, :33] = False  # a row with so much padding
        for mask, span in ((None, 71), (visible[:, None, None], 80)):
            given = query, kv, position, mask, span
            yield f"attend of {groups} groups to {span} slots", kernel(*given), attend_reference(*given)


CHECKS: dict[str, Callable[[Any, _Inputs], Pairs]] = {
    "int8_linear": _check_int8_linear,
    "add_rms_norm": _check_add_rms_norm,
    "silu_mul": _check_silu_mul,
    "apply_rope_and_cache": _check_apply_rope_and_cache,
    "attend": _check_attend,
}


def find_mismatch(
    name: str, kernel: Callable[..., Any], device: torch.device, dtype: torch.dtype, width: int = 1000
) -> str | None:
    """The first result of a kernel, by the name of its field, that differs from the reference by more than rounding.

    The kernel is given random inputs with rows of `width` numbers, or of two head sizes. None where nothing differs.
    """
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for result, one, other in CHECKS[name](kernel, _Inputs(device, dtype, width)):
        close = (one.float() - other.float()).norm() <= tolerance * other.float().norm()
        if not bool(close):  # also where the norm is NaN
            return result
    return None


def bitsandbytes_int8(linear: nn.Module) -> tuple[Tensor, Tensor] | None:
    """The int8 weight [out, in] and float32 scale [out] of a bitsandbytes linear without bias; None for others."""
    if type(linear).__name__ != "Linear8bitLt" or linear.bias is not None:
        return None
    weight: Any = linear.weight
    state: Any = linear.state  # the library moves the scales there at the first product
    scale = weight.SCB if state.SCB is None else state.SCB
    return (weight.data, scale.float() / 127) if weight.dtype == torch.int8 and scale is not None else None
