"""Linear layers on a CPU: which product is used, and that its numbers are those of `torch.nn.Linear`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.nn.fast import linear, packing
from janus_app.nn.fast.linear import (
    MAX_DECODE_ROWS,
    FusedLinear,
    Int8Linear,
    Linear,
    apply_linear,
    chunked_product,
    fuse_int8,
    has_bfloat16_instructions,
    int8_linear_reference,
    linear_function,
)
from janus_app.nn.fast.packing import residual_function
from tests.nn.small_llama import OperationRecorder, small_llama


def random(*shape: int, seed: int = 4) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "width"), [(1, 0), (2, 2), (3, 4), (8, 8), (9, 16), (20, 24), (32, 32), (33, 0)])
@pytest.mark.parametrize("bias", [None, 3.0])
@torch.inference_mode()
def test_few_rows_use_the_transposed_product(
    rows: int, width: int, bias: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`width` is that of the padded inputs; 0 where PyTorch's own product is used. The numbers are the same."""
    monkeypatch.setattr(linear, "TRANSPOSE_MIN_WEIGHTS", 63)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    source = torch.Generator().manual_seed(4)
    x, weight = torch.randn(rows, 1, 7, generator=source), torch.randn(9, 7, generator=source)
    biases = None if bias is None else torch.randn(9, generator=source) * bias
    with OperationRecorder() as operations:
        out = apply_linear(x, weight, biases)
    torch.testing.assert_close(out, F.linear(x, weight, biases), atol=1e-5, rtol=0)
    assert out.is_contiguous() and out.shape == (rows, 1, 9)
    transposed = [shapes for name, shapes in operations.seen if name == "mm.default" and shapes.startswith("[((9, 7)")]
    assert transposed == ([f"[((9, 7), 'torch.float32'), ((7, {width}), 'torch.float32')]"] if width else [])


@pytest.mark.parametrize(("threads", "min_weights"), [(1, 63), (2, 64)])
@torch.inference_mode()
def test_one_thread_or_a_small_matrix_uses_pytorchs_product(
    threads: int, min_weights: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "TRANSPOSE_MIN_WEIGHTS", min_weights)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    with OperationRecorder() as operations:
        apply_linear(random(3, 7), random(9, 7))
    assert not any(shapes.startswith("[((9, 7)") for name, shapes in operations.seen if name == "mm.default")


@pytest.mark.parametrize("rows", [1, 3, 4, 40])
@torch.inference_mode()
def test_bfloat16_is_unpacked_for_several_rows_where_it_is_emulated(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "UNPACK_CHUNK", 60)  # four rows of fifteen
    layer = Linear(15, 9).bfloat16()
    x = random(rows, 1, 15, seed=6).bfloat16()
    wanted = F.linear(x.float(), layer.weight.float(), layer.bias.float())
    for emulated, dtype in ((True, "float32" if rows >= linear.UNPACK_MIN_ROWS else "bfloat16"), (False, "bfloat16")):
        monkeypatch.setattr(linear, "has_bfloat16_instructions", lambda emulated=emulated: not emulated)
        with OperationRecorder() as operations:
            out = layer(x)
        assert out.dtype == torch.bfloat16 and out.shape == (rows, 1, 9)
        torch.testing.assert_close(out.float(), wanted, atol=0.03, rtol=0.01)
        products = [shapes for name, shapes in operations.seen if name.partition(".")[0] in ("mm", "addmm", "linear")]
        assert len(products) == (3 if dtype == "float32" else 1) and all(dtype in shapes for shapes in products)


def test_bfloat16_instructions_are_known_only_where_pytorch_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = has_bfloat16_instructions.__wrapped__
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert ask() is False
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert ask() is True
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert ask() is None
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert ask() is None


def test_chunks_make_the_whole_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "UNPACK_CHUNK", 20)  # chunks that do not divide the rows
    weight, x = torch.randint(-127, 128, (11, 6), dtype=torch.int8), random(3, 6)
    torch.testing.assert_close(chunked_product(x, weight), F.linear(x, weight.float()))


# ---- fusing


@torch.inference_mode()
def test_fusing_changes_neither_the_state_dict_nor_the_numbers() -> None:
    separate, fused = small_llama(4, 2, fused=False), small_llama(4, 2, fused=True)
    assert {n: t.tolist() for n, t in separate.state_dict().items()} == {
        n: t.tolist() for n, t in fused.state_dict().items()
    }
    x = random(2, 9, 64, seed=3)
    torch.testing.assert_close(fused(x), separate(x), atol=1e-5, rtol=0)


def test_fusing_copies_no_weights() -> None:
    attention = next(small_llama(4, 2, fused=True).blocks).self_attn
    assert isinstance(attention.qkv, FusedLinear)
    assert attention.q_proj.weight.data_ptr() == attention.qkv.weight.data_ptr()


@torch.inference_mode()
def test_small_products_add_the_residual_in_one_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = next(small_llama(4, 2, fused=True).blocks).mlp.down_proj
    residual, x = random(2, 64, seed=5), random(2, 96, seed=6)
    with OperationRecorder() as operations:
        small = residual_function(layer, linear_function(layer))(residual, x)
    assert [name for name, _ in operations.seen] == ["t.default", "addmm.default"]
    monkeypatch.setattr(packing, "ADDMM_MAX_WEIGHTS", 1)
    large = residual_function(layer, linear_function(layer))(residual, x)
    torch.testing.assert_close(small, large, atol=1e-5, rtol=0)
    torch.testing.assert_close(small, residual + layer(x), atol=1e-5, rtol=0)


# ---- int8


def int8_layer(out_size: int, seed: int = 0, in_size: int = 512) -> Int8Linear:
    source = torch.Generator().manual_seed(seed)
    weight = torch.randint(-127, 128, (out_size, in_size), dtype=torch.int8, generator=source)
    return Int8Linear(weight, torch.rand(out_size, generator=source) * 1e-3 + 1e-4)


def relative_error(out: Tensor, wanted: Tensor) -> float:
    return float((out - wanted).norm() / wanted.norm())


def test_int8_with_few_rows_rounds_less_than_int8_inputs_would() -> None:
    """Only inputs and outputs are rounded, to bfloat16's eight bits."""
    layer, x = int8_layer(300), random(4, 512, seed=9)
    assert linear.has_int8_kernel()
    assert 0 < relative_error(layer(x), int8_linear_reference(layer, x)) < 3e-3
    scale = x.abs().amax(-1, keepdim=True) / 127
    int8_inputs = int8_linear_reference(layer, (x / scale).round() * scale)
    wanted = int8_linear_reference(layer, x)
    assert relative_error(layer(x), wanted) < relative_error(int8_inputs, wanted)


@pytest.mark.parametrize(("instructions", "error"), [(True, 3e-3), (False, 1e-6), (None, 1e-6)])
def test_int8_with_many_rows_or_without_the_kernel_unpacks_the_weights(
    instructions: bool | None, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To bfloat16, whose eight bits hold all of them, where the processor multiplies it; else to float32."""
    monkeypatch.setattr(linear, "has_bfloat16_instructions", lambda: instructions)
    monkeypatch.setattr(linear, "UNPACK_CHUNK", 7 * 512)  # chunks that do not divide the rows
    layer, x = int8_layer(300), random(MAX_DECODE_ROWS + 1, 512, seed=9)
    wanted = int8_linear_reference(layer, x)
    few = linear.INT8_KERNEL_MAX_ROWS + 1 if instructions else MAX_DECODE_ROWS + 1
    for rows in (few - 1, few, len(x)):
        with OperationRecorder() as operations:
            out = layer(x[:rows])
        assert relative_error(out, wanted[:rows]) < (error if rows >= few else 3e-3)
        by_kernel = any("_weight_int8pack_mm" in name for name, _ in operations.seen)
        assert by_kernel == (rows < few)
    monkeypatch.setattr(linear, "has_int8_kernel", lambda: False)
    assert relative_error(layer(x[:2]), wanted[:2]) < error


@torch.inference_mode()
def test_int8_of_a_step_takes_a_product_a_scale_and_a_conversion_and_gives_the_same_numbers_in_any_shape() -> None:
    layer, x = int8_layer(300), random(2, 512, seed=9).bfloat16()
    with OperationRecorder() as operations:
        out = layer(x)
    assert [name.partition(".")[0] for name, _ in operations.seen] == ["_weight_int8pack_mm", "mul", "to"]
    assert torch.equal(layer(x[:, None]), out[:, None]) and torch.equal(layer(x[0]), layer(x[:1])[0])


@pytest.mark.parametrize("in_size", [16, 48, 72, 172])
def test_int8_rows_of_any_length_give_the_right_numbers(in_size: int) -> None:
    """PyTorch's kernel reads beyond rows that are not a multiple of 16 long: wrong numbers, or a crash."""
    layer, x = int8_layer(65, in_size=in_size), random(3, in_size)
    assert relative_error(layer(x), int8_linear_reference(layer, x)) < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_keeps_shape_and_dtype_and_adds_its_bias(dtype: torch.dtype) -> None:
    layer, x = int8_layer(48), random(6, 512, seed=9).view(2, 3, 512).to(dtype)
    layer.register_parameter("bias", nn.Parameter(torch.full((48,), 0.5, dtype=dtype), requires_grad=False))
    out = layer(x)
    assert out.shape == (2, 3, 48) and out.dtype == dtype
    assert relative_error(out.float(), int8_linear_reference(layer, x.float())) < 1e-2


def test_int8_gives_a_row_the_same_numbers_in_every_batch() -> None:
    """Up to a last bit of bfloat16, a picture is the same drawn alone and beside fifteen others."""
    layer, x = int8_layer(300), random(MAX_DECODE_ROWS, 512, seed=9)
    whole = layer(x)
    for count in (1, 2, 8):
        torch.testing.assert_close(layer(x[:count]), whole[:count], rtol=2**-7, atol=1e-4)


def test_fused_int8_is_the_parts_side_by_side_without_a_copy() -> None:
    parts, x = [int8_layer(64, 1), int8_layer(32, 2), int8_layer(32, 3)], random(3, 512, seed=9)
    expected = torch.cat([part(x) for part in parts], dim=-1)
    fused = fuse_int8(parts)
    assert torch.equal(fused(x), expected) and torch.equal(torch.cat([part(x) for part in parts], dim=-1), expected)
    assert parts[0].weight.data_ptr() == fused.weight.data_ptr() and not fused.state_dict()
    assert parts[2].weight.untyped_storage().data_ptr() == fused.weight.untyped_storage().data_ptr()
