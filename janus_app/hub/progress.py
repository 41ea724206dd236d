"""What is counted while files are fetched or hashed: bytes, speed, and what they are made of."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from janus_app.errors import AppError
from janus_app.types import Progress

BLOCK = 1 << 20  # bytes hashed between two looks at the clock
TICK = 0.1  # seconds between two reports
SLOWEST = 1.0  # seconds between two reports to a slow listener, and so the longest wait for a cancel
SPEED_SECONDS = 8  # over which the speed is an average
GIT_HASHED = 64 << 20  # larger files are never named by git's hash


@dataclass
class ProgressReporter:
    """Bytes done of a whole act, and how fast.

    Counted in one thread, reported from another: `report` makes at most ten Progress events a second, and one for
    each note in between.
    """

    total: int = 0
    done: int = 0
    label: str = ""
    stage: str = "download"
    _notes: deque[str] = field(default_factory=deque)
    _last: float = 0.0
    _pace: float = TICK
    _marks: deque[tuple[float, int]] = field(default_factory=deque)

    def note(self, text: str) -> None:
        """Something to say at the next report."""
        self._notes.append(text)

    def moved(self, count: int) -> None:
        """Bytes that cost no time (an earlier try's, or thrown away): they must not count as speed."""
        self.done += count
        self._marks.clear()

    def report(self, force: bool = False) -> Iterator[Progress]:
        """The notes that wait, else the state of things if the last report is old enough.

        Who listens may be slow (a page on a busy machine): then the work goes on for as long as the listener took,
        up to a second, before it is asked again. Otherwise an act would cost one report for each block.
        """
        if not (self._notes or force or time.monotonic() - self._last >= self._pace):
            return
        before = time.monotonic()
        if not self._notes:
            yield self._progress("")
        while self._notes:
            yield self._progress(self._notes.popleft())
        self._last = time.monotonic()
        self._pace = min(SLOWEST, max(TICK, self._last - before))

    def _progress(self, note: str) -> Progress:
        detail = " · ".join(part for part in (self.label, note) if part)
        return Progress(self.stage, self.done, self.total, "B", detail, self._speed())

    def _speed(self) -> float:
        now = time.monotonic()
        self._marks.append((now, self.done))
        while now - self._marks[0][0] > SPEED_SECONDS and len(self._marks) > 2:
            self._marks.popleft()
        first, before = self._marks[0]
        return max(0.0, (self.done - before) / (now - first)) if now - first >= 0.5 else 0.0


class Digest:
    """sha256 and git's own hash of the same bytes; git's needs the length first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def update(self, block: bytes) -> None:
        self._sha256.update(block)
        if self.size < GIT_HASHED:
            self._git.update(block)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def git(self) -> str:
        """The hash git names the same content by; right for files below GIT_HASHED only."""
        return self._git.hexdigest()

    def fits(self, etag: str) -> bool:
        """Whether the bytes are those the ETag names. An ETag of another kind says nothing and fits."""
        if len(etag) == 64:
            return etag == self.sha256
        if len(etag) == 40 and self.size < GIT_HASHED:
            return etag == self.git
        return True


def hash_file(path: Path, meter: ProgressReporter) -> Generator[Progress, None, Digest]:
    """Read a whole file. Raises AppError where it cannot be read."""
    try:
        digest = Digest(path.stat().st_size)
        with path.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
                meter.done += len(block)
                yield from meter.report()
    except OSError as error:
        raise AppError(
            f"{path} cannot be read: {error.strerror or error}. "
            "Check the disk, or delete the model and download it again."
        ) from error
    return digest
