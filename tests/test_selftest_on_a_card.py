"""The self-test on a pretended CUDA card: what it says where all is well, and where a kernel or a graph is at fault."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import bitsandbytes  # noqa: F401  # both look for CUDA when they are imported
import diffusers  # noqa: F401
import pytest
import torch

from janus_app.nn.fast import cuda_graphs
from janus_app.runtime import selftest
from janus_app.runtime.devices import under_device
from janus_app.runtime.selftest import embedded, examine, products, result
from janus_app.runtime.selftest.result import Bench, Result
from tests.pretended_card import pretended_cards
from tests.test_selftest import of

CARD = torch.device("cuda:0")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sizes; bitsandbytes has no products for a card that is not there."""
    monkeypatch.setattr(result, "SMALL_SECONDS", 1e9)
    for module in (embedded, products):
        monkeypatch.setattr(module, "bitsandbytes_missing", lambda: True)


def lines(check: Any) -> list[Result]:
    steps: Iterator[Any] = under_device(CARD, check(Bench(CARD, 1e6)))
    return of(steps)


def test_selftest_runs_every_check_of_a_card() -> None:
    with pretended_cards():
        found = {line.check: line for line in of(examine("cuda:0", minutes=60))}
    assert found.keys() == {check.name for check in selftest.CHECKS}
    levels = {name: line.level for name, line in found.items()}
    # Products: see above. Without Triton there are no kernels, which is slower but right.
    assert {name: level for name, level in levels.items() if level != "OK"} == {"products": "SKIP", "kernels": "WARN"}
    assert found["embedded"].numbers["tokens_differing"] == 0
    assert 0 < found["memory"].numbers["peak_measured"] <= found["memory"].numbers["peak_predicted"]
    assert "capability 9.0" in found["machine"].texts()["detail"] and found["kernels"].remedy is not None


def test_kernel_that_differs_or_fails_is_named_in_its_dtype() -> None:
    with pretended_cards(kernels_too=True):
        assert [(line.what, line.level) for line in lines(products.kernels)] == [
            ("fp32", "OK"), ("bf16", "OK"), ("fp16", "OK"),
        ]  # fmt: skip
        triton = sys.modules["janus_app.nn.fast.triton_kernels"]
        right = triton.silu_mul
        triton.silu_mul = lambda x: right(x) * (1.1 if x.dtype == torch.bfloat16 else 1.0)
        fp32, bf16, fp16 = lines(products.kernels)
        assert (fp32.level, bf16.level, fp16.level) == ("OK", "WARN", "OK")
        assert list(bf16.numbers["wrong"]) == ["silu_mul"] and "silu_mul" in bf16.texts()["detail"]
        del triton.silu_mul
        assert [line.level for line in lines(products.kernels)] == ["WARN"] * 3


def test_graphs_that_cannot_be_captured_or_change_results_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_capture(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pretended_cards(), monkeypatch.context() as patch:
        patch.setattr(cuda_graphs, "capture", no_capture)
        (line,) = lines(embedded.graphs)
        assert line.level == "WARN" and "one by one" in line.texts()["detail"]
    with pretended_cards(), monkeypatch.context() as patch:
        patch.setattr(cuda_graphs, "warm_up", lambda step, span, device, state: step(span))  # state is not restored
        (line,) = lines(embedded.graphs)
        assert line.level == "FAIL"
