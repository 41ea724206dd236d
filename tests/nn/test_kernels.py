"""Triton kernels against the reference implementations, by Triton's interpreter if it is installed; and their use."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from janus_app.nn.fast import decode_step, kernels
from janus_app.nn.fast.decode_step import DecodeStep, can_capture
from janus_app.nn.fast.kernels import (
    REFERENCE,
    Kernels,
    bitsandbytes_int8,
    find_mismatch,
    kernels_for,
    verified_kernels,
)
from janus_app.nn.fast.linear import MAX_DECODE_ROWS
from janus_app.nn.llama import KVCache
from tests.nn.small_llama import CPU, prefilled, small_llama

CHECKED = Kernels(kernels.int8_linear_reference)  # every kernel is there
INTERPRETED = """
import torch
from janus_app.nn.fast import decode_step, kernels, triton_kernels as triton
from tests.nn.small_llama import CPU, prefilled, small_llama

rest = triton.add_rms_norm, triton.silu_mul, triton.apply_rope_and_cache, triton.attend
compiled = kernels.Kernels(triton.int8_linear, *rest)
for name in kernels.CHECKS:
    for dtype in (torch.float32, torch.float16, *[torch.bfloat16] * (name != "int8_linear")):
        for width in (64, 1000):
            assert kernels.find_mismatch(name, getattr(triton, name), CPU, dtype, width) is None, (name, dtype, width)
wrong = lambda x, weight, scale: triton.int8_linear(x, weight, scale.roll(1))
assert kernels.find_mismatch("int8_linear", wrong, CPU, torch.float32, 64) == "int8_linear of 2 rows"

for kv_heads, lengths in ((4, [5]), (2, [6, 3])):  # the second has padding and grouped queries
    for ahead in (1, 9):  # a graph's span goes beyond the filled slots
        llama, outs = small_llama(4, kv_heads, fused=True), []
        for chosen in (kernels.REFERENCE, compiled):
            decode_step.kernels_for = lambda *_: chosen
            cache, inputs = prefilled(llama, lengths)
            step = decode_step.DecodeStep(llama, cache)
            outs.append([])
            for x in inputs:
                outs[-1].append(step(x, cache.length + ahead))
                cache.length += 1
        torch.testing.assert_close(torch.stack(outs[0]), torch.stack(outs[1]), atol=2e-5, rtol=0)
print("all kernels agree")
"""


def test_triton_kernels_agree_with_the_reference() -> None:
    """In a process of its own, because the interpreter is chosen when Triton is imported.

    The interpreter has no products in bfloat16 (3.9): those are compared on the GPU, before they are used there.
    """
    pytest.importorskip("triton", reason="Triton is not installed")
    run = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
        env={"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)},
        timeout=200,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout == "all kernels agree\n"


def wrong_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total, normed = kernels.add_rms_norm_reference(x, residual, weight, eps)
    return total, normed * 1.1


def rope_into_the_wrong_slot(heads: Tensor, cos: Tensor, sin: Tensor, position: Tensor, kv: Tensor) -> Tensor:
    return kernels.apply_rope_and_cache_reference(heads, cos, sin, position - 1, kv)


WRONG: dict[str, tuple[str, Any]] = {
    "int8_linear of 2 rows": ("int8_linear", lambda x, w, scale: kernels.int8_linear_reference(x, w, scale) * 1.05),
    "the sum of add_rms_norm": (
        "add_rms_norm",
        lambda x, residual, w, eps: kernels.add_rms_norm_reference(x, 2 * residual, w, eps),
    ),
    "add_rms_norm": ("add_rms_norm", wrong_norm),
    "silu_mul": ("silu_mul", lambda gate_up: kernels.silu_mul_reference(gate_up) * float("nan")),
    "apply_rope_and_cache of 3 groups": (
        "apply_rope_and_cache",
        lambda heads, *rest: kernels.apply_rope_and_cache_reference(-heads, *rest),
    ),
    "the cache after apply_rope_and_cache of 3 groups": ("apply_rope_and_cache", rope_into_the_wrong_slot),
    "attend of 3 groups to 80 slots": (
        "attend",
        lambda q, kv, position, mask, span: kernels.attend_reference(q, kv, position, None, span),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_verification_finds_a_wrong_kernel(name: str) -> None:
    kernel, wrong = WRONG[name]
    assert find_mismatch(kernel, getattr(CHECKED, kernel), CPU, torch.bfloat16, 64) is None
    assert find_mismatch(kernel, wrong, CPU, torch.bfloat16, 64) == name


def test_the_reference_runs_on_a_cpu_and_where_kernels_are_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels_for(CPU, torch.float32) is REFERENCE
    monkeypatch.setattr(kernels, "verified_kernels", lambda *_: "kernels")
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    gpu = torch.device("cuda")
    assert kernels_for(gpu, torch.float32) == "kernels"
    monkeypatch.setenv("JANUS_APP_KERNELS", "off")
    assert kernels_for(gpu, torch.float32) is REFERENCE


def test_kernels_that_fail_are_not_used() -> None:
    """Here all of them fail: there is no Triton, or no GPU behind it."""
    assert verified_kernels.__wrapped__(torch.device("cuda:7"), torch.float32) == REFERENCE


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of kernels that are all right."""
    fake = SimpleNamespace(**{name: getattr(kernels, f"{name}_reference") for name in kernels.CHECKS})
    monkeypatch.setitem(sys.modules, "janus_app.nn.fast.triton_kernels", fake)
    monkeypatch.setattr("janus_app.nn.fast.triton_kernels", fake, raising=False)
    return fake


def test_one_kernel_that_differs_or_fails_leaves_the_others_in_use(triton: Any) -> None:
    triton.silu_mul = lambda gate_up: gate_up
    triton.attend = lambda *_: 1 / 0
    assert verified_kernels.__wrapped__(CPU, torch.float32) == CHECKED
    triton.int8_linear = lambda x, *_: x
    assert verified_kernels.__wrapped__(CPU, torch.float32) == replace(CHECKED, int8_linear=None)


def test_kernels_are_verified_on_their_own_card_and_again_after_an_out_of_memory(
    triton: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: (cards.append(device), nullcontext())[1])
    answers = iter([MemoryError(), None, None, None, None, None])

    def find(*_: object) -> None:
        if error := next(answers):
            raise error

    monkeypatch.setattr(kernels, "find_mismatch", find)
    card = torch.device("cuda:6")
    assert kernels_for(card, torch.float32) is REFERENCE
    assert kernels_for(card, torch.float32).int8_linear is triton.int8_linear
    assert cards == [card, card]
    verified_kernels.cache_clear()


class Linear8bitLt(nn.Linear):
    """The attributes of bitsandbytes' class that are read; its own product waits for the GPU and must not be called."""

    def __init__(self, weight: Tensor, used: bool) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False)
        scale = weight.abs().amax(-1)
        int8 = (weight * 127 / scale[:, None]).round().to(torch.int8)
        self.weight: Any = nn.Parameter(int8, requires_grad=False)
        self.weight.SCB = None if used else scale
        self.state = SimpleNamespace(SCB=scale if used else None)

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the library's product")


@pytest.mark.parametrize("used", [False, True])
@torch.inference_mode()
def test_a_step_multiplies_bitsandbytes_weights_by_the_kernel(monkeypatch: pytest.MonkeyPatch, used: bool) -> None:
    """Before and after the library's own first product, which moves the scales."""
    llama = small_llama(4, 4, fused=False)
    cache, inputs = prefilled(llama, [5, 5])
    plain_cache = KVCache(llama.config, 2, cache.capacity, device=CPU, dtype=torch.float32)
    plain_cache.kv, plain_cache.length = cache.kv.clone(), cache.length
    replacements = []
    for block in llama.blocks:
        for parent in (block.self_attn, block.mlp):
            for name, linear in list(parent.named_children()):
                if isinstance(linear, nn.Linear):
                    int8_linear = Linear8bitLt(linear.weight, used)
                    weight, scale = bitsandbytes_int8(int8_linear) or pytest.fail("not recognised")
                    linear.weight.copy_(weight * scale[:, None])  # the same numbers, unpacked
                    replacements.append((parent, name, int8_linear))
    expected = DecodeStep(llama, plain_cache)(inputs[0], plain_cache.length + 1)
    for parent, name, int8_linear in replacements:
        setattr(parent, name, int8_linear)
    llama.fuse()
    monkeypatch.setattr(decode_step, "kernels_for", lambda *_: CHECKED)
    out = DecodeStep(llama, cache)(inputs[0], cache.length + 1)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=0)
    gpu = torch.device("cuda")
    assert can_capture(llama, gpu, torch.ones(MAX_DECODE_ROWS, 64))
    assert not can_capture(llama, gpu) and not can_capture(llama, gpu, torch.ones(MAX_DECODE_ROWS + 1, 64))
