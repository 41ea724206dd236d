"""What the benchmarks share: models, finished jobs, default settings, timing and counting of operations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from janus_app.registry.types import Variant
from janus_app.runtime import loader
from janus_app.runtime.fit import plan_load
from janus_app.types import Events, Finished, Model, drain, result_of

T = TypeVar("T")


def open_model(variant: Variant, precision: str, device: str = "auto") -> Model:
    """The variant's model, by the loader the app uses. Its folder must be on this machine."""
    if variant.folder is None:
        raise SystemExit(f"{variant.id} is not a folder on this machine; quality is measured on embedded models.")
    return result_of(loader.load(plan_load(variant, variant.folder, device).choose(precision))).model


def finished(events: Events) -> Finished:
    """The last event of a job."""
    last = drain(events)
    if not isinstance(last, Finished):
        raise SystemExit("the model stopped without an answer")
    return last


def default_settings(variant: Variant) -> dict[str, float]:
    """The defaults of the variant's settings by name."""
    return {name: float(setting.default) for name, setting in variant.settings.items()}


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], T], device: torch.device) -> tuple[T, float, float]:
    """The result, the seconds it took, and the seconds of processor time of this process."""
    synchronize(device)
    started, worked = time.perf_counter(), time.process_time()
    result = work()
    synchronize(device)
    return result, time.perf_counter() - started, time.process_time() - worked


def in_turns(names: Iterable[str], rounds: int) -> Iterator[str]:
    """The names in every round, in reverse in every other one, so that no method always has the warmer cache."""
    order = list(names)
    for number in range(rounds):
        yield from order if number % 2 == 0 else reversed(order)


def floating_point_operations(work: Callable[[], object]) -> int:
    """The operations that `work` runs, counted without regard to what a device makes of them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
