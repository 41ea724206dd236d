"""bitsandbytes' linears in a decode step: joined where they read the same input, and captured in nf4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from janus_app.nn.fast.decode_step import DecodeStep, can_capture
from janus_app.nn.fast.linear import UnfusedLinear, fuse_bitsandbytes, fuse_linears
from janus_app.nn.llama import LlamaModel
from janus_app.runtime.quantization import quantized_linear
from tests.nn.small_llama import CPU, OperationRecorder, prefilled, small_llama

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed here")


def int8(weight: Tensor) -> Any:
    """As on a GPU, where the loader makes bitsandbytes' own layer."""
    linear = bitsandbytes.nn.Linear8bitLt(weight.shape[1], len(weight), bias=False, has_fp16_weights=False, threshold=6)
    linear.weight = bitsandbytes.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False).to("cpu")
    return linear.eval()


def nf4(weight: Tensor) -> Any:
    linear: Any = quantized_linear(weight, "nf4", CPU, torch.float32)
    linear.support_avx512bf16_for_cpu = False  # no layout for CPUs, as on a GPU
    return linear


def weights() -> list[Tensor]:
    source = torch.Generator().manual_seed(0)
    return [torch.randn(rows, 64, generator=source) for rows in (64, 32, 96)]


@pytest.mark.parametrize("quantized", [int8, nf4])
@torch.inference_mode()
def test_joined_linears_compute_what_the_single_ones_do_in_the_same_memory(quantized: Callable[[Tensor], Any]) -> None:
    separate, linears = ([quantized(weight) for weight in weights()] for _ in range(2))
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    x[1, 5] = 20  # an outlier of LLM.int8()
    joined = fuse_bitsandbytes(linears)
    assert joined is not None and not list(joined.parameters()) and not list(joined.modules())[1:]
    torch.testing.assert_close(joined(x), torch.cat([linear(x) for linear in separate], dim=-1))
    torch.testing.assert_close(UnfusedLinear(linears)(x), joined(x))  # the single ones still work
    addresses = [linear.weight.data_ptr() for linear in linears]
    assert addresses[0] == joined.whole.weight.data_ptr() and addresses == sorted(addresses)
    assert addresses[2] - addresses[0] == sum(linear.weight.nbytes for linear in linears[:2])


@torch.inference_mode()
def test_linears_that_cannot_be_joined_stay_as_they_are() -> None:
    used = [int8(weight) for weight in weights()]
    used[0](torch.ones(1, 64))
    fp4 = bitsandbytes.nn.Linear4bit(64, 32, bias=False, compress_statistics=False, quant_type="fp4")
    fp4.weight = bitsandbytes.nn.Params4bit(weights()[1], compress_statistics=False, quant_type="fp4").to("cpu")
    mixed = [nf4(weights()[0]), fp4]
    narrow = [nf4(weight[:, :32].contiguous()) for weight in weights()]  # a block of nf4 holds two rows
    for linears in (used, mixed, narrow, [int8(weights()[0]), nf4(weights()[0])]):
        assert fuse_bitsandbytes(linears) is None
    assert isinstance(fuse_linears(*(nf4(weight) for weight in weights())), UnfusedLinear)  # on a CPU


def quantize(llama: LlamaModel, quantized: Callable[[Tensor], Any]) -> None:
    for block in llama.blocks:
        for parent in (block.self_attn, block.mlp):
            for name, linear in list(parent.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(parent, name, quantized(linear.weight.data))
        block.self_attn.qkv = fuse_bitsandbytes(block.self_attn.projections)
        block.mlp.gate_up = fuse_bitsandbytes([block.mlp.gate_proj, block.mlp.up_proj])


@torch.inference_mode()
def test_a_step_in_nf4_never_waits_and_runs_the_same_operations_at_every_position() -> None:
    llama = small_llama(4, 2, fused=False)
    quantize(llama, nf4)
    cache, inputs = prefilled(llama, [6, 3])
    step, runs = DecodeStep(llama, cache), []
    for x in inputs[:3]:
        with OperationRecorder() as operations:
            step(x, cache.capacity)
        cache.length += 1
        runs.append(operations.seen)
    assert runs[1] == runs[0] and runs[2] == runs[0]
    products = [name for name, _ in runs[0] if name.startswith("bitsandbytes.")]
    assert products == ["bitsandbytes.gemm_4bit.default"] * 4 * 3  # qkv, out, gate and up, down of three blocks
    assert can_capture(llama, torch.device("cuda"))


@torch.inference_mode()
def test_a_step_in_the_int8_of_the_library_waits_and_is_not_captured() -> None:
    llama = small_llama(4, 2, fused=False)
    quantize(llama, int8)
    cache, inputs = prefilled(llama, [5])
    names = {"bitsandbytes.int8_vectorwise_quant.default", "bitsandbytes.int8_mixed_scaled_mm.default"}
    with OperationRecorder() as operations:
        DecodeStep(llama, cache)(inputs[0], cache.length + 1)
    assert names & {name for name, _ in operations.seen}
    assert not can_capture(llama, torch.device("cuda"))
