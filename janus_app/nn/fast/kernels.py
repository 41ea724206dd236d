"""Small products and norms of a decode step as single kernels, where a card and Triton are there.

Each kernel has a plain twin, which is what runs everywhere else and what the kernel is compared to: in the tests by
Triton's interpreter on a CPU, and once on every card before it is used there. Where Triton is absent, a kernel fails or
differs, the twins run. JANUS_APP_KERNELS=off switches all of them off. Not measured on a GPU.
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

from janus_app.nn.llama import rms_norm

Angles = tuple[Tensor, ...]  # cos and sin, for each head of a row
FEW = 32  # inputs up to which the product reads int8 rows as they are
SWITCH = "JANUS_APP_KERNELS"
logger = logging.getLogger(__name__)


def int8_product(x: Tensor, rows: Tensor, scale: Tensor) -> Tensor:
    """(x @ rows.T) * scale for x [n, in], int8 rows [out, in] and float32 scales [out]; sums in float32."""
    return (F.linear(x.float(), rows.float()) * scale).to(x.dtype)


def add_norm(x: Tensor, more: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + more, and its RMSNorm; all [rows, hidden]."""
    total = x + more
    return total, rms_norm(total, weight, eps)


def silu_mul(both: Tensor) -> Tensor:
    """silu(gate) * up for both side by side, [..., 2 n] to [..., n]."""
    gate, up = both.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def turned(heads: Tensor, angles: Angles, position: Tensor, held: Tensor) -> Tensor:
    """Turn queries and keys by their angles, and write keys and values to their place.

    heads [rows, groups, kv_heads, head_dim] are groups of queries, then keys, then values; angles are cos and sin for
    each, [rows or 1, groups, 1, head_dim]; held [2, rows, kv_heads, capacity, head_dim] takes keys and values at
    `position` [1]. Returns the queries [rows, heads, head_dim].
    """
    cos, sin = angles
    heads = (heads * cos).addcmul_(heads.roll(heads.shape[-1] // 2, -1), sin)
    held.index_copy_(3, position, heads[:, -2:].transpose(0, 1).unsqueeze(3).to(held.dtype))
    return heads[:, :-2].reshape(len(heads), -1, heads.shape[-1])


def attend(query: Tensor, held: Tensor, position: Tensor, mask: Tensor | None, span: int) -> Tensor:
    """What the queries [rows, heads, head_dim] find in `held` up to `position`, [rows, heads * head_dim].

    `span` slots are looked at; where these are more than are filled, mask [rows or 1, 1, 1, span] says which are seen.
    """
    keys, values = held[:, :, :, :span]
    grouped = query.shape[1] != keys.shape[1]
    out = F.scaled_dot_product_attention(query.unsqueeze(2).to(held.dtype), keys, values, mask, enable_gqa=grouped)
    return out.reshape(len(query), -1).to(query.dtype)


@dataclass(frozen=True)
class Kernels:
    """What a step calls. `int8_product` is None where int8 linears are to multiply in their own way, `add_norm` where
    a product may add to what it is joined with."""

    int8_product: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    add_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]] | None = add_norm
    silu_mul: Callable[[Tensor], Tensor] = silu_mul
    turned: Callable[[Tensor, Angles, Tensor, Tensor], Tensor] = turned
    attend: Callable[[Tensor, Tensor, Tensor, Tensor | None, int], Tensor] = attend


PLAIN = Kernels(add_norm=None)


def kernels_for(device: torch.device, dtype: torch.dtype) -> Kernels:
    """The kernels that were seen to agree with their twins on this device, in this dtype; the twins elsewhere."""
    if device.type != "cuda" or os.environ.get(SWITCH, "").lower() in ("off", "0", "no"):
        return PLAIN
    return _checked(device, dtype)


@cache
def _checked(device: torch.device, dtype: torch.dtype) -> Kernels:
    try:
        from janus_app.nn.fast import triton_kernels as triton

        found = Kernels(triton.int8_product, triton.add_norm, triton.silu_mul, triton.turned, triton.attend)
        with torch.inference_mode():
            apart = disagreement(found, device, dtype)
    except Exception as error:  # no Triton, no compiler for it, a card it does not know: the twins are always there
        logger.info("decode steps run without Triton's kernels: %s", error)
        return PLAIN
    if apart is not None:
        logger.warning("decode steps run without Triton's kernels: %s differs from its twin on this device", apart)
        return PLAIN
    return found


def disagreement(found: Kernels, device: torch.device, dtype: torch.dtype, width: int = 1000) -> str | None:
    """The first kernel that is further from its twin than rounding, for a few inputs of `width` numbers; or None."""
    source = torch.Generator().manual_seed(0)

    def made(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source).to(device, dtype)

    rows = torch.randint(-127, 128, (90, width), generator=source, dtype=torch.int8).to(device)
    scale = torch.rand(90, generator=source).to(device) / 127
    assert found.int8_product is not None
    trials: dict[str, tuple[Any, Any]] = {}
    for count in (2, 16, FEW):
        x = made(count, width)
        trials[f"int8_product of {count}"] = found.int8_product(x, rows, scale), int8_product(x, rows, scale)
    one, more, weight = made(3, width), made(3, width), made(width)
    assert found.add_norm is not None
    sums, twins = found.add_norm(one, more, weight, 1e-6), add_norm(one, more, weight, 1e-6)
    trials |= {"the sum of add_norm": (sums[0], twins[0]), "add_norm": (sums[1], twins[1])}
    both = made(3, 2 * width)
    trials["gated"] = found.silu_mul(both), silu_mul(both)
    for groups, dim in ((3, 64), (4, 48)):
        heads, angles, position = made(3, groups, 2, dim), made(2, 3, groups, 1, dim), torch.tensor([70], device=device)
        mine = made(2, 3, 2, 90, dim)
        twin = mine.clone()
        query = found.turned(heads, angles.unbind(), position, mine), turned(heads, angles.unbind(), position, twin)
        trials |= {f"turned of {groups}": query, f"the cache of turned of {groups}": (mine, twin)}
        seen = (torch.arange(80, device=device) <= 70).repeat(3, 1)
        seen[1, :33] = False  # a row with so much padding
        for mask, span in ((None, 71), (seen[:, None, None], 80)):
            inputs = query[1], twin, position, mask, span
            trials[f"attend of {groups} to {span}"] = found.attend(*inputs), attend(*inputs)
    near = 1e-5 if dtype == torch.float32 else 2e-2
    for name, (mine, twin) in trials.items():
        close = (mine.float() - twin.float()).norm() <= near * twin.float().norm()
        if not bool(close):  # also where it is not a number
            return name
    return None


def eight_bit_rows(linear: nn.Module) -> tuple[Tensor, Tensor] | None:
    """bitsandbytes' int8 rows [out, in] and the scale of each, float32 [out], where a linear is one of its own."""
    if type(linear).__name__ != "Linear8bitLt" or linear.bias is not None:
        return None
    held: Any = linear.weight
    state: Any = linear.state  # the library moves the scales there at the first product
    scale = held.SCB if state.SCB is None else state.SCB
    return (held.data, scale.float() / 127) if held.dtype == torch.int8 and scale is not None else None
