"""Products on a CPU: another way for few inputs and for bfloat16, and the numbers of `torch.nn.Linear` in each."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from janus_app.nn.fast import linear
from janus_app.nn.fast.linear import Linear, bfloat16_is_emulated, in_pieces, multiply
from tests.models.test_engine import Calls


@pytest.mark.parametrize(("rows", "wide"), [(1, 0), (2, 2), (3, 4), (8, 8), (9, 16), (20, 24), (32, 32), (33, 0)])
@pytest.mark.parametrize("bias", [None, 3.0])
@torch.inference_mode()
def test_few_inputs_and_a_large_matrix_change_places(
    rows: int, wide: int, bias: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`wide` columns for `rows` inputs, 0 where they are multiplied as always; the numbers are the same either way."""
    monkeypatch.setattr(linear, "LARGE", 63)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    source = torch.Generator().manual_seed(4)
    x, weight = torch.randn(rows, 1, 7, generator=source), torch.randn(9, 7, generator=source)
    more = None if bias is None else torch.randn(9, generator=source) * bias
    with Calls() as calls:
        got = multiply(x, weight, more)
    torch.testing.assert_close(got, F.linear(x, weight, more), atol=1e-5, rtol=0)
    assert got.is_contiguous() and got.shape == (rows, 1, 9)
    swapped = [shapes for name, shapes in calls.seen if name == "mm.default" and shapes.startswith("[((9, 7)")]
    assert swapped == ([f"[((9, 7), 'torch.float32'), ((7, {wide}), 'torch.float32')]"] if wide else [])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with Calls() as calls:
        multiply(x, weight, more)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(linear, "LARGE", 64)
    with calls:
        multiply(x, weight, more)
    assert not any(shapes.startswith("[((9, 7)") for name, shapes in calls.seen if name == "mm.default")


@pytest.mark.parametrize("rows", [1, 3, 4, 40])
@torch.inference_mode()
def test_bfloat16_is_unpacked_where_the_processor_does_not_know_it(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "PIECE", 60)  # four rows of fifteen
    layer = Linear(15, 9).bfloat16()
    x = torch.randn(rows, 1, 15, generator=torch.Generator().manual_seed(6)).bfloat16()
    wanted = F.linear(x.float(), layer.weight.float(), layer.bias.float())
    for slow, dtype in ((True, "float32" if rows >= linear.MANY else "bfloat16"), (False, "bfloat16")):
        monkeypatch.setattr(linear, "bfloat16_is_emulated", lambda slow=slow: slow)
        with Calls() as calls:
            got = layer(x)
        assert got.dtype == torch.bfloat16 and got.shape == (rows, 1, 9)
        torch.testing.assert_close(got.float(), wanted, atol=0.03, rtol=0.01)
        products = [shapes for name, shapes in calls.seen if name.partition(".")[0] in ("mm", "addmm", "linear")]
        assert len(products) == (3 if dtype == "float32" else 1) and all(dtype in shapes for shapes in products)


def test_what_the_processor_knows_is_asked_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = bfloat16_is_emulated.__wrapped__
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert ask()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert not ask()
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert not ask()  # a PyTorch that cannot tell
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert not ask()


def test_pieces_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "PIECE", 20)
    rows = torch.randint(-127, 128, (11, 6), dtype=torch.int8)
    x = torch.randn(3, 6)
    torch.testing.assert_close(in_pieces(x, rows), F.linear(x, rows.float()))
