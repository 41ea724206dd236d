"""Triton's kernels, compiled for every supported NVIDIA card: their precision, registers and loads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

import triton

from janus_app.nn.fast import kernels
from tests.nn.compiled_kernels import NVIDIA, Compiled, Launch, compile_for, launches_of

HALF, FULL = torch.bfloat16, torch.float32
ROWS, WIDTH, WIDE, HEADS, DIM, CAPACITY = 2, 2048, 5632, 16, 128, 592  # of Janus-Pro-1B, one guided picture


def meta(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


def products(kernel: Callable[..., Tensor], dtype: torch.dtype, *, int8: bool) -> list[Launch]:
    """The launches of a decoder layer: gate and up, then q, k and v, out and down; and of the last layer's down."""
    row, inner, norm = (meta(*shape, dtype=dtype) for shape in ((ROWS, WIDTH), (ROWS, WIDE), (WIDTH,)))

    def weight(outer: int, inner: int) -> tuple[Tensor, Tensor | None]:
        scale = meta(outer, dtype=FULL) if int8 else None
        return meta(outer, inner, dtype=torch.int8 if int8 else dtype), scale

    def launch() -> None:
        kernel(row, *weight(2 * WIDE, WIDTH), norm=norm, eps=1e-6, gated=True)
        kernel(row, *weight(3 * WIDTH, WIDTH), norm=norm, eps=1e-6)
        kernel(inner, *weight(WIDTH, WIDE), residual=row)
        kernel(inner, *weight(WIDTH, WIDE))

    return launches_of(launch)


def attention(dtype: torch.dtype, splits: int, *, padded: bool = False) -> list[Launch]:
    from janus_app.nn.fast import triton_kernels

    heads, kv = meta(ROWS, 3, HEADS, DIM, dtype=dtype), meta(2, ROWS, HEADS, CAPACITY, DIM, dtype=dtype)
    angles = meta(ROWS if padded else 1, 3, 1, DIM, dtype=dtype)
    mask = meta(ROWS, 1, 1, CAPACITY, dtype=torch.bool) if padded else None
    given = heads, angles, angles, meta(1), kv, mask, CAPACITY, splits
    return launches_of(lambda: triton_kernels.attend(*given))


def launches(name: str, dtype: torch.dtype) -> list[Launch]:
    """Of a step of Janus-Pro-1B. The first ones are those that need the most registers."""
    from janus_app.nn.fast import triton_kernels as triton

    row = meta(ROWS, WIDTH, dtype=dtype)
    if name == "attend":
        return attention(dtype, 8) + attention(dtype, 1)[:1]
    if name == "add_rms_norm":
        return launches_of(lambda: triton.add_rms_norm(row, row, meta(WIDTH, dtype=dtype), 1e-6))
    if name == "silu_mul":
        return launches_of(lambda: triton.silu_mul(meta(ROWS, 2 * WIDE, dtype=dtype)))
    return products(getattr(triton, name), dtype, int8=name == "int8_linear")


FIRST = {"attend": 2}  # and the merge


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    triton.knobs.cache.dir = str(tmp_path_factory.mktemp("triton"))


def compiled(launch: Launch, capability: int) -> Compiled:
    made = compile_for(launch, capability)
    print(f"sm_{capability} {launch.name}: {made.registers} registers, {made.stack} bytes of stack, {made.loads}")
    return made


@pytest.mark.parametrize("name", kernels.CHECKS)
def test_kernels_compile_for_every_card_without_spilled_registers_and_read_16_bytes_at_once(name: str) -> None:
    """Those with the most registers for all cards, the other ones for one."""
    half = launches(name, HALF)
    first = half[: FIRST.get(name, 1)]
    assert len(half) == {"attend": 3, "int8_linear": 4, "linear": 4}.get(name, 1)
    for capability in NVIDIA:
        if capability < 80:  # where plain weights are multiplied by PyTorch
            chosen = [] if name == "linear" else launches(name, torch.float16)[: len(first)]
        else:
            chosen = half if capability == 80 else first
        for launch in chosen:
            made = compiled(launch, capability)
            assert capability < 80 or not made.stack, f"{launch.name} spills registers on sm_{capability}"
            assert made.share_of_wide_loads > WIDE_LOADS.get(launch.name, 0.9)


# A new head is turned half by half; scales, norms and sums are small.
WIDE_LOADS = {"_attend": 0.8, "_merge": 0.6, "_linear": 0.8}


@pytest.mark.parametrize("name", [name for name in kernels.CHECKS if name != "linear"])
def test_float32_is_not_rounded_to_tf32(name: str) -> None:
    """Plain weights are multiplied by PyTorch in float32."""
    for capability in (80, 90, 120):
        for launch in launches(name, FULL)[: FIRST.get(name, 1)]:
            made = compiled(launch, capability)
            assert "tf32" not in made.ptx and not made.stack


@pytest.mark.parametrize("capability", [80, 120])
def test_attention_over_padded_rows_spills_no_registers(capability: int) -> None:
    assert not compiled(attention(HALF, 8, padded=True)[0], capability).stack
