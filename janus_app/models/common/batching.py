"""Drawing many pictures a few at a time, fewer when memory runs out."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Generator, Iterator
from typing import Protocol

import torch

from janus_app.errors import is_out_of_memory
from janus_app.types import Event, Finished, Notice, Picture

# (pictures finished before, how many to draw now) -> the events on the way, and those pictures
Draw = Callable[[tuple[Picture, ...], int], Generator[Event, None, list[Picture]]]


class Painter(Protocol):
    batch: int  # pictures drawn at once; halved when memory runs out, and kept so


def draw_in_batches(painter: Painter, count: int, draw: Draw, started: float) -> Iterator[Event]:
    """Draw `count` pictures and end with Finished; `started` is a time.perf_counter(), when the work began."""
    done: list[Picture] = []
    while len(done) < count:
        now = min(painter.batch, count - len(done))
        try:
            done += yield from draw(tuple(done), now)
            continue
        except Exception as error:
            if now == 1 or not is_out_of_memory(error):
                raise
        # Only here, with the error and all it holds on to gone, is the failed attempt's memory free.
        release()
        painter.batch = now // 2
        yield Notice(f"Not enough memory for {now} pictures at once; drawing {painter.batch} at a time.")
    yield Finished(pictures=tuple(done), compute_seconds=time.perf_counter() - started)


def release() -> None:
    """Give what a failed step held back to its device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
