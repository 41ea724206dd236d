"""The operations of a decode step: reference implementations, and Triton kernels where a GPU verified them.

Every kernel has a reference implementation in plain PyTorch, which runs wherever the kernel does not. The kernels are
compared with it by Triton's interpreter in the tests, and once on every GPU before they are used there: where Triton is
missing, the reference implementations run, and so does the reference of a kernel that fails or differs.
JANUS_APP_KERNELS=off switches all kernels off, and names of kernels, separated by commas, all others. Not measured on a
GPU.

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
MIN_SPLIT = 64  # slots that are worth a program of their own
logger = logging.getLogger(__name__)


def linear_reference(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None = None,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """residual + x @ weight.T for x [rows, in] and weight [out, in], and what stands around it in a decoder.

    An int8 weight has a float32 scale [out], and sums in float32. x is normed before, where there is the weight [in] of
    an RMSNorm. `gated`: the first half of the outputs are gates and the second half values; silu(gate) * value remains.
    """
    if norm is not None:
        x = rms_norm(x, norm, eps)
    out = F.linear(x, weight) if scale is None else (F.linear(x.float(), weight.float()) * scale).to(x.dtype)
    if gated:
        out = silu_mul_reference(out)
    return out if residual is None else residual + out


int8_linear_reference = linear_reference  # two names, because the kernel is verified for each kind of weights


def add_rms_norm_reference(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + residual, and its RMSNorm; all [rows, hidden]."""
    total = x + residual
    return total, rms_norm(total, weight, eps)


def silu_mul_reference(gate_up: Tensor) -> Tensor:
    """silu(gate) * up for gate and up side by side, [..., 2 n] to [..., n]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def attend_reference(
    heads: Tensor,
    cos: Tensor,
    sin: Tensor,
    position: Tensor,
    kv: Tensor,
    mask: Tensor | None,
    span: int,
    splits: int = 1,
) -> Tensor:
    """Write the new keys and values to the cache at `position`; attention over the first `span` slots.

    heads [rows, groups, kv_heads, head_dim] are groups of queries, then one of keys, then one of values; cos and sin
    [rows or 1, groups, 1, head_dim], signed as `llama.rotary_table` makes them, are alike for queries and keys, and 1
    and 0 for values. mask [rows or 1, 1, 1, span] is True where a slot may be attended to. It is needed where `span`
    goes beyond `position`; the kernel stops there by itself, and shares the slots out to `splits` programs. Returns
    [rows, heads * head_dim].
    """
    heads = (heads * cos).addcmul_(heads.roll(heads.shape[-1] // 2, -1), sin)
    kv.index_copy_(3, position, heads[:, -2:].transpose(0, 1).unsqueeze(3).to(kv.dtype))
    query = heads[:, :-2].reshape(len(heads), -1, heads.shape[-1])
    keys, values = kv[:, :, :, :span]
    grouped = query.shape[1] != keys.shape[1]
    out = F.scaled_dot_product_attention(query.unsqueeze(2).to(kv.dtype), keys, values, mask, enable_gqa=grouped)
    return out.reshape(len(query), -1).to(query.dtype)


def attention_splits(programs: int, slots: int, processors: int) -> int:
    """Into how many parts attention over at most `slots` slots is divided: a power of two.

    There are `programs` rows times heads, and a GPU of so many `processors` is to be filled twice.
    """
    splits = 1
    while 2 * splits * programs <= 2 * processors and 2 * splits * MIN_SPLIT <= slots:
        splits *= 2
    return splits


@dataclass(frozen=True)
class Kernels:
    """The functions that a step calls, None where it uses the layer's own product or lets a linear add the residual."""

    int8_linear: Callable[..., Tensor] | None = None
    linear: Callable[..., Tensor] | None = None
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]] | None = None
    silu_mul: Callable[[Tensor], Tensor] = silu_mul_reference
    attend: Callable[..., Tensor] = attend_reference


REFERENCE = Kernels()


def kernels_for(device: torch.device, dtype: torch.dtype) -> Kernels:
    """The Triton kernels that were verified on this device in this dtype, and the reference of each other one."""
    wanted = os.environ.get(ENV_SWITCH, "").lower()
    if device.type != "cuda" or wanted in ("off", "0", "no"):
        return REFERENCE
    try:
        with torch.cuda.device(device):  # Triton launches on the current card
            kernels = verified_kernels(device, dtype)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return REFERENCE  # for now: the next call verifies again
    names = CHECKS.keys() & wanted.replace(" ", "").split(",")
    unwanted = CHECKS.keys() - names if names else ()
    return replace(kernels, **{name: getattr(REFERENCE, name) for name in unwanted})


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
        if name == "linear" and not _replaces_products(device, dtype):
            continue
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


def _replaces_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel is used for plain weights: where matrix units take the dtype and loads do not block."""
    return dtype != torch.float32 and torch.cuda.get_device_capability(device) >= (8, 0)


class _Inputs:
    """Random inputs of a check, the same on every device."""

    def __init__(self, device: torch.device, dtype: torch.dtype, width: int) -> None:
        self.source, self.device, self.dtype, self.width = torch.Generator().manual_seed(0), device, dtype, width

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.source).to(self.device, self.dtype)


Pairs = Iterator[tuple[str, Tensor, Tensor]]  # (name of a result, the kernel's, the reference's)


def _check_int8_linear(kernel: Callable[..., Tensor], inputs: _Inputs) -> Pairs:
    weight = torch.randint(-127, 128, (90, inputs.width), generator=inputs.source, dtype=torch.int8).to(inputs.device)
    scale = torch.rand(90, generator=inputs.source).to(inputs.device) / 127
    yield from _check_products("int8_linear", kernel, inputs, weight, scale)


def _check_linear(kernel: Callable[..., Tensor], inputs: _Inputs) -> Pairs:
    yield from _check_products("linear", kernel, inputs, inputs.random(90, inputs.width), None)


def _check_products(
    name: str, kernel: Callable[..., Tensor], inputs: _Inputs, weight: Tensor, scale: Tensor | None
) -> Pairs:
    norm = {"norm": inputs.random(inputs.width), "eps": 1e-6}
    for rows in (2, MAX_DECODE_ROWS):
        x, residual = inputs.random(rows, inputs.width), inputs.random(rows, 90)
        options: dict[str, dict[str, Any]] = {
            "": {},
            ", normed": norm,
            ", normed and gated": {**norm, "gated": True},
            " and a sum": {"residual": residual},
        }
        for option, given in options.items():
            result = f"{name} of {rows} rows{option}"
            yield result, kernel(x, weight, scale, **given), linear_reference(x, weight, scale, **given)


def _check_add_rms_norm(kernel: Callable[..., tuple[Tensor, Tensor]], inputs: _Inputs) -> Pairs:
    x, residual, weight = inputs.random(3, inputs.width), inputs.random(3, inputs.width), inputs.random(inputs.width)
    total, normed = kernel(x, residual, weight, 1e-6)
    expected_total, expected = add_rms_norm_reference(x, residual, weight, 1e-6)
    yield "the sum of add_rms_norm", total, expected_total
    yield "add_rms_norm", normed, expected


def _check_silu_mul(kernel: Callable[[Tensor], Tensor], inputs: _Inputs) -> Pairs:
    gate_up = inputs.random(3, 2 * inputs.width)
    yield "silu_mul", kernel(gate_up), silu_mul_reference(gate_up)


def _check_attend(kernel: Callable[..., Tensor], inputs: _Inputs) -> Pairs:
    """Two head sizes; one slot, and a row with so much padding that one part has no slot to attend to."""
    for groups, dim, position, splits in ((3, 64, 0, 2), (3, 64, 84, 4), (4, 48, 70, 1), (4, 48, 70, 2)):
        heads, angle = inputs.random(2, groups, 2, dim), inputs.random(2, 1, 1, dim)
        rotation, none = torch.stack([angle.cos(), angle.sin()]), torch.zeros_like(angle)
        cos, sin = torch.cat([*[rotation] * (groups - 1), torch.stack([none.cos(), none])], dim=2)
        kv, at = inputs.random(2, 2, 2, 90, dim), torch.tensor([position], device=inputs.device)
        visible = (torch.arange(87, device=inputs.device) <= position).repeat(2, 1)
        visible[1, : min(69, position)] = False
        for mask, span in ((None, position + 1), (visible[:, None, None], 87)):
            given, caches = (heads, cos, sin, at), (kv.clone(), kv.clone())
            out = kernel(*given, caches[0], mask, span, splits)
            expected = attend_reference(*given, caches[1], mask, span)
            name = f"attend of {groups} groups to slot {position} of {span} in {splits} parts"
            yield name, out, expected
            yield f"the cache after {name}", *caches


CHECKS: dict[str, Callable[[Any, _Inputs], Pairs]] = {
    "int8_linear": _check_int8_linear,
    "linear": _check_linear,
    "add_rms_norm": _check_add_rms_norm,
    "silu_mul": _check_silu_mul,
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
