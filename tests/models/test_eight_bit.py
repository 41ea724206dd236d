"""Eight-bit weights on a CPU: the packed product and the unpacking one against weights in float32."""

from __future__ import annotations

import pytest
import torch
from janus_app.nn.fast.int8 import FEW, Int8Linear, joined, plain
from torch import Tensor, nn

from janus_app.nn.fast import int8


def layer(outer: int, seed: int = 0, inner: int = 512) -> Int8Linear:
    source = torch.Generator().manual_seed(seed)
    rows = torch.randint(-127, 128, (outer, inner), dtype=torch.int8, generator=source)
    return Int8Linear(rows, torch.rand(outer, generator=source) * 1e-3 + 1e-4)


def inputs(count: int) -> Tensor:
    return torch.randn(count, 512, generator=torch.Generator().manual_seed(9))


def apart(mine: Tensor, other: Tensor) -> float:
    return float((mine - other).norm() / other.norm())


def test_few_inputs_meet_the_packed_rows() -> None:
    """Nothing is rounded but inputs and outputs, to bfloat16's eight bits: far less than int8 inputs would lose."""
    linear, x = layer(300), inputs(4)
    assert int8.packed_kernel()
    assert 0 < apart(linear(x), plain(linear, x)) < 3e-3
    eight_bits = (x / x.abs().amax(-1, keepdim=True) * 127).round() * x.abs().amax(-1, keepdim=True) / 127
    assert apart(linear(x), plain(linear, x)) < apart(plain(linear, eight_bits), plain(linear, x))


def test_many_inputs_meet_unpacked_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, x = layer(300), inputs(FEW + 1)
    torch.testing.assert_close(linear(x), plain(linear, x), atol=1e-4, rtol=1e-5)
    small = layer(300)
    small._piece = 7  # in pieces that do not divide the rows
    torch.testing.assert_close(small(x), plain(linear, x), atol=1e-4, rtol=1e-5)
    monkeypatch.setattr(int8, "packed_kernel", lambda: False)  # a PyTorch without the kernel
    torch.testing.assert_close(linear(x[:2]), plain(linear, x[:2]), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_biases_dtypes_and_shapes(dtype: torch.dtype) -> None:
    linear, x = layer(48), inputs(6).view(2, 3, 512).to(dtype)
    linear.register_parameter("bias", nn.Parameter(torch.full((48,), 0.5, dtype=dtype), requires_grad=False))
    out = linear(x)
    assert out.shape == (2, 3, 48) and out.dtype == dtype
    assert apart(out.float(), plain(linear, x.float())) < 1e-2


def test_a_row_is_the_same_in_every_batch_of_a_step() -> None:
    """A picture drawn alone and beside fifteen others meets the same numbers, up to a last bit of bfloat16."""
    linear, x = layer(300), inputs(FEW)
    whole = linear(x)
    for count in (1, 2, 8):
        torch.testing.assert_close(linear(x[:count]), whole[:count], rtol=2**-7, atol=1e-4)


def test_joined_is_side_by_side_without_a_second_copy() -> None:
    parts, x = [layer(64, 1), layer(32, 2), layer(32, 3)], inputs(3)
    expected = torch.cat([part(x) for part in parts], dim=-1)
    whole = joined(parts)
    assert torch.equal(whole(x), expected) and torch.equal(torch.cat([part(x) for part in parts], dim=-1), expected)
    assert parts[0].weight.data_ptr() == whole.weight.data_ptr() and not whole.state_dict()
    assert parts[2].weight.untyped_storage().data_ptr() == whole.weight.untyped_storage().data_ptr()
