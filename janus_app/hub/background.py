"""A coroutine behind a generator: it works in a thread of its own while the generator reports.

Many connections at once are one coroutine's work; what the rest of the app knows is a generator that can be closed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, Generic, TypeVar

from janus_app.hub.progress import TICK, ProgressReporter
from janus_app.types import Progress

T = TypeVar("T")
GRACE = 3.0  # seconds a closed generator waits for its thread; a disk that hangs longer is left to itself


def in_background(work: Callable[[], Coroutine[Any, Any, T]], meter: ProgressReporter) -> Generator[Progress, None, T]:
    """Run `work()` to its end, yielding the meter's reports; returns its result or raises its error.

    Closing the generator cancels the coroutine at whatever it awaits and returns once it has cleaned up.
    """
    thread = _Worker(work)
    thread.start()
    try:
        while not thread.ended.wait(TICK):
            yield from meter.report()
        yield from meter.report()
    finally:
        thread.cancel()
    if thread.error is not None:
        raise thread.error
    return thread.value


class _Worker(threading.Thread, Generic[T]):
    """A thread with one event loop for one coroutine."""

    value: T

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        super().__init__(name="janus-download", daemon=True)  # a half-done download must not hold the exit up
        self.error: BaseException | None = None
        self.ended = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[T] = self._loop.create_task(work())

    def run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self.value = self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass  # the generator was closed, so nobody asks for a result
        except BaseException as error:
            self.error = error
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
            self.ended.set()

    def cancel(self) -> None:
        with suppress(RuntimeError):  # the loop closed in this very moment
            self._loop.call_soon_threadsafe(self._task.cancel)
        self.join(GRACE)
