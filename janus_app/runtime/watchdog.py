"""Notices when a job has sent no event for a while, and explains why as far as that can be seen from outside."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from janus_app.errors import Message
from janus_app.types import Event, Preview, Progress, TextDelta

PATIENCE = 20.0  # seconds without an event
_BUSY = 0.3  # share of one processor core
_SCARCE = 0.04  # share of main memory


@dataclass(frozen=True)
class Silence:
    """No event has come for `seconds`, at `stage` of the work ("" before its first event)."""

    seconds: float
    stage: str
    reason: Message


class Watchdog:
    """Passes a job's events on and keeps its last progress. `silence` and `progress` may be read from any thread.

    Only one job at a time.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.progress: Progress | None = None
        self._since: tuple[float, float] | None = None  # clock and processor time when the work was last resumed
        self._stage = ""

    def watch(self, events: Any) -> Iterator[Any]:
        """Pass on what a generator yields, events and others. The time its receiver takes does not count as silence."""
        self._stage = ""
        with contextlib.closing(events):
            try:
                while True:
                    self._since = (time.monotonic(), time.process_time())
                    event = next(events, None)
                    self._since = None
                    if event is None:
                        return
                    self._note(event)
                    yield event
            finally:
                self._since = self.progress = None

    def _note(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._stage, self.progress = event.stage, event
        elif isinstance(event, TextDelta):
            self._stage = "answer"
        elif isinstance(event, Preview):
            self._stage = "draw"

    def silence(self) -> Silence | None:
        """The present silence, if it is longer than `patience`."""
        since = self._since
        if since is None:
            return None
        seconds = time.monotonic() - since[0]
        if seconds < self.patience:
            return None
        busy = (time.process_time() - since[1]) / seconds > _BUSY
        return Silence(seconds, self._stage, explain(self._stage, seconds, busy=busy, scarce=memory_is_scarce()))


def explain(stage: str, seconds: float, *, busy: bool, scarce: bool) -> Message:
    """Why no event comes, and what to do. `busy`: the processor computes; `scarce`: main memory is almost full."""
    seconds = round(seconds)
    if stage == "download":
        return Message("silence_download", seconds=seconds)
    if scarce:
        return Message("silence_memory", seconds=seconds)
    if stage in ("read", "verify"):
        return Message("silence_disk", seconds=seconds)
    if busy:
        return Message("silence_computing", seconds=seconds)
    return Message("silence_device", seconds=seconds)


def memory_is_scarce() -> bool:
    import psutil

    memory = psutil.virtual_memory()
    return memory.available < _SCARCE * memory.total


@contextlib.contextmanager
def reporting_silence(watchdog: Watchdog, report: Callable[[Message], None]) -> Iterator[None]:
    """Inside the block, report each silence once, from a thread: for the command line, whose own thread waits."""
    done = threading.Event()

    def look() -> None:
        reported = False
        while not done.wait(max(0.05, watchdog.patience / 4)):
            silence = watchdog.silence()
            if silence is not None and not reported:
                report(silence.reason)
            reported = silence is not None

    thread = threading.Thread(target=look, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
