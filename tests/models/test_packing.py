"""Weights rearranged for the processor: the same numbers, nothing large twice, left alone where nothing is gained."""

from __future__ import annotations

import copy
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from janus_app.nn.fast.packing import pack, packs
from torch import Tensor, nn

from janus_app.models.janus.pipeline import JanusModel
from janus_app.nn import llama
from janus_app.nn.fast import linear, packing
from janus_app.nn.fast.decode_step import DecodeStep
from janus_app.nn.fast.linear import Linear, Packed, Widened
from janus_app.types import Finished, GenerateRequest
from tests.conftest import GOLDEN, loaded
from tests.models.test_engine import Calls, trunk

pytestmark = pytest.mark.skipif(not packs(), reason="PyTorch has no oneDNN here, or the processor is no x86")


@pytest.fixture(scope="module")
def model() -> JanusModel:
    return cast(JanusModel, loaded(GOLDEN / "janus_pro_1b" / "checkpoint").model)


@pytest.fixture
def everything(model: JanusModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix is worth it, on a processor without bfloat16; not of `model`, which others share."""
    for module, names in {packing: ("LEAST", "LARGE"), linear: ("LEAST",)}.items():
        for name in names:
            monkeypatch.setattr(module, name, 1)
    for module in (packing, linear, llama):
        monkeypatch.setattr(module, "bfloat16_is_emulated", lambda: True)


@pytest.mark.parametrize("rows", [(1,), (2,), (3, 1), (2, 20), (600,)])
@pytest.mark.parametrize("biased", [False, True])
@torch.inference_mode()
def test_a_packed_linear_is_the_linear(rows: tuple[int, ...], biased: bool) -> None:
    source = torch.Generator().manual_seed(4)
    weight, x = torch.randn(33, 17, generator=source), torch.randn(*rows, 17, generator=source)
    bias = torch.randn(33, generator=source) if biased else None
    packed, wanted = Packed(weight, bias), F.linear(x, weight, bias)
    torch.testing.assert_close(packed(x), wanted, atol=1e-5, rtol=0)
    total = torch.randn(wanted.shape, generator=source)
    torch.testing.assert_close(packed.add(total, x), total + wanted, atol=1e-5, rtol=0)
    assert packed.weight.is_meta and packed.weight.shape == weight.shape


@pytest.mark.parametrize("least", [1, 1 << 20])
@pytest.mark.parametrize("rows", [1, 2, 3, 40])
@torch.inference_mode()
def test_a_widened_linear_is_the_linear(least: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few inputs and a small matrix PyTorch's own product is taken."""
    monkeypatch.setattr(linear, "LEAST", least)
    source = torch.Generator().manual_seed(4)
    weight, bias = torch.randn(33, 17, generator=source).bfloat16(), torch.randn(33, generator=source).bfloat16()
    x = torch.randn(rows, 1, 17, generator=source).bfloat16()
    widened = Widened(weight, bias)
    with Calls() as calls:
        got = widened(x)
    wanted = F.linear(x.float(), weight.float(), bias.float())
    assert got.dtype == torch.bfloat16 and widened.weight.data_ptr() == weight.data_ptr()
    torch.testing.assert_close(got.float(), wanted, atol=0.03, rtol=0.01)
    own = [name for name, _ in calls.seen if name == "mkldnn._linear_pointwise.default"]
    assert len(own) == (0 if rows <= 2 and least > 1 else 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_packed_trunk_is_the_trunk(dtype: torch.dtype, everything: None) -> None:
    """Read at once and step by step; names and shapes stay, and the single weights of a joined product are gone."""
    plain, packed = (trunk(4, 2, fused=True).to(dtype) for _ in range(2))
    names = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    pack(packed)
    kind = Packed if dtype == torch.float32 else Widened
    assert sum(isinstance(module, kind) for module in packed.modules()) == 4 * 3
    assert {n: t.shape for n, t in packed.state_dict().items()} == names
    left = [t for n, t in packed.state_dict().items() if n.endswith("proj.weight")]
    assert all(tensor.is_meta == (dtype == torch.float32) for tensor in left)
    outs = []
    for made in (plain, packed):
        inputs = torch.randn(3, 11, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
        cache = llama.KVCache(made.config, 3, 11, device=torch.device("cpu"), dtype=dtype)
        outs.append([*made(inputs[:, :5], None, cache).float().unbind(1)])
        step = DecodeStep(made, cache)
        for x in inputs[:, 5:].unbind(1):
            outs[-1].append(step(x, cache.length + 1).float())
            cache.length += 1
    near = 2e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(torch.stack(outs[0]), torch.stack(outs[1]), atol=near, rtol=near)


@torch.inference_mode()
def test_a_packed_network_draws_the_same_tokens(model: JanusModel, everything: None) -> None:
    request = GenerateRequest("A small red house.", count=2, seed=3, guidance=4.0)
    plain = [event for event in model.generate(request) if isinstance(event, Finished)]
    packed = copy.copy(model)
    packed.network = copy.deepcopy(model.network)
    packed.network.arrange()
    assert isinstance(packed.network.gen_head.vision_head, Packed)
    drawn = [event for event in packed.generate(request) if isinstance(event, Finished)]
    assert [p.image_tokens for p in drawn[0].pictures] == [p.image_tokens for p in plain[0].pictures]


@torch.inference_mode()
def test_what_gains_nothing_is_left_alone(everything: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(layer: nn.Module) -> bool:
        holder = nn.Sequential(layer)
        pack(holder)
        return holder[0] is layer

    assert not kept(Linear(8, 8)) and not kept(nn.Linear(8, 8).bfloat16())
    assert kept(Linear(8, 8).half()) and kept(Linear(8, 8, device="meta")) and kept(nn.Conv1d(8, 8, 1))
    travelling = Linear(8, 8)
    travelling._hf_hook = object()  # type: ignore[assignment]
    assert kept(travelling) and not kept(nn.Sequential(Linear(8, 8))[0])
    beside = nn.Sequential(Linear(8, 8), travelling)
    pack(beside)
    assert type(beside[0]) is Linear  # a network that travels is left as it is, also its layers at home
    monkeypatch.setattr(packing, "MOST", 63)
    assert kept(Linear(8, 8).bfloat16())  # twice the memory of a large one is no gain
    monkeypatch.setattr(packing, "MOST", 64)
    monkeypatch.setattr(packing, "bfloat16_is_emulated", lambda: False)
    assert kept(Linear(8, 8).bfloat16())
    monkeypatch.setattr(packing, "LEAST", 65)
    assert kept(Linear(8, 8))
    monkeypatch.setattr(packing, "LEAST", 64)
    monkeypatch.setattr(packing, "packs", lambda: False)
    assert kept(Linear(8, 8))


def test_who_can_pack_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = packs.__wrapped__
    assert ask()
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert not ask()
    monkeypatch.setattr("platform.machine", lambda: "AMD64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not ask()


@pytest.mark.parametrize("slow", [False, True])
@torch.inference_mode()
def test_bfloat16_keys_are_held_in_float32_where_they_would_be_widened(
    slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "bfloat16_is_emulated", lambda: slow)
    assert llama.cache_dtype(torch.device("cpu"), torch.float16) == torch.float16
    assert llama.cache_dtype(torch.device("cuda"), torch.bfloat16) == torch.bfloat16
    made = trunk(4, 2, fused=True).bfloat16()
    cache = llama.KVCache(made.config, 2, 12, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert cache.kv.dtype == (torch.float32 if slow else torch.bfloat16)
    x = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    at_once = made(x)
    begun = made(x[:, :8], None, cache)
    step = DecodeStep(made, cache)
    last = step(x[:, 8], 9)
    assert at_once.dtype == begun.dtype == last.dtype == torch.bfloat16
    wanted: Tensor = torch.cat([begun, last[:, None]], dim=1)
    torch.testing.assert_close(wanted.float(), at_once.float(), atol=0.05, rtol=0.05)
    assert torch.equal(cache.kv, cache.kv.bfloat16().to(cache.kv.dtype))  # what is written was rounded before
