"""Packed linears: the same numbers, no weights in memory twice, and layers left as they are where nothing is gained."""

from __future__ import annotations

import copy
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.models.janus.pipeline import JanusModel
from janus_app.nn import llama
from janus_app.nn.fast import linear, packing
from janus_app.nn.fast.decode_step import DecodeStep
from janus_app.nn.fast.linear import Linear
from janus_app.nn.fast.packing import PackedLinear, WidenedLinear, can_pack, pack_linears
from janus_app.types import Finished, GenerateRequest
from tests.conftest import GOLDEN, loaded
from tests.nn.small_llama import CPU, OperationRecorder, small_llama

pytestmark = pytest.mark.skipif(not can_pack(), reason="PyTorch has no oneDNN here, or the processor is no x86")


@pytest.fixture(scope="module")
def model() -> JanusModel:
    return cast(JanusModel, loaded(GOLDEN / "janus_pro_1b" / "checkpoint").model)


@pytest.fixture
def pack_everything(model: JanusModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix is large enough, and bfloat16 is emulated. `model` is loaded before, because tests share it."""
    monkeypatch.setattr(packing, "PACK_MIN_WEIGHTS", 1)
    for module in (linear, packing):
        monkeypatch.setattr(module, "TRANSPOSE_MIN_WEIGHTS", 1)
    for module in (linear, packing, llama):
        monkeypatch.setattr(module, "has_bfloat16_instructions", lambda: False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [(1,), (2,), (3, 1), (2, 20), (600,)])
@pytest.mark.parametrize("biased", [False, True])
@torch.inference_mode()
def test_a_packed_linear_computes_what_the_plain_one_does(
    rows: tuple[int, ...], biased: bool, dtype: torch.dtype
) -> None:
    source = torch.Generator().manual_seed(4)
    weight, x = (torch.randn(*size, 17, generator=source).to(dtype) for size in ((33,), rows))
    bias = torch.randn(33, generator=source).to(dtype) if biased else None
    packed = PackedLinear(weight, bias)
    wanted = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    tolerance = {"atol": 1e-5, "rtol": 0} if dtype == torch.float32 else {"atol": 0.04, "rtol": 0.01}
    torch.testing.assert_close(packed(x).float(), wanted, **tolerance)
    residual = torch.randn(wanted.shape, generator=source).to(dtype)
    torch.testing.assert_close(packed.add(residual, x).float(), residual + wanted, **tolerance)
    assert packed.weight.is_meta and packed.weight.shape == weight.shape and packed.weight.dtype == packed(x).dtype


@pytest.mark.parametrize("min_weights", [1, 1 << 20])
@pytest.mark.parametrize("rows", [1, 2, 3, 40])
@torch.inference_mode()
def test_a_widened_linear_computes_what_the_plain_one_does(
    min_weights: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small matrix with few rows uses PyTorch's own product."""
    monkeypatch.setattr(packing, "PACK_MIN_WEIGHTS", min_weights)
    source = torch.Generator().manual_seed(4)
    weight, bias = torch.randn(33, 17, generator=source).bfloat16(), torch.randn(33, generator=source).bfloat16()
    x = torch.randn(rows, 1, 17, generator=source).bfloat16()
    widened = WidenedLinear(weight, bias)
    with OperationRecorder() as operations:
        out = widened(x)
    wanted = F.linear(x.float(), weight.float(), bias.float())
    assert out.dtype == torch.bfloat16 and widened.weight.data_ptr() == weight.data_ptr()
    torch.testing.assert_close(out.float(), wanted, atol=0.03, rtol=0.01)
    packed = [name for name, _ in operations.seen if name == "mkldnn._linear_pointwise.default"]
    assert len(packed) == (0 if rows <= 2 and min_weights > 1 else 1)


@pytest.mark.parametrize(
    ("dtype", "instructions"), [(torch.float32, None), (torch.bfloat16, False), (torch.bfloat16, True)]
)
@torch.inference_mode()
def test_a_packed_llama_computes_what_the_plain_one_does(
    dtype: torch.dtype, instructions: bool | None, pack_everything: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a prefill and step by step. The state dict keeps names and shapes; the parts of fused linears are freed."""
    plain, packed = (small_llama(4, 2, fused=True).to(dtype) for _ in range(2))
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    for module in (linear, packing, llama):
        monkeypatch.setattr(module, "has_bfloat16_instructions", lambda: instructions)
    pack_linears(packed)
    kind = WidenedLinear if instructions is False else PackedLinear
    assert sum(isinstance(module, kind) for module in packed.modules()) == 4 * 3
    assert {n: t.shape for n, t in packed.state_dict().items()} == shapes
    weights = [t for n, t in packed.state_dict().items() if n.endswith("proj.weight")]
    assert all(tensor.is_meta == (kind is PackedLinear) and tensor.dtype == dtype for tensor in weights)
    outs = []
    for each in (plain, packed):
        inputs = torch.randn(3, 11, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
        cache = llama.KVCache(each.config, 3, 11, device=CPU, dtype=dtype)
        outs.append([*each(inputs[:, :5], None, cache).float().unbind(1)])
        step = DecodeStep(each, cache)
        for x in inputs[:, 5:].unbind(1):
            outs[-1].append(step(x, cache.length + 1).float())
            cache.length += 1
    tolerance = 2e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(torch.stack(outs[0]), torch.stack(outs[1]), atol=tolerance, rtol=tolerance)


@torch.inference_mode()
def test_a_packed_network_draws_the_same_tokens(model: JanusModel, pack_everything: None) -> None:
    request = GenerateRequest("A small red house.", count=2, seed=3, guidance=4.0)
    plain = [event for event in model.generate(request) if isinstance(event, Finished)]
    packed = copy.copy(model)
    packed.network = copy.deepcopy(model.network)
    packed.network.arrange()
    assert isinstance(packed.network.gen_head.vision_head, PackedLinear)
    drawn = [event for event in packed.generate(request) if isinstance(event, Finished)]
    assert [p.image_tokens for p in drawn[0].pictures] == [p.image_tokens for p in plain[0].pictures]


def is_packed(layer: nn.Module) -> bool:
    parent = nn.Sequential(layer)
    pack_linears(parent)
    return parent[0] is not layer


def offloaded_linear() -> Linear:
    layer = Linear(8, 8)
    layer._hf_hook = object()  # type: ignore[assignment]
    return layer


@torch.inference_mode()
def test_only_plain_float32_and_bfloat16_linears_on_a_cpu_are_packed(pack_everything: None) -> None:
    assert is_packed(Linear(8, 8)) and is_packed(nn.Linear(8, 8).bfloat16())
    assert not any(map(is_packed, (Linear(8, 8).half(), Linear(8, 8, device="meta"), nn.Conv1d(8, 8, 1))))
    assert not is_packed(offloaded_linear())


@torch.inference_mode()
def test_a_network_with_offload_hooks_is_not_packed_at_all(pack_everything: None) -> None:
    network = nn.Sequential(Linear(8, 8), offloaded_linear())
    pack_linears(network)
    assert type(network[0]) is Linear


@torch.inference_mode()
def test_layers_are_packed_only_where_that_gains(pack_everything: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "WIDEN_MAX_WEIGHTS", 63)
    assert not is_packed(Linear(8, 8).bfloat16())  # a float32 copy would take too much memory
    monkeypatch.setattr(packing, "WIDEN_MAX_WEIGHTS", 64)
    monkeypatch.setattr(packing, "has_bfloat16_instructions", lambda: None)
    assert not is_packed(Linear(8, 8).bfloat16())  # not known here
    monkeypatch.setattr(packing, "has_bfloat16_instructions", lambda: True)
    monkeypatch.setattr(packing, "PACK_MIN_WEIGHTS", 65)
    assert not is_packed(Linear(8, 8)) and not is_packed(Linear(8, 8).bfloat16())
    monkeypatch.setattr(packing, "PACK_MIN_WEIGHTS", 64)
    assert is_packed(Linear(8, 8)) and is_packed(Linear(8, 8).bfloat16())
    monkeypatch.setattr(packing, "can_pack", lambda: False)
    assert not is_packed(Linear(8, 8))


def test_packing_needs_x86_and_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = can_pack.__wrapped__
    assert ask()
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert not ask()
    monkeypatch.setattr("platform.machine", lambda: "AMD64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not ask()


@pytest.mark.parametrize("emulated", [False, True])
@torch.inference_mode()
def test_the_cache_is_float32_where_bfloat16_is_emulated(emulated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "has_bfloat16_instructions", lambda: not emulated)
    assert llama.cache_dtype(CPU, torch.float16) == torch.float16
    assert llama.cache_dtype(torch.device("cuda"), torch.bfloat16) == torch.bfloat16
    model = small_llama(4, 2, fused=True).bfloat16()
    cache = llama.KVCache(model.config, 2, 12, device=CPU, dtype=torch.bfloat16)
    assert cache.kv.dtype == (torch.float32 if emulated else torch.bfloat16)
    x = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    at_once = model(x)
    first = model(x[:, :8], None, cache)
    last = DecodeStep(model, cache)(x[:, 8], 9)
    assert at_once.dtype == first.dtype == last.dtype == torch.bfloat16
    in_two: Tensor = torch.cat([first, last[:, None]], dim=1)
    torch.testing.assert_close(in_two.float(), at_once.float(), atol=0.05, rtol=0.05)
    assert torch.equal(cache.kv, cache.kv.bfloat16().to(cache.kv.dtype))  # values are rounded before they are written
