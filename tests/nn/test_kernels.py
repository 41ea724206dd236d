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
    attention_splits,
    bitsandbytes_int8,
    find_mismatch,
    kernels_for,
    verified_kernels,
)
from janus_app.nn.fast.linear import MAX_DECODE_ROWS
from janus_app.nn.llama import KVCache
from tests.nn.small_llama import CPU, prefilled, small_llama

CHECKED = Kernels(  # every kernel is there
    int8_linear=kernels.linear_reference,
    linear=kernels.linear_reference,
    add_rms_norm=kernels.add_rms_norm_reference,
    attend=lambda *inputs: kernels.attend_reference(*inputs),
)
INTERPRETED = """
import numpy, torch
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle
from janus_app.nn.fast import decode_step, kernels, triton_kernels as triton
from tests.nn.small_llama import CPU, prefilled, small_llama

def widened(x):  # numpy has no bfloat16: its bits are the upper half of a float32
    return (x.data.astype(numpy.uint32) << 16).view(numpy.float32) if x.data.dtype == numpy.uint16 else x.data

def dot(self, a, b, d, *_):
    return TensorHandle(numpy.matmul(widened(a), widened(b), dtype=d.data.dtype) + d.data, d.dtype.scalar)

InterpreterBuilder.create_dot = dot
fields = {name: getattr(triton, name) for name in kernels.CHECKS}
for name, kernel in fields.items():
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert kernels.find_mismatch(name, kernel, CPU, dtype, 100) is None, (name, dtype)
wrong = lambda x, weight, scale, **options: triton.int8_linear(x, weight, scale.roll(1), **options)
assert kernels.find_mismatch("int8_linear", wrong, CPU, torch.float32, 64) == "int8_linear of 2 rows"

decode_step.attention_splits = lambda *_: 2
compiled = kernels.Kernels(**fields)
for kv_heads, lengths, spans in ((4, [5], (9,)), (2, [6, 3], (1, 30))):  # the second has padding and grouped queries
    llama, outs = small_llama(4, kv_heads, fused=True), []
    for chosen in (kernels.REFERENCE, compiled):
        decode_step.kernels_for = lambda *_: chosen
        cache, inputs = prefilled(llama, lengths)
        step = decode_step.DecodeStep(llama, cache)
        outs.append([])
        for ahead, x in zip(spans, inputs):  # a graph's span goes beyond the filled slots
            outs[-1].append(step(x, cache.length + ahead))
            cache.length += 1
    torch.testing.assert_close(torch.stack(outs[0]), torch.stack(outs[1]), atol=2e-5, rtol=0)
print("all kernels agree")
"""


def test_triton_kernels_agree_with_the_reference() -> None:
    """In a process of its own, because the interpreter is chosen when Triton is imported. Its products in bfloat16 are
    mended (Triton 3.9)."""
    pytest.importorskip("triton", reason="Triton is not installed")
    run = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
        env={"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)},
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout == "all kernels agree\n"


def wrong_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total, normed = kernels.add_rms_norm_reference(x, residual, weight, eps)
    return total, normed * 1.1


def into_the_wrong_slot(heads: Tensor, cos: Tensor, sin: Tensor, position: Tensor, kv: Tensor, *rest: Any) -> Tensor:
    other = kv.clone()
    kv[..., 3, :] = 0
    return kernels.attend_reference(heads, cos, sin, position, other, *rest)


def without(option: str) -> Any:
    return lambda *inputs, **options: kernels.linear_reference(*inputs, **{**options, option: None})


def not_gated(*inputs: Any, gated: bool = False, **options: Any) -> Tensor:
    out = kernels.linear_reference(*inputs, **options)
    return out[:, : out.shape[1] // 2] if gated else out


FIRST = "attend of 3 groups to slot 0 of 1 in 2 parts"
WRONG: dict[str, tuple[str, Any]] = {
    "int8_linear of 2 rows": (
        "int8_linear",
        lambda x, w, scale, **_: kernels.linear_reference(x, w, scale) * 1.05,
    ),
    "linear of 2 rows, normed": ("linear", without("norm")),
    "linear of 2 rows, normed and gated": ("linear", not_gated),
    "linear of 2 rows and a sum": ("linear", without("residual")),
    "the sum of add_rms_norm": (
        "add_rms_norm",
        lambda x, residual, w, eps: kernels.add_rms_norm_reference(x, 2 * residual, w, eps),
    ),
    "add_rms_norm": ("add_rms_norm", wrong_norm),
    "silu_mul": ("silu_mul", lambda gate_up: kernels.silu_mul_reference(gate_up) * float("nan")),
    FIRST: ("attend", lambda heads, *rest: kernels.attend_reference(-heads, *rest)),
    f"the cache after {FIRST}": ("attend", into_the_wrong_slot),
    "attend of 3 groups to slot 0 of 87 in 2 parts": (
        "attend",
        lambda h, cos, sin, at, kv, mask, *rest: kernels.attend_reference(h, cos, sin, at, kv, None, *rest),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_verification_finds_a_wrong_kernel(name: str) -> None:
    kernel, wrong = WRONG[name]
    assert find_mismatch(kernel, getattr(CHECKED, kernel), CPU, torch.bfloat16, 64) is None
    assert find_mismatch(kernel, wrong, CPU, torch.bfloat16, 64) == name


def test_the_reference_runs_on_a_cpu_and_where_kernels_are_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels_for(CPU, torch.float32) is REFERENCE
    monkeypatch.setattr(kernels, "verified_kernels", lambda *_: CHECKED)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    gpu = torch.device("cuda")
    assert kernels_for(gpu, torch.float32) == CHECKED
    monkeypatch.setenv("JANUS_APP_KERNELS", "attend, silu_mul")
    assert kernels_for(gpu, torch.float32) == replace(REFERENCE, attend=CHECKED.attend)
    monkeypatch.setenv("JANUS_APP_KERNELS", "off")
    assert kernels_for(gpu, torch.float32) is REFERENCE


def test_kernels_that_fail_are_not_used() -> None:
    """Here all of them fail: there is no Triton, or no GPU behind it."""
    assert verified_kernels.__wrapped__(torch.device("cuda:7"), torch.float32) == REFERENCE


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of kernels that are all right."""
    fake = SimpleNamespace(**{name: getattr(CHECKED, name) for name in kernels.CHECKS})
    monkeypatch.setitem(sys.modules, "janus_app.nn.fast.triton_kernels", fake)
    monkeypatch.setattr("janus_app.nn.fast.triton_kernels", fake, raising=False)
    return fake


def test_one_kernel_that_differs_or_fails_leaves_the_others_in_use(triton: Any) -> None:
    checked = replace(CHECKED, linear=None)  # the library multiplies plain float32
    assert verified_kernels.__wrapped__(CPU, torch.float32) == checked
    triton.silu_mul = lambda gate_up: gate_up
    triton.attend = lambda *_: 1 / 0
    assert verified_kernels.__wrapped__(CPU, torch.float32) == replace(checked, attend=kernels.attend_reference)
    triton.int8_linear = lambda x, *_, **options: x
    only_norm = replace(REFERENCE, add_rms_norm=CHECKED.add_rms_norm)
    assert verified_kernels.__wrapped__(CPU, torch.float32) == only_norm


def test_plain_weights_are_multiplied_by_the_kernel_in_half_precision_on_cards_since_ampere(
    triton: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for capability, dtype, used in (((8, 0), "bfloat16", 1), ((7, 5), "float16", 0), ((9, 0), "float32", 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, capability=capability: capability)
        chosen = verified_kernels.__wrapped__(CPU, getattr(torch, dtype)).linear
        assert (chosen is triton.linear) == bool(used)


def test_kernels_are_verified_on_their_own_card_and_again_after_an_out_of_memory(
    triton: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: (cards.append(device), nullcontext())[1])
    answers = iter([MemoryError(), None, None, None, None])

    def find(*_: object) -> None:
        if error := next(answers):
            raise error

    monkeypatch.setattr(kernels, "find_mismatch", find)
    card = torch.device("cuda:6")
    assert kernels_for(card, torch.float32) is REFERENCE
    assert kernels_for(card, torch.float32).int8_linear is triton.int8_linear
    assert cards == [card, card]
    verified_kernels.cache_clear()


@pytest.mark.parametrize("lengths", [[5], [7, 3]])
@pytest.mark.parametrize(
    "missing", [(), ("linear",), ("attend",), ("add_rms_norm", "attend"), ("linear", "add_rms_norm")]
)
@torch.inference_mode()
def test_a_step_computes_the_same_with_every_choice_of_kernels(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int], missing: tuple[str, ...]
) -> None:
    """The reference implementations stand for the kernels."""
    llama, outs = small_llama(4, 2, fused=True), []
    for chosen in (REFERENCE, replace(CHECKED, **{name: getattr(REFERENCE, name) for name in missing})):
        monkeypatch.setattr(decode_step, "kernels_for", lambda *_, chosen=chosen: chosen)
        cache, inputs = prefilled(llama, lengths)
        step = DecodeStep(llama, cache)
        outs.append([])
        for x in inputs[:3]:
            outs[-1].append(step(x, cache.length + 1))
            cache.length += 1
    torch.testing.assert_close(torch.stack(outs[1]), torch.stack(outs[0]), atol=2e-5, rtol=0)


def test_attention_is_split_until_it_fills_the_card() -> None:
    h100, t4 = 132, 40
    one_picture_1b, eight_pictures_1b, one_picture_7b = 2 * 16, 16 * 16, 2 * 32
    assert attention_splits(one_picture_1b, 640, h100) == 8
    assert attention_splits(one_picture_7b, 640, h100) == 4
    assert attention_splits(eight_pictures_1b, 640, h100) == 1
    assert attention_splits(one_picture_1b, 640, t4) == 2
    assert attention_splits(one_picture_1b, 200, h100) == 2  # no program for a few slots
    assert attention_splits(1, 10, 1) == 1


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
