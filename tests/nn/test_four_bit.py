"""nf4 linears on a CPU with bfloat16 instructions: many rows are multiplied with unpacked weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from janus_app.nn.fast import four_bit
from janus_app.nn.fast.four_bit import NF4_UNPACK_MIN_ROWS, unpack_nf4
from janus_app.runtime.quantization import quantized_linear

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed here")
CPU = torch.device("cpu")


def packed_linear(out: int, inner: int) -> tuple[Any, torch.Tensor]:
    """A linear in the layout that bitsandbytes makes on such a processor, and the weights that it stands for."""
    weight = torch.randn(out, inner, generator=torch.Generator().manual_seed(5)).bfloat16()
    linear: Any = quantized_linear(weight, "nf4", CPU, torch.bfloat16)
    wanted = bitsandbytes.functional.dequantize_4bit(linear.weight.data, linear.weight.quant_state)
    linear.weight.data, linear.weight.quant_state = bitsandbytes.functional._convert_weight_packed_for_cpu(
        linear.weight.data, copy.copy(linear.weight.quant_state)
    )
    linear.support_avx512bf16_for_cpu = True
    return linear, wanted


@pytest.mark.parametrize(("out", "inner"), [(32, 64), (96, 192), (64, 128)])
def test_unpacked_weights_are_exactly_those_of_the_library(out: int, inner: int) -> None:
    linear, wanted = packed_linear(out, inner)
    state = linear.weight.quant_state
    assert torch.equal(unpack_nf4(linear.weight.data, state.absmax, state.blocksize), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("chunk", [1, 1 << 22])
@torch.inference_mode()
def test_many_rows_are_multiplied_with_the_librarys_weights(
    chunk: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one chunk and in several; without the library's kernel, which needs a processor with bfloat16."""
    monkeypatch.setattr(four_bit, "UNPACK_CHUNK", chunk)
    linear, weight = packed_linear(96, 192)
    x = torch.randn(2, NF4_UNPACK_MIN_ROWS // 2, 192, generator=torch.Generator().manual_seed(6)).to(dtype)
    out = linear(x)
    assert out.dtype == dtype and out.shape == (*x.shape[:-1], 96)
    torch.testing.assert_close(out.float(), F.linear(x.bfloat16().float(), weight.float()), atol=0.1, rtol=0.01)


@torch.inference_mode()
def test_first_product_may_have_many_rows_and_a_later_one_few() -> None:
    """As a prompt and the tokens behind it; the library packs where the processor multiplies bfloat16, or never."""
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(7)).bfloat16()
    linear = quantized_linear(weight, "nf4", CPU, torch.bfloat16)
    x = torch.randn(NF4_UNPACK_MIN_ROWS, 128, generator=torch.Generator().manual_seed(8)).bfloat16()
    many, few = linear(x), torch.cat([linear(row) for row in x.split(2)])
    torch.testing.assert_close(many.float(), few.float(), atol=0.25, rtol=0.02)
