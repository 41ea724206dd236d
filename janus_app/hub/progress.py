"""Progress of work on files: bytes done and speed, as Progress events at a bounded rate."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from janus_app.errors import Message
from janus_app.types import Progress

TICK = 0.1  # seconds between two reports
LONGEST_INTERVAL = 1.0  # seconds between two reports to a slow consumer, and so the longest wait for a cancel
SPEED_WINDOW = 8  # seconds over which the speed is averaged


@dataclass
class ProgressReporter:
    """Bytes done out of `total`, and the speed.

    `passes`: how often each byte is counted in both, as work that reads what it wrote does. Events have each byte once.

    One thread may count while another reports: `report` makes at most ten Progress events a second, plus one for each
    note.
    """

    total: int = 0
    done: int = 0
    label: str | Message = ""
    stage: str = "download"
    passes: int = 1
    _notes: deque[Message] = field(default_factory=deque)
    _last: float = 0.0
    _interval: float = 0.0
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def note(self, message: Message) -> None:
        """Show `message` once, with the next report."""
        self._notes.append(message)

    def skip(self, count: int) -> None:
        """Count bytes that took no time (kept by an earlier attempt, or thrown away if negative), not as speed."""
        self.done += count
        self._samples.clear()

    def report(self, force: bool = False) -> Iterator[Progress]:
        """Yield the notes, or the current state if the last report is old enough.

        The consumer may be slow (a page on a busy machine). The interval then grows to the time the consumer took, up
        to LONGEST_INTERVAL; otherwise the work would wait for the consumer at every block.
        """
        if not (self._notes or force or time.monotonic() - self._last >= max(TICK, self._interval)):
            return
        before = time.monotonic()
        if not self._notes:
            yield self._progress(self.label)
        while self._notes:
            yield self._progress(self._notes.popleft())
        self._last = time.monotonic()
        self._interval = min(LONGEST_INTERVAL, self._last - before)

    def _progress(self, detail: str | Message) -> Progress:
        done, total, speed = (amount / self.passes for amount in (self.done, self.total, self._speed()))
        return Progress(self.stage, round(done), round(total), "B", detail, speed)

    def _speed(self) -> float:
        now = time.monotonic()
        self._samples.append((now, self.done))
        while now - self._samples[0][0] > SPEED_WINDOW and len(self._samples) > 2:
            self._samples.popleft()
        first, before = self._samples[0]
        return max(0.0, (self.done - before) / (now - first)) if now - first >= 0.5 else 0.0
