"""Says when a job has been silent for a while, at which stage, and what the machine is doing meanwhile."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from janus_app.types import Event, Preview, Progress, TextDelta

PATIENCE = 20.0  # seconds without an event before anything is said
_BUSY = 0.3  # of one processor core
_SCARCE = 0.04  # of main memory


@dataclass(frozen=True)
class Silence:
    """Nothing has come for `seconds`, at `stage` of the work ("" before its first event). `why` is a sentence."""

    seconds: float
    stage: str
    why: str


class Watchdog:
    """Listens to a job's events. May be asked from any thread; only one job is listened to at a time."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self._since: tuple[float, float] | None = None  # clock and processor time when the work was last resumed
        self._stage = ""

    def watch(self, events: Any) -> Iterator[Event]:
        """Pass a generator's events on. The time their receiver takes is not the job's silence."""
        self._stage = ""
        with contextlib.closing(events):
            try:
                while True:
                    self._since = (time.monotonic(), time.process_time())
                    try:
                        event = next(events)
                    except StopIteration:
                        return
                    self._since = None
                    self._hear(event)
                    yield event
            finally:
                self._since = None

    def _hear(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._stage = event.stage
        elif isinstance(event, TextDelta):
            self._stage = "answer"
        elif isinstance(event, Preview):
            self._stage = "draw"

    def silence(self) -> Silence | None:
        """The silence that lasts now, if it is longer than patience."""
        since = self._since
        if since is None:
            return None
        seconds = time.monotonic() - since[0]
        if seconds < self.patience:
            return None
        busy = (time.process_time() - since[1]) / seconds > _BUSY
        return Silence(seconds, self._stage, explain(self._stage, seconds, busy=busy, scarce=memory_is_scarce()))


def explain(stage: str, seconds: float, *, busy: bool, scarce: bool) -> str:
    """Why nothing comes, as far as it can be known from outside, and what to do."""
    start = f"Nothing has come for {seconds:.0f} s."
    if stage == "download":
        return (
            f"{start} The server is silent; the app asks again by itself. Cancelling keeps what was downloaded, and "
            "loading again goes on from there."
        )
    if scarce:
        return (
            f"{start} The machine is almost out of memory, which makes everything slow. Stop the job, then close other "
            "programs or load a smaller precision."
        )
    if stage in ("read", "verify"):
        return f"{start} The disk is slow to give the model's files. Wait, or move them to a faster disk."
    if busy:
        return (
            f"{start} The model is still calculating: it is large for this device. Wait, or stop and ask for fewer or "
            "smaller things."
        )
    return (
        f"{start} The processor is idle, so the job waits for a device. If it stays so, stop it and try again; "
        "`python -m janus_app doctor` checks the device."
    )


def memory_is_scarce() -> bool:
    import psutil

    memory = psutil.virtual_memory()
    return memory.available < _SCARCE * memory.total


@contextlib.contextmanager
def told(dog: Watchdog, tell: Callable[[str], None]) -> Iterator[None]:
    """While inside, tell each silence of `dog` once, from a thread: for the command line, whose own thread waits."""
    done = threading.Event()

    def look() -> None:
        spoken = False
        while not done.wait(max(0.05, dog.patience / 4)):
            silence = dog.silence()
            if silence is not None and not spoken:
                tell(silence.why)
            spoken = silence is not None

    thread = threading.Thread(target=look, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
