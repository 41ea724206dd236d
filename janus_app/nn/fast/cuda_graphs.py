"""CUDA graphs: a step is captured once and replayed, so that the host launches one graph instead of many kernels.

Not verified on a GPU. Where a capture fails, for whatever reason, a warning is logged and the steps run eagerly.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from janus_app.errors import is_out_of_memory

BUCKET = 128  # cache slots by which a graph's span grows: at most so many are attended to for nothing
Step = Callable[[int], None]  # takes the span: how many cache slots are attended to
logger = logging.getLogger(__name__)
_failed: set[torch.device] = set()  # devices on which a capture or a replay failed: nothing is captured there any more


def given_up(device: torch.device) -> bool:
    """Whether a capture or a replay failed on this device, so that steps run eagerly there."""
    return device in _failed


@contextlib.contextmanager
def eager(device: torch.device) -> Iterator[None]:
    """Inside the block, steps on the device run eagerly: to compare their results with those of graphs."""
    before = set(_failed)
    _failed.add(device)
    try:
        yield
    finally:
        _failed.intersection_update(before)


class CudaGraphRunner:
    """`step(span)` through CUDA graphs, one for every `bucket` cache slots, captured when it is first needed.

    `state` lists the buffers that a step changes, except those that a second run fills with the same values (the KV
    cache). `capacity` is the largest span. Out of memory is raised; after any other failure the steps run eagerly.
    """

    def __init__(
        self, step: Step, device: torch.device, state: Sequence[Tensor], capacity: int, bucket: int = BUCKET
    ) -> None:
        self._step, self._device, self._state, self._capacity, self._bucket = step, device, state, capacity, bucket
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def __call__(self, span: int) -> None:
        if self._device not in _failed:
            try:
                self._graph(min(-(-span // self._bucket) * self._bucket, self._capacity)).replay()
                return
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                _failed.add(self._device)
                self._graphs.clear()
                logger.warning("CUDA graphs are not used on this device; steps run one by one: %s", error)
        self._step(span)

    def _graph(self, span: int) -> torch.cuda.CUDAGraph:
        if span not in self._graphs:
            pool = next(iter(self._graphs.values())).pool() if self._graphs else None
            self._graphs[span] = capture(self._step, span, self._device, self._state, pool)
        return self._graphs[span]


class CudaGraphFunction:
    """A function of tensors through CUDA graphs, one for every combination of input shapes and dtypes.

    The result must depend on the inputs alone, and all other tensors the function reads must stay at their addresses.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._calls: dict[tuple[tuple[torch.Size, torch.dtype], ...], _StaticCall] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        shapes = tuple((each.shape, each.dtype) for each in inputs)
        if shapes not in self._calls:
            self._calls[shapes] = _StaticCall(self._function, inputs)
        return self._calls[shapes](*inputs)


class _StaticCall:
    """A function with static buffers for its inputs and its output, as a graph needs them.

    The runner has no reference to this object, so that the graph is freed with it, not by a later garbage collection.
    """

    def __init__(self, function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
        self._inputs = [torch.empty_like(each).copy_(each) for each in inputs]
        self._out: list[Tensor] = []  # one buffer, made by the warm-up or by the first eager run
        step = partial(_fill, self._out, function, self._inputs)
        self._run = CudaGraphRunner(step, inputs[0].device, (), 1)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for buffer, value in zip(self._inputs, inputs, strict=True):
            buffer.copy_(value)
        self._run(1)
        return self._out[0].clone()  # the next run overwrites the buffer


def _fill(out: list[Tensor], function: Callable[..., Tensor], inputs: Sequence[Tensor], span: int) -> None:
    result = function(*inputs)
    if not out:
        out.append(torch.empty_like(result))
    out[0].copy_(result)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of all warm-ups and captures on a device: libraries keep a workspace for every stream they saw."""
    return torch.cuda.Stream(device)


def capture(
    step: Step, span: int, device: torch.device, state: Sequence[Tensor], pool: Any = None
) -> torch.cuda.CUDAGraph:
    """Capture `step(span)` as a graph in the memory pool of other graphs, or in a new one. `state` stays as it was."""
    warm_up(step, span, device, state)
    graph = torch.cuda.CUDAGraph()
    # The outer block restores the thread's stream also after a capture that cannot be ended. "thread_local", because
    # other threads ask for the free memory meanwhile.
    with (
        torch.cuda.stream(torch.cuda.current_stream(device)),
        torch.cuda.graph(graph, pool, _side_stream(device), capture_error_mode="thread_local"),
    ):
        step(span)
    return graph


def warm_up(step: Step, span: int, device: torch.device, state: Sequence[Tensor]) -> None:
    """Run a step on a side stream and restore `state`: libraries allocate workspaces at the first run, which a capture
    must not contain."""
    before = [tensor.clone() for tensor in state]
    if device.type == "cuda":
        stream, current = _side_stream(device), torch.cuda.current_stream(device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            step(span)
        current.wait_stream(stream)
    else:
        step(span)
    for tensor, value in zip(state, before, strict=True):
        tensor.copy_(value)
