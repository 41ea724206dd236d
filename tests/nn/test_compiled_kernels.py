"""Triton's kernels, compiled for every supported NVIDIA card: their precision, registers and loads."""

from __future__ import annotations

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


def example(name: str, dtype: torch.dtype, *, padded: bool = False) -> tuple[Tensor | float | None, ...]:
    """The arguments of a kernel of a step."""
    position, kv = meta(1), meta(2, ROWS, HEADS, CAPACITY, DIM, dtype=dtype)
    row, angles = meta(ROWS, WIDTH, dtype=dtype), meta(1, 3, 1, DIM, dtype=dtype)
    examples: dict[str, tuple[Tensor | float | None, ...]] = {
        "int8_linear": (row, meta(WIDE, WIDTH, dtype=torch.int8), meta(WIDE, dtype=FULL)),
        "add_rms_norm": (row, row, meta(WIDTH, dtype=dtype), 1e-6),
        "silu_mul": (meta(ROWS, 2 * WIDE, dtype=dtype),),
        "apply_rope_and_cache": (meta(ROWS, 3, HEADS, DIM, dtype=dtype), angles, angles, position, kv),
        "attend": (
            meta(ROWS, HEADS, DIM, dtype=dtype),
            kv,
            position,
            meta(ROWS, 1, 1, CAPACITY, dtype=torch.bool) if padded else None,
            CAPACITY,
        ),
    }
    return examples[name]


def launches(name: str, dtype: torch.dtype, *, padded: bool = False) -> list[Launch]:
    from janus_app.nn.fast import triton_kernels

    found = launches_of(lambda: getattr(triton_kernels, name)(*example(name, dtype, padded=padded)))
    assert found
    return found


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    triton.knobs.cache.dir = str(tmp_path_factory.mktemp("triton"))


def compiled(launch: Launch, capability: int) -> Compiled:
    made = compile_for(launch, capability)
    print(f"sm_{capability} {launch.name}: {made.registers} registers, {made.stack} bytes of stack, {made.loads}")
    return made


@pytest.mark.parametrize("name", kernels.CHECKS)
def test_kernels_compile_for_every_card_without_spilled_registers_and_read_16_bytes_at_once(name: str) -> None:
    for capability in NVIDIA:
        for launch in launches(name, torch.float16 if capability < 80 else HALF):
            made = compiled(launch, capability)
            assert capability < 80 or not made.stack, f"{launch.name} spills registers on sm_{capability}"
            assert made.share_of_wide_loads > WIDE_LOADS.get(launch.name, 0.9)


# The head of a row is turned half by half, and is small.
WIDE_LOADS = {"_apply_rope_and_cache": -1.0}


@pytest.mark.parametrize("name", kernels.CHECKS)
def test_float32_is_not_rounded_to_tf32(name: str) -> None:
    for capability in (80, 90, 120):
        for launch in launches(name, FULL):
            made = compiled(launch, capability)
            assert "tf32" not in made.ptx and not made.stack


@pytest.mark.parametrize("capability", [80, 120])
def test_attention_over_padded_rows_spills_no_registers(capability: int) -> None:
    for launch in launches("attend", HALF, padded=True):
        assert not compiled(launch, capability).stack
