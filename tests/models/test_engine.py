"""The step of the decode engine: the numbers of the modules, no waiting for the device, one shape for all positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from janus_app.nn.fast.fused import FusedLinear, adding, product
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from janus_app.models.janus.draw import ImageTokenStep, SamplingRule, draw_tokens
from janus_app.models.janus.pipeline import JanusModel
from janus_app.nn import sampling
from janus_app.nn.fast import cuda_graphs, decode_step, fused, kernels
from janus_app.nn.fast.cuda_graphs import CudaGraphRunner, warm_up
from janus_app.nn.fast.decode_step import DecodeStep, ModuleDecodeStep, can_capture, make_decode_step
from janus_app.nn.llama import DecoderConfig, KVCache, LlamaModel
from janus_app.nn.prefill import prefill
from janus_app.types import GenerateRequest
from tests.conftest import GOLDEN, loaded

# What reads a value of the device, or makes a shape depend on one: neither can be recorded.
WAITS = {"_local_scalar_dense", "item", "nonzero", "masked_select", "unique", "is_nonzero", "repeat_interleave.Tensor"}


class Calls(TorchDispatchMode):
    """Notes every operation with the shapes and strides of its inputs; refuses those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        if name in WAITS or name.partition(".")[0] in WAITS:
            raise AssertionError(f"the step waits for the device: {name}")
        shapes = [(tuple(a.shape), str(a.dtype)) for a in args if isinstance(a, Tensor)]
        self.seen.append((name, str(shapes)))
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def model() -> JanusModel:
    return cast(JanusModel, loaded(GOLDEN / "janus_pro_1b" / "checkpoint").model)


def trunk(heads: int, kv_heads: int, *, fused: bool) -> LlamaModel:
    config = DecoderConfig(32, 64, 96, 3, heads, kv_heads, 256)
    made = LlamaModel(config).eval().requires_grad_(False)
    source = torch.Generator().manual_seed(0)
    for tensor in made.parameters():
        tensor.copy_(torch.randn(tensor.shape, generator=source) * 0.2 + (tensor.dim() == 1))
    if fused:
        made.fuse()
    return made


def filled(made: LlamaModel, lengths: list[int]) -> tuple[KVCache, Tensor]:
    """A cache that holds random prompts, left-padded to one length, and six inputs that follow."""
    rows, longest = len(lengths), max(lengths)
    source = torch.Generator().manual_seed(1)
    cache = KVCache(made.config, rows, longest + 40, device=torch.device("cpu"), dtype=torch.float32)
    positions = None
    if len(set(lengths)) > 1:
        padding = torch.tensor([longest - n for n in lengths])
        cache.padding_mask = torch.arange(longest + 40)[None] < padding[:, None]
        positions = (torch.arange(longest)[None] - padding[:, None]).clamp(min=0)
    made(torch.randn(rows, longest, 64, generator=source), positions, cache)
    return cache, torch.randn(6, rows, 64, generator=source)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("lengths", [[5, 5], [7, 3, 5]])
@pytest.mark.parametrize("fused", [False, True])
@torch.inference_mode()
def test_a_step_is_the_modules_on_one_position(heads: int, kv_heads: int, lengths: list[int], fused: bool) -> None:
    """Also where more of the cache is looked at than is filled, and what lies there is poison."""
    made = trunk(heads, kv_heads, fused=fused)
    expected = []
    for kind in ("modules", "exact", "bucket"):
        cache, inputs = filled(made, lengths)
        step = ModuleDecodeStep(made, cache) if kind == "modules" else DecodeStep(made, cache)
        if kind == "bucket":
            cache.kv[:, :, :, :, cache.length :] = 1e4
        out = []
        for x in inputs:
            out.append(step(x, cache.capacity if kind == "bucket" else cache.length + 1))
            cache.length += 1
        if kind == "modules":
            expected = out
        else:
            torch.testing.assert_close(torch.stack(out), torch.stack(expected), atol=2e-5, rtol=0)


@torch.inference_mode()
def test_fusing_changes_neither_state_nor_numbers() -> None:
    apart, together = trunk(4, 2, fused=False), trunk(4, 2, fused=True)
    assert {n: t.tolist() for n, t in apart.state_dict().items()} == {
        n: t.tolist() for n, t in together.state_dict().items()
    }
    x = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(together(x), apart(x), atol=1e-5, rtol=0)
    one = next(together.blocks).self_attn
    assert (
        isinstance(one.qkv, FusedLinear) and one.q_proj.weight.data_ptr() == one.qkv.weight.data_ptr()
    )  # no second copy


@torch.inference_mode()
def test_a_small_product_adds_to_what_it_is_joined_with(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = next(trunk(4, 2, fused=True).blocks).mlp.down_proj
    source = torch.Generator().manual_seed(5)
    total, x = torch.randn(2, 64, generator=source), torch.randn(2, 96, generator=source)
    with Calls() as calls:
        small = adding(layer, product(layer))(total, x)
    assert [name for name, _ in calls.seen] == ["t.default", "addmm.default"]
    monkeypatch.setattr(fused, "SMALL", 1)
    torch.testing.assert_close(small, adding(layer, product(layer))(total, x), atol=1e-5, rtol=0)
    torch.testing.assert_close(small, total + layer(x), atol=1e-5, rtol=0)


def picture_step(model: JanusModel, count: int, *, keep: bool = False) -> tuple[ImageTokenStep, KVCache]:
    network = model.network
    rows = model._prompt_rows(GenerateRequest("A small red house.", guidance=4.0))
    hidden, cache = prefill(network, rows, 36)
    cache.repeat_rows(count)
    known = torch.full((36,), -1)
    if keep:
        known[1:3] = torch.tensor([5, 6])
    streams = sampling.generators(7, count)
    codes = network.config.vq.codebook_size
    rule = SamplingRule(4.0, 0.9, lambda cells: sampling.exponential_noise(streams, codes, cells))
    hidden = hidden[:, -1].repeat_interleave(count, dim=0)
    step = ImageTokenStep(network, cache, hidden, known.repeat(count, 1), known, rule)
    step.draw_noise(24)
    step.begin_row(0)
    return step, cache


@pytest.mark.parametrize("keep", [False, True])
@torch.inference_mode()
def test_a_row_of_a_picture_never_waits_and_every_step_is_the_same(model: JanusModel, keep: bool) -> None:
    """Over a whole bucket: same operations, shapes and dtypes at each position, and none that asks for a value."""
    step, cache = picture_step(model, 3, keep=keep)
    recordings = []
    for _ in range(4):
        with Calls() as calls:
            step.advance(cache.capacity)
        cache.length += 1
        recordings.append(calls.seen)
    with pytest.raises(AssertionError, match="waits"), Calls():  # the guard sees what it is there for
        step.check()
    assert all(one == recordings[0] for one in recordings)
    names = Counter(name for name, _ in recordings[0])
    layers = model.network.config.language.num_hidden_layers
    print(f"{len(recordings[0])} operations a token with {layers} layers: {names.most_common(8)}")
    assert names["index_copy_.default"] == layers + 1  # keys and values at once, and the token
    products = sum(count for name, count in names.items() if name.split(".")[0] in ("mm", "addmm", "linear"))
    assert products == 4 * layers + 2  # qkv, out, gate and up, down; two in the head; tokens come from a table


@torch.inference_mode()
def test_buckets_draw_the_same_tokens(model: JanusModel) -> None:
    drawn = []
    for bucket in (False, True):
        step, cache = picture_step(model, 2)
        for _ in range(24):
            step.advance(cache.capacity if bucket else cache.length + 1)
            cache.length += 1
        step.check()
        drawn.append(step.tokens[:, :24].tolist())
    assert drawn[0] == drawn[1] and -1 not in drawn[0][0]


@torch.inference_mode()
def test_a_rehearsal_leaves_no_trace(model: JanusModel) -> None:
    straight, cache = picture_step(model, 2)
    rehearsed, other = picture_step(model, 2)
    for _ in range(5):
        straight.advance(cache.length + 1)
        warm_up(rehearsed.advance, other.length + 1, rehearsed.state)
        rehearsed.advance(other.length + 1)
        cache.length += 1
        other.length += 1
    assert torch.equal(straight.tokens, rehearsed.tokens) and torch.equal(cache.kv, other.kv)
    assert all(torch.equal(a, b) for a, b in zip(straight.state, rehearsed.state, strict=True))


@torch.inference_mode()
def test_a_recording_serves_a_bucket_or_all_where_attention_stops_by_itself(
    model: JanusModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = []
    graph = SimpleNamespace(replay=lambda: None)
    monkeypatch.setattr(cuda_graphs._Recorder, "_graph", lambda self, span: (spans.append(span), graph)[1])
    own = replace(kernels.PLAIN, attend=lambda *inputs: kernels.attend(*inputs))
    for chosen, wanted in ((kernels.PLAIN, {128, 256, 300}), (own, {300})):
        monkeypatch.setattr(decode_step, "kernels_for", lambda *_, chosen=chosen: chosen)
        cache = model.network.new_cache(1, 300)
        step = decode_step.make_decode_step(model.network.language_model.model, cache)
        replay = CudaGraphRunner(lambda span: None, (), cache.capacity, decode_step.bucket(step))
        spans.clear()
        for span in range(1, 301):
            replay(span)
        assert set(spans) == wanted
        assert (step._mask(cache.capacity) is None) == (chosen is own)


@pytest.mark.skipif(torch.cuda.is_available(), reason="recording works there")
@torch.inference_mode()
def test_where_nothing_can_be_recorded_the_steps_run(model: JanusModel, caplog: pytest.LogCaptureFixture) -> None:
    """On a machine without CUDA recording really fails, and the picture is drawn all the same."""
    straight, cache = picture_step(model, 2)
    falling, other = picture_step(model, 2)
    replay = CudaGraphRunner(falling.advance, falling.state, other.capacity)
    for _ in range(3):
        straight.advance(cache.length + 1)
        replay(other.length + 1)
        cache.length += 1
        other.length += 1
    assert torch.equal(straight.tokens, falling.tokens)
    assert [r.levelname for r in caplog.records] == ["WARNING"]


def test_noise_is_drawn_in_order_and_for_no_cell_too_many(model: JanusModel) -> None:
    """Each cell takes one draw of each stream whatever the rows are: one number too many shifts all that follows."""
    network, drawn = model.network, 0
    stream = torch.Generator().manual_seed(3)

    def noise(cells: int) -> Tensor:
        nonlocal drawn
        assert cells
        drawn += cells
        return sampling.exponential_noise([stream], network.config.vq.codebook_size, cells)

    rows = model._prompt_rows(GenerateRequest("A small red house.", guidance=4.0))
    known = torch.full((36,), -1)
    known[:2], known[34:] = 4, 9
    *_, tokens = draw_tokens(network, rows, 1, SamplingRule(4.0, 1.0, noise), known)
    assert drawn == 34 and tokens[0, :2].tolist() == [4, 4] and tokens[0, 34:].tolist() == [9, 9]


def test_a_row_s_noise_is_drawn_while_the_device_draws_the_row_before(
    model: JanusModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check` waits for the device: all that can be done without it is done before."""
    order = []
    check, codes = ImageTokenStep.check, model.network.config.vq.codebook_size
    monkeypatch.setattr(ImageTokenStep, "check", lambda step: (order.append("wait"), check(step)))
    rule = SamplingRule(4.0, 1.0, lambda cells: (order.append(cells), torch.ones(cells, 1, codes))[1])
    rows = model._prompt_rows(GenerateRequest("A small red house.", guidance=4.0))
    assert len(list(draw_tokens(model.network, rows, 1, rule, torch.full((36,), -1)))) == 36
    assert order == [24, 12, "wait", "wait"]


def test_the_noise_is_the_one_multinomial_draws() -> None:
    """A whole row of pre-drawn noise picks what `torch.multinomial` picks step by step from the same seed."""
    size, steps = 500, 24
    stream, reference = (torch.Generator().manual_seed(11) for _ in range(2))
    logits = torch.randn(steps, size, generator=torch.Generator().manual_seed(2)) * 2
    noise = sampling.exponential_noise([stream], size, steps)
    picked = [int(sampling.sample(row[None], 0.7, drawn)) for row, drawn in zip(logits, noise, strict=True)]
    wanted = [int(torch.multinomial((row / 0.7).softmax(-1), 1, generator=reference)) for row in logits]
    assert picked == wanted


@pytest.mark.parametrize(("size", "threads"), [(1, 2), (500, 2), (500, 8), (16_384, 8)])
def test_the_noise_is_torchs_own_number_for_number(size: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell after cell, whatever is drawn at once and beside it."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for seed in range(20):
        streams, references = sampling.generators(seed, 3), sampling.generators(seed, 3)
        for cells in (2, 1):  # and the streams go on from the same place
            noise = sampling.exponential_noise(streams, size, cells)
            wanted = [[torch.empty(size).exponential_(1, generator=r) for r in references] for _ in range(cells)]
            assert torch.equal(noise, torch.stack([torch.stack(row) for row in wanted]))


@torch.inference_mode()
def test_a_small_table_is_made_once(model: JanusModel, monkeypatch: pytest.MonkeyPatch) -> None:
    network = model.network
    monkeypatch.setattr(network, "_table", None)
    table = network.small_token_table()
    assert table is not None and table is network.small_token_table() and torch.equal(table, network.token_table())
    monkeypatch.setattr("janus_app.models.janus.modeling.SMALL_TABLE", table.numel() - 1)
    monkeypatch.setattr(network, "_table", None)
    assert network.small_token_table() is None


@torch.inference_mode()
def test_the_table_of_a_card_is_the_embedding_of_each_token(model: JanusModel) -> None:
    network, tokens = model.network, torch.tensor([0, 5, 319])
    torch.testing.assert_close(network.token_table()[tokens], network.token_embeds(tokens), atol=1e-6, rtol=0)


def test_layers_that_travel_take_the_way_of_the_modules() -> None:
    accelerate = pytest.importorskip("accelerate")
    made = trunk(4, 4, fused=True)
    cache, _ = filled(made, [4])
    assert isinstance(make_decode_step(made, cache), DecodeStep)
    card = torch.device("cuda")
    assert can_capture(made, card) and not can_capture(made, torch.device("cpu"))
    accelerate.cpu_offload(made.layers[1], execution_device=torch.device("cpu"))
    assert isinstance(make_decode_step(made, cache), ModuleDecodeStep) and not can_capture(made, card)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
