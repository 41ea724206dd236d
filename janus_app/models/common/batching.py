"""Drawing many pictures in batches, and in smaller ones when memory runs out."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Generator
from typing import Protocol

import torch

from janus_app.errors import Message, is_out_of_memory
from janus_app.types import Event, Events, Finished, Notice, Picture

# (pictures finished before, how many to draw now) -> yields events and returns the new pictures
DrawBatch = Callable[[tuple[Picture, ...], int], Generator[Event, None, list[Picture]]]


class BatchedModel(Protocol):
    batch: int  # pictures drawn at once; it is halved when memory runs out, and stays so


def draw_in_batches(model: BatchedModel, count: int, draw: DrawBatch, started: float) -> Events:
    """Draw `count` pictures and end with Finished. `started` is the time.perf_counter() when the work began.

    Out of memory is raised only where a single picture does not fit.
    """
    done: list[Picture] = []
    while len(done) < count:
        size = min(model.batch, count - len(done))
        try:
            done += yield from draw(tuple(done), size)
            continue
        except Exception as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        # Outside the handler, because the error's traceback keeps the tensors of the failed attempt alive.
        free_memory()
        model.batch = size // 2
        yield Notice(Message("pictures_batch_halved", tried=size, batch=model.batch))
    yield Finished(pictures=tuple(done), compute_seconds=time.perf_counter() - started)


def free_memory() -> None:
    """Return unused memory to the operating system and the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
