"""A decode step: the numbers of the modules, no waiting for the device, and the same operations at every position."""

from __future__ import annotations

from collections import Counter
from typing import cast

import pytest
import torch
from torch import Tensor

from janus_app.models.janus.draw import ImageTokenStep, SamplingRule, draw_tokens
from janus_app.models.janus.pipeline import JanusModel
from janus_app.nn import sampling
from janus_app.nn.fast import cuda_graphs
from janus_app.nn.fast.cuda_graphs import CudaGraphRunner, warm_up
from janus_app.nn.fast.decode_step import DecodeStep, ModuleDecodeStep, can_capture, make_decode_step
from janus_app.nn.llama import KVCache
from janus_app.nn.prefill import prefill
from janus_app.types import GenerateRequest
from tests.conftest import GOLDEN, loaded
from tests.nn.small_llama import CPU, OperationRecorder, prefilled, small_llama


@pytest.fixture(scope="module")
def model() -> JanusModel:
    return cast(JanusModel, loaded(GOLDEN / "janus_pro_1b" / "checkpoint").model)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("lengths", [[5, 5], [7, 3, 5]])
@pytest.mark.parametrize("fused", [False, True])
@torch.inference_mode()
def test_a_step_computes_what_the_modules_do(heads: int, kv_heads: int, lengths: list[int], fused: bool) -> None:
    """Also where the span goes beyond the filled slots: what lies there has no influence."""
    llama = small_llama(heads, kv_heads, fused=fused)
    expected = []
    for kind in ("modules", "exact span", "whole cache"):
        cache, inputs = prefilled(llama, lengths)
        step = ModuleDecodeStep(llama, cache) if kind == "modules" else DecodeStep(llama, cache)
        if kind == "whole cache":
            cache.kv[:, :, :, :, cache.length :] = 1e4
        out = []
        for x in inputs:
            out.append(step(x, cache.capacity if kind == "whole cache" else cache.length + 1))
            cache.length += 1
        if kind == "modules":
            expected = out
        else:
            torch.testing.assert_close(torch.stack(out), torch.stack(expected), atol=2e-5, rtol=0)


def test_offloaded_layers_are_run_as_modules_and_never_captured() -> None:
    accelerate = pytest.importorskip("accelerate")
    llama = small_llama(4, 4, fused=True)
    cache, _ = prefilled(llama, [4])
    assert isinstance(make_decode_step(llama, cache), DecodeStep)
    gpu = torch.device("cuda")
    assert can_capture(llama, gpu) and not can_capture(llama, torch.device("cpu"))
    accelerate.cpu_offload(llama.layers[1], execution_device=torch.device("cpu"))
    assert isinstance(make_decode_step(llama, cache), ModuleDecodeStep) and not can_capture(llama, gpu)


# ---- the step of a drawing


@torch.inference_mode()
def image_token_step(model: JanusModel, count: int, *, keep: bool = False) -> tuple[ImageTokenStep, KVCache]:
    network = model.network
    rows = model.prompt_rows(GenerateRequest("A small red house.", guidance=4.0))
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
    step.use_noise(0)
    return step, cache


@pytest.mark.parametrize("keep", [False, True])
@torch.inference_mode()
def test_a_drawing_never_waits_within_a_row_and_every_cell_runs_the_same_operations(
    model: JanusModel, keep: bool
) -> None:
    """Operations, shapes and dtypes are the same at every position, and no operation asks for a value."""
    step, cache = image_token_step(model, 3, keep=keep)
    runs = []
    for _ in range(4):
        with OperationRecorder() as operations:
            step.advance(cache.capacity)
        cache.length += 1
        runs.append(operations.seen)
    with pytest.raises(AssertionError, match="waits"), OperationRecorder():  # the recorder notices what does wait
        step.check()
    assert all(one == runs[0] for one in runs)
    names = Counter(name for name, _ in runs[0])
    layers = model.network.config.language.num_hidden_layers
    assert names["index_copy_.default"] == layers + 1  # keys and values together, and the token
    products = sum(count for name, count in names.items() if name.split(".")[0] in ("mm", "addmm", "linear"))
    assert products == 4 * layers + 2  # qkv, out, gate and up, down; two in the head; token embeddings are a table


@torch.inference_mode()
def test_a_wider_span_draws_the_same_tokens(model: JanusModel) -> None:
    drawn = []
    for whole_cache in (False, True):
        step, cache = image_token_step(model, 2)
        for _ in range(24):
            step.advance(cache.capacity if whole_cache else cache.length + 1)
            cache.length += 1
        step.check()
        drawn.append(step.tokens[:, :24].tolist())
    assert drawn[0] == drawn[1] and -1 not in drawn[0][0]


@torch.inference_mode()
def test_a_warm_up_leaves_the_state_unchanged(model: JanusModel) -> None:
    plain, cache = image_token_step(model, 2)
    warmed, other = image_token_step(model, 2)
    for _ in range(5):
        plain.advance(cache.length + 1)
        warm_up(warmed.advance, other.length + 1, CPU, warmed.state)
        warmed.advance(other.length + 1)
        cache.length += 1
        other.length += 1
    assert torch.equal(plain.tokens, warmed.tokens) and torch.equal(cache.kv, other.kv)
    assert all(torch.equal(a, b) for a, b in zip(plain.state, warmed.state, strict=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="capturing works there")
@torch.inference_mode()
def test_a_drawing_continues_without_graphs_where_capturing_fails(
    model: JanusModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without CUDA a capture really fails."""
    monkeypatch.setattr(cuda_graphs, "_failed", set())
    plain, cache = image_token_step(model, 2)
    falling_back, other = image_token_step(model, 2)
    runner = CudaGraphRunner(falling_back.advance, CPU, falling_back.state, other.capacity)
    for _ in range(3):
        plain.advance(cache.length + 1)
        runner(other.length + 1)
        cache.length += 1
        other.length += 1
    assert torch.equal(plain.tokens, falling_back.tokens)
    assert [r.levelname for r in caplog.records] == ["WARNING"]


def test_every_cell_takes_exactly_one_draw_of_noise(model: JanusModel) -> None:
    """Also kept cells. One number too many would shift the noise of all later cells."""
    network, drawn = model.network, 0
    stream = torch.Generator().manual_seed(3)

    def noise(cells: int) -> Tensor:
        nonlocal drawn
        assert cells
        drawn += cells
        return sampling.exponential_noise([stream], network.config.vq.codebook_size, cells)

    rows = model.prompt_rows(GenerateRequest("A small red house.", guidance=4.0))
    known = torch.full((36,), -1)
    known[:2], known[34:] = 4, 9
    *_, tokens = draw_tokens(network, rows, 1, SamplingRule(4.0, 1.0, noise), known)
    assert drawn == 34 and tokens[0, :2].tolist() == [4, 4] and tokens[0, 34:].tolist() == [9, 9]


def test_the_next_noise_is_drawn_before_the_device_is_waited_for(
    model: JanusModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    check, codes = ImageTokenStep.check, model.network.config.vq.codebook_size
    monkeypatch.setattr(ImageTokenStep, "check", lambda step: (order.append("wait"), check(step)))
    rule = SamplingRule(4.0, 1.0, lambda cells: (order.append(cells), torch.ones(cells, 1, codes))[1])
    rows = model.prompt_rows(GenerateRequest("A small red house.", guidance=4.0))
    assert len(list(draw_tokens(model.network, rows, 1, rule, torch.full((36,), -1)))) == 36
    assert order == [24, 12, "wait", "wait"]


@torch.inference_mode()
def test_a_small_token_table_is_made_once(model: JanusModel, monkeypatch: pytest.MonkeyPatch) -> None:
    network = model.network
    monkeypatch.setattr(network, "_table", None)
    table = network.small_token_table()
    assert table is not None and table is network.small_token_table() and torch.equal(table, network.token_table())
    monkeypatch.setattr("janus_app.models.janus.modeling.SMALL_TABLE", table.numel() - 1)
    monkeypatch.setattr(network, "_table", None)
    assert network.small_token_table() is None


@torch.inference_mode()
def test_the_token_table_holds_the_embedding_of_each_token(model: JanusModel) -> None:
    network, tokens = model.network, torch.tensor([0, 5, 319])
    torch.testing.assert_close(network.token_table()[tokens], network.token_embeds(tokens), atol=1e-6, rtol=0)
