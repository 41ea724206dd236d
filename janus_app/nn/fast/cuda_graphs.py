"""A step recorded once and played back: CUDA graphs, one for every bucket of lengths, made when first needed.

Not verified on a GPU. Where recording fails, for whatever reason, a notice is logged and the step runs as it stands.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from janus_app.errors import is_out_of_memory

BUCKET = 128  # slots by which a recording's span grows: at most so many are looked at for nothing
logger = logging.getLogger(__name__)


def recorded(
    step: Callable[[int], None], state: Sequence[Tensor], capacity: int, bucket: int = BUCKET
) -> Callable[[int], None]:
    """`step(span)` as something that replays recordings, one for every `bucket` slots.

    `state` are the buffers a step changes, beside such as a second run of it fills with the same values (the cache);
    `capacity` is the largest span.
    """
    return _Recorder(step, state, capacity, bucket)


class _Recorder:
    def __init__(self, step: Callable[[int], None], state: Sequence[Tensor], capacity: int, bucket: int) -> None:
        self._step, self._state, self._capacity, self._bucket = step, state, capacity, bucket
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._plain = False

    def __call__(self, span: int) -> None:
        if not self._plain:
            try:
                self._graph(min(-(-span // self._bucket) * self._bucket, self._capacity)).replay()
                return
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                self._plain = True
                self._graphs.clear()
                logger.warning("steps are not recorded on this device and run one by one: %s", error)
        self._step(span)

    def _graph(self, span: int) -> torch.cuda.CUDAGraph:
        if span not in self._graphs:
            rehearse(self._step, span, self._state)
            graph = torch.cuda.CUDAGraph()
            pool = next(iter(self._graphs.values())).pool() if self._graphs else None
            with torch.cuda.graph(graph, pool=pool):
                self._step(span)
            self._graphs[span] = graph
        return self._graphs[span]


def replaying(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of tensors as something that replays recordings of itself, one for all inputs of the same shapes.

    What it returns must depend on the inputs alone, and all it reads besides must stay where it is.
    """
    kept: dict[tuple[tuple[torch.Size, torch.dtype], ...], _Replayed] = {}

    def call(*inputs: Tensor) -> Tensor:
        shapes = tuple((each.shape, each.dtype) for each in inputs)
        if shapes not in kept:
            kept[shapes] = _Replayed(function, inputs)
        return kept[shapes](*inputs)

    return call


class _Replayed:
    """Inputs and output of a recorded function at places of their own."""

    def __init__(self, function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
        self._function, self._inputs = function, [torch.empty_like(each).copy_(each) for each in inputs]
        self._out: Tensor | None = None  # made by the rehearsal, or by the first run where nothing is recorded
        self._run = recorded(self._step, (), 1)

    def _step(self, span: int) -> None:
        found = self._function(*self._inputs)
        self._out = torch.empty_like(found) if self._out is None else self._out
        self._out.copy_(found)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._run(1)
        assert self._out is not None
        return self._out.clone()  # the next run writes to the same place


def rehearse(step: Callable[[int], None], span: int, state: Sequence[Tensor]) -> None:
    """Run a step and undo it: libraries make their workspaces at the first run, which cannot be recorded."""
    before = [tensor.clone() for tensor in state]
    stream = torch.cuda.Stream() if torch.cuda.is_available() else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(span)
    if stream is not None:
        torch.cuda.current_stream().wait_stream(stream)
    for tensor, value in zip(state, before, strict=True):
        tensor.copy_(value)
