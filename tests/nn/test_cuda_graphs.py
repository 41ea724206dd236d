"""CUDA graphs as far as a CPU can show them: which graphs are captured, static buffers, and running without graphs."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from janus_app.models.common import denoiser as denoise
from janus_app.models.common.denoiser import Denoiser
from janus_app.models.janusflow import velocity as velocities
from janus_app.models.janusflow.pipeline import JanusFlowModel
from janus_app.models.janusflow.velocity import PromptVelocity
from janus_app.nn.fast import cuda_graphs, decode_step, kernels
from janus_app.nn.fast.cuda_graphs import CudaGraphFunction, CudaGraphRunner
from janus_app.nn.fast.decode_step import DecodeStep
from janus_app.types import GenerateRequest
from tests.conftest import GOLDEN, loaded
from tests.nn.small_llama import CPU, OperationRecorder, prefilled, small_llama

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="capturing works there")


@pytest.fixture(scope="module")
def model() -> JanusFlowModel:
    return cast(JanusFlowModel, loaded(GOLDEN / "janusflow_1_3b" / "checkpoint").model)


@pytest.fixture(autouse=True)
def no_device_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "_failed", set())


class Played:
    """A graph that runs the step again."""

    def __init__(self, step: Callable[[int], None], span: int) -> None:
        self.replay = partial(step, span)

    def pool(self) -> None: ...


def played(step: Callable[[int], None], span: int, *_: object) -> Played:
    return Played(step, span)


def latents(model: JanusFlowModel, count: int, seed: int) -> Tensor:
    shape = (count, model.autoencoder.channels, model.latent_side, model.latent_side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kernel_stops", [False, True])
@torch.inference_mode()
def test_one_graph_serves_a_bucket_or_the_whole_cache_where_attention_stops_by_itself(
    kernel_stops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = []
    graph = SimpleNamespace(replay=lambda: None, pool=lambda: None)
    monkeypatch.setattr(cuda_graphs, "capture", lambda step, span, *_: (captured.append(span), graph)[1])
    kernel = replace(kernels.REFERENCE, attend=lambda *inputs: kernels.attend_reference(*inputs))
    monkeypatch.setattr(decode_step, "kernels_for", lambda *_: kernel if kernel_stops else kernels.REFERENCE)
    llama = small_llama(4, 2, fused=True)
    cache, _ = prefilled(llama, [260])
    step = DecodeStep(llama, cache)
    runner = CudaGraphRunner(lambda span: None, CPU, (), cache.capacity, step.bucket)
    for span in range(1, 301):
        runner(span)
    assert captured == ([300] if kernel_stops else [128, 256, 300])
    assert (step.mask(cache.capacity) is None) == kernel_stops


def test_out_of_memory_in_a_capture_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cuda_graphs, "capture", fail)
    with pytest.raises(MemoryError):
        CudaGraphRunner(lambda span: None, CPU, (), 1)(1)


@without_cuda
@torch.inference_mode()
def test_a_graphed_function_has_static_inputs_for_each_shape_and_returns_copies(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Capturing fails here, so this is the function run eagerly on the static buffers."""
    addresses = set()

    def twice(x: Tensor, y: Tensor) -> Tensor:
        addresses.add((x.data_ptr(), y.data_ptr()))
        return 2 * x + y

    call = CudaGraphFunction(twice)
    first = call(torch.ones(3), torch.zeros(3))
    second = call(torch.full((3,), 4.0), torch.ones(3))
    assert first.tolist() == [2, 2, 2] and second.tolist() == [9, 9, 9]
    assert len(addresses) == 1
    assert call(torch.ones(2), torch.ones(2)).tolist() == [3, 3] and len(addresses) == 2
    assert {r.levelname for r in caplog.records} == {"WARNING"}


@torch.inference_mode()
def test_a_graph_is_freed_with_the_last_reference_to_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the garbage collector, which nothing calls between two drawings."""
    graphs: list[weakref.ref[Played]] = []

    def capture(step: Callable[[int], None], span: int, *_: object) -> Played:
        graph = Played(step, span)
        graphs.append(weakref.ref(graph))
        return graph

    monkeypatch.setattr(cuda_graphs, "capture", capture)
    monkeypatch.setattr(denoise, "can_capture", lambda *_: True)
    gc.disable()
    try:
        call = CudaGraphFunction(lambda x: 2 * x)
        assert call(torch.ones(3)).tolist() == [2, 2, 2]
        denoiser = Denoiser(Network())
        denoiser.set_conditioning(torch.ones(2, 4, 8))
        denoiser(torch.randn(3, 4, 2, 2), torch.tensor(5))
        assert len(graphs) == 2 and all(graph() for graph in graphs)
        del call, denoiser
        assert [graph() for graph in graphs] == [None, None]
    finally:
        gc.enable()


def test_after_a_failure_nothing_is_captured_on_that_device_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    cards, tried, steps = [torch.device("cuda", i) for i in range(2)], [], []

    def fail(step: object, span: int, device: torch.device, *_: object) -> None:
        tried.append(device)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graphs, "capture", fail)
    for card in (cards[1], cards[1], cards[0]):  # of three drawings
        CudaGraphRunner(steps.append, card, (), 1)(1)
    assert tried == [cards[1], cards[0]] and steps == [1, 1, 1]


def fake_stream(name: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, wait_stream=lambda other: None)


class FakeCuda:
    """The functions of torch.cuda that a capture calls; `stream` is the thread's stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream, self.modes, self.made = "default of cuda:0", list[object](), list[object]()
        for name in ("graph", "Stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "stream", self.on)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: fake_stream(f"default of {device}"))
        cuda_graphs._side_stream.cache_clear()

    def Stream(self, device: torch.device) -> object:
        self.made.append(device)
        return fake_stream(f"side of {device}")

    @contextlib.contextmanager
    def on(self, stream: SimpleNamespace) -> Iterator[None]:
        before, self.stream = self.stream, stream.name
        try:
            yield
        finally:
            self.stream = before

    @contextlib.contextmanager
    def graph(
        self, graph: object, pool: object, stream: SimpleNamespace, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        """As PyTorch's, which stays on its stream where the capture cannot be ended."""
        self.modes.append(capture_error_mode)
        self.stream = stream.name
        yield
        raise RuntimeError("capture_end: the capture was invalidated")


def test_a_failed_capture_leaves_the_threads_stream_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs on the one side stream of the model's card, not of the current one, and tolerates other threads."""
    cuda, card, streams = FakeCuda(monkeypatch), torch.device("cuda:1"), []
    for _ in range(2):
        with pytest.raises(RuntimeError, match="invalidated"):
            cuda_graphs.capture(lambda span: streams.append(cuda.stream), 1, card, ())
    assert cuda.stream == "default of cuda:0"
    assert streams == ["side of cuda:1"] * 4  # warm-up and capture
    assert cuda.made == [card] and cuda.modes == ["thread_local"] * 2
    cuda_graphs._side_stream.cache_clear()


# ---- JanusFlow


@pytest.mark.parametrize("both", [False, True])
@torch.inference_mode()
def test_a_flow_step_never_waits_and_every_step_runs_the_same_operations(model: JanusFlowModel, both: bool) -> None:
    """After the first one, which makes the positions: a capture begins with a warm-up."""
    velocity = PromptVelocity(model.network, model.prompt_ids("A small red house."))
    velocity.prepare([0.0, 0.25, 0.5])
    velocity.raw(latents(model, 2, 0), 0.0, both=both)
    runs = []
    for t in (0.25, 0.5):
        z = latents(model, 2, 1)
        with OperationRecorder() as operations:
            velocity.raw(z, t, both=both)
        runs.append(operations.seen)
    assert runs[0] == runs[1] and len(runs[0]) > 50


@without_cuda
def test_a_flow_on_static_buffers_draws_the_same_picture(
    model: JanusFlowModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With guided and unguided steps, and a solver that keeps the velocity of the step before."""
    request = GenerateRequest("A small red house.", steps=4, solver="ab2", guidance_interval=(0.2, 1.0))

    def drawn() -> bytes:
        *_, last = model.generate(request)
        return cast(bytes, last.pictures[0].image.tobytes())  # type: ignore[union-attr]

    plain, captures = drawn(), []
    monkeypatch.setattr(velocities, "can_capture", lambda *_: True)
    monkeypatch.setattr(cuda_graphs, "capture", lambda *given: (captures.append(1), played(*given))[1])
    assert drawn() == plain and len(captures) == 2  # one for guided steps and one for the others


# ---- MetaQuery


class Network(nn.Module):
    """The smallest denoising network whose output depends on the captions."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor, encoder_hidden_states: Tensor, timestep: Tensor, return_dict: bool) -> tuple[Tensor]:
        return (self.scale * x + timestep[:, None, None, None] + encoder_hidden_states.mean(),)


@without_cuda
@torch.inference_mode()
def test_new_captions_capture_new_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, graphed = Denoiser(Network()), Denoiser(Network())
    captures = []
    monkeypatch.setattr(cuda_graphs, "capture", lambda *given: (captures.append(1), played(*given))[1])
    for value in (1.0, 2.0):
        captions = torch.full((2, 4, 8), value)
        plain.set_conditioning(captions)
        with monkeypatch.context() as patch:
            patch.setattr(denoise, "can_capture", lambda *_: True)
            graphed.set_conditioning(captions)
        for time in (5, 7):
            x = torch.randn(3, 4, 2, 2)
            outputs = [denoiser(x, torch.tensor(time)) for denoiser in (plain, graphed)]
            assert outputs[0].shape == (2, 3, 4, 2, 2) and torch.equal(*outputs)
    assert len(captures) == 2


@torch.inference_mode()
def test_a_step_of_sana_never_waits_and_every_step_runs_the_same_operations() -> None:
    diffusers = pytest.importorskip("diffusers")
    small = {"num_attention_heads": 2, "attention_head_dim": 8, "num_cross_attention_heads": 2, "num_layers": 2}
    small |= {"cross_attention_head_dim": 8, "cross_attention_dim": 16, "caption_channels": 24, "sample_size": 8}
    denoiser = Denoiser(diffusers.SanaTransformer2DModel(**small).eval().requires_grad_(False))
    denoiser.set_conditioning(torch.randn(2, 5, 24))
    step = partial(denoiser, torch.randn(2, 32, 8, 8))
    step(torch.tensor(900))
    runs = []
    for number in (700, 300):
        time = torch.tensor(number)
        with OperationRecorder() as operations:
            step(time)
        runs.append(operations.seen)
    assert runs[0] == runs[1] and len(runs[0]) > 50
