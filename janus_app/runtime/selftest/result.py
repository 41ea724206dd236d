"""What the checks of the self-test share: their results, and the device, the time and the sizes they work with."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from janus_app.errors import AppError, Message, is_out_of_memory
from janus_app.formatting import size_text
from janus_app.runtime.findings import Finding, without_home
from janus_app.types import Event, Finished, Progress

SMALL_SECONDS = 60.0  # a shorter test measures with small sizes
DTYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
T = TypeVar("T")


@dataclass(frozen=True)
class Result(Finding):
    """One line of the self-test. SKIP = not tried here, for the reason that `detail` gives.

    `check` is the name of the check, `numbers` what it measured; the unit is part of a number's name.
    """

    check: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def as_json(self, language: str = "en") -> dict[str, Any]:
        return {"check": self.check, **self.texts(language), "numbers": dict(self.numbers)}


Item = Event | Result  # what a check yields; an event says only that it is alive and can be stopped


@dataclass(eq=False)
class Bench:
    """Where the checks run, and until when. `bandwidth` in bytes per second is set by the check that measures it."""

    device: torch.device
    seconds: float
    bandwidth: float = 0.0

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.seconds

    @property
    def small(self) -> bool:
        return self.seconds < SMALL_SECONDS

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def synchronize(self) -> None:
        """Wait until the device has done its work."""
        if self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize()

    def seconds_of(self, work: Callable[[], object], rounds: int = 3) -> Generator[Item, None, float]:
        """The fastest of some rounds of `work`, after one that is not timed."""
        best = float("inf")
        for number in range(rounds + 1):
            yield alive()
            self.synchronize()
            started = time.perf_counter()
            work()
            self.synchronize()
            if number:
                best = min(best, time.perf_counter() - started)
        return best


def alive() -> Event:
    return Progress("selftest", 0, 0)


def last_of(events: Iterator[Event]) -> Generator[Item, None, Finished]:
    """Run a job to its end and return its Finished."""
    last = None
    for last in events:
        if not isinstance(last, Finished):
            yield last
    assert isinstance(last, Finished)
    return last


def isolated(items: Iterable[Item], what: str = "") -> Generator[Item, None, None]:
    """A check or a part of one, with what it raises as its result."""
    try:
        yield from items
    except AppError as error:
        # 500: a model computed nonsense. All others say what is missing or too small here.
        yield Result("FAIL" if error.status == 500 else "WARN", what, error.message, Message("selftest_report"))
    except Exception as error:  # a device can raise anything; the other checks are still useful
        memory = is_out_of_memory(error)
        remedy = Message("selftest_free_memory") if memory else Message("selftest_report")
        yield Result("WARN" if memory else "FAIL", what, reason_of(error), remedy)


def reason_of(error: BaseException) -> Message:
    """A failure in a few words, without the user's folders."""
    text = without_home(str(error)).strip().splitlines() or [""]
    return Message("doctor_check_failed", kind=type(error).__name__, reason=text[0][:200])


def rate_text(rate: float) -> str:
    """Bytes per second as people write them."""
    return f"{size_text(rate)}/s"
