"""Kernels against their twins, by Triton's interpreter where Triton is installed; and how a step chooses them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from janus_app.nn.fast import decode_step, kernels
from janus_app.nn.fast.decode_step import DecodeStep
from janus_app.nn.fast.kernels import FEW, PLAIN, Kernels, disagreement, eight_bit_rows, kernels_for
from janus_app.nn.llama import KVCache
from tests.models.test_engine import filled, trunk

CPU = torch.device("cpu")
INTERPRETED = """
import torch
from janus_app.models import kernels, triton_kernels as triton
found = kernels.Kernels(triton.int8_product, triton.add_norm, triton.gated, triton.turned, triton.attend)
for dtype in (torch.float32, torch.float16):
    for width in (64, 1000):
        assert kernels.disagreement(found, torch.device("cpu"), dtype, width) is None, (dtype, width)
mixed = kernels.Kernels(kernels.int8_product, triton.add_norm, triton.gated, triton.turned, triton.attend)
assert kernels.disagreement(mixed, torch.device("cpu"), torch.bfloat16, 1000) is None
rolled = lambda x, rows, scale: triton.int8_product(x, rows, scale.roll(1))
wrong = kernels.Kernels(rolled, triton.add_norm, triton.gated)
print(kernels.disagreement(wrong, torch.device("cpu"), torch.float32, 64))

from janus_app.models import engine
from tests.models.test_engine import filled, trunk
for kv_heads, lengths in ((4, [5]), (2, [6, 3])):  # the second has padding and shared keys
    for ahead in (1, 9):  # a recording looks at slots that are not filled yet
        made, outs = trunk(4, kv_heads, fused=True), []
        for chosen in (kernels.PLAIN, found):
            decode_step.kernels_for = lambda *_: chosen
            cache, inputs = filled(made, lengths)
            step = decode_step.DecodeStep(made, cache)
            outs.append([])
            for x in inputs:
                outs[-1].append(step(x, cache.length + ahead))
                cache.length += 1
        torch.testing.assert_close(torch.stack(outs[0]), torch.stack(outs[1]), atol=2e-5, rtol=0)
"""


def test_triton_s_kernels_are_their_twins() -> None:
    """In a process of its own: the interpreter is chosen when Triton is imported. Odd widths, too.

    The interpreter has no products in bfloat16 (3.9): those are compared on the card, before they are used there.
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
    assert run.stdout.split() == ["int8_product", "of", "2"]


def test_the_check_before_use_sees_what_is_wrong() -> None:
    twins = Kernels(kernels.int8_product)
    assert disagreement(twins, CPU, torch.bfloat16, 64) is None
    for name, wrong in {
        "int8_product of 2": Kernels(lambda x, rows, scale: kernels.int8_product(x, rows, scale) * 1.05),
        "the sum of add_norm": Kernels(
            kernels.int8_product, lambda x, more, w, eps: kernels.add_norm(x, 2 * more, w, eps)
        ),
        "add_norm": Kernels(
            kernels.int8_product, lambda x, m, w, eps: (x + m, kernels.add_norm(x, m, w, eps)[1] * 1.1)
        ),
        "gated": Kernels(kernels.int8_product, silu_mul=lambda both: kernels.silu_mul(both) * float("nan")),
        "turned of 3": Kernels(kernels.int8_product, turned=lambda heads, *rest: kernels.turned(-heads, *rest)),
        "the cache of turned of 3": Kernels(
            kernels.int8_product, turned=lambda h, a, p, held: kernels.turned(h, a, p - 1, held)
        ),
        "attend of 3 to 80": Kernels(
            kernels.int8_product, attend=lambda q, h, p, mask, span: kernels.attend(q, h, p, None, span)
        ),
    }.items():
        assert disagreement(wrong, CPU, torch.bfloat16, 64) == name


def test_without_a_card_or_with_the_switch_the_twins_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels_for(CPU, torch.float32) is PLAIN
    monkeypatch.setattr(kernels, "_checked", lambda *_: "kernels")
    card = torch.device("cuda")
    assert kernels_for(card, torch.float32) == "kernels"
    monkeypatch.setenv("JANUS_APP_KERNELS", "off")
    assert kernels_for(card, torch.float32) is PLAIN


def test_kernels_that_fail_or_differ_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here every one of them fails: there is no Triton, or no card behind it."""
    assert kernels._checked.__wrapped__(torch.device("cuda:7"), torch.float32) is PLAIN
    twins = {name: getattr(kernels, name) for name in ("int8_product", "add_norm", "turned", "attend")}
    fake: Any = SimpleNamespace(**twins, silu_mul=lambda both: both)
    monkeypatch.setitem(sys.modules, "janus_app.nn.fast.triton_kernels", fake)
    monkeypatch.setattr("janus_app.nn.fast.triton_kernels", fake, raising=False)
    assert kernels._checked.__wrapped__(CPU, torch.float32) is PLAIN  # differs
    fake.silu_mul = kernels.silu_mul
    assert kernels._checked.__wrapped__(CPU, torch.float32).int8_product is kernels.int8_product


class Linear8bitLt(nn.Linear):
    """The parts of bitsandbytes' class that are read, as on a card; its product waits, and must not be called."""

    def __init__(self, weight: Tensor, used: bool) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False)
        scale = weight.abs().amax(-1)
        rows = (weight * 127 / scale[:, None]).round().to(torch.int8)
        self.weight: Any = nn.Parameter(rows, requires_grad=False)
        self.weight.SCB = None if used else scale
        self.state = SimpleNamespace(SCB=scale if used else None)

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the library's product")


@pytest.mark.parametrize("used", [False, True])
@torch.inference_mode()
def test_a_step_multiplies_bitsandbytes_rows_by_the_kernel(monkeypatch: pytest.MonkeyPatch, used: bool) -> None:
    """Before and after the library's own first product, which moves the scales."""
    made = trunk(4, 4, fused=False)
    cache, inputs = filled(made, [5, 5])
    plain: KVCache = KVCache(made.config, 2, cache.capacity, device=CPU, dtype=torch.float32)
    plain.kv, plain.length = cache.kv.clone(), cache.length
    eights = []
    for block in made.blocks:
        for holder in (block.self_attn, block.mlp):
            for name, linear in list(holder.named_children()):
                if isinstance(linear, nn.Linear):
                    eight = Linear8bitLt(linear.weight, used)
                    rows, scale = eight_bit_rows(eight) or pytest.fail("not seen")
                    linear.weight.copy_(rows * scale[:, None])  # the same numbers, unpacked
                    eights.append((holder, name, eight))
    expected = [DecodeStep(made, plain)(x, plain.length + 1) for x in inputs[:1]]
    for holder, name, eight in eights:
        setattr(holder, name, eight)
    made.fuse()
    monkeypatch.setattr(decode_step, "kernels_for", lambda *_: Kernels(kernels.int8_product))
    step = DecodeStep(made, cache)
    torch.testing.assert_close(step(inputs[0], cache.length + 1), expected[0], atol=2e-5, rtol=0)
    card = torch.device("cuda")
    assert not decode_step.can_capture(made, card) and not decode_step.can_capture(made, card, torch.ones(FEW + 1, 64))
    assert decode_step.can_capture(made, card, torch.ones(FEW, 64))
