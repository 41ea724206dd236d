"""Which replicas there are: started and stopped as the line needs them and the machines have room."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from janus_app.cluster.line import Line, Replica, Wanted, changes
from janus_app.cluster.replica import Report
from janus_app.errors import AppError
from janus_app.runtime.session import SessionState
from janus_app.types import Request

logger = logging.getLogger(__name__)
_AGAIN = 0.1  # seconds until a replica that did not answer is asked again
_LOOK = 1.0  # seconds between two looks at the cluster's machines
_PATIENCE = 10.0  # seconds without an answer of the cluster before its jobs end


class Cluster(Protocol):
    """What runs the replicas; `ray_serve.RayServe` says more."""

    def capacity(self) -> int: ...

    def start(self, replicas: list[Replica]) -> None: ...

    def stop(self, replica: Replica) -> None: ...

    def report(self, replica: Replica) -> Report | None: ...

    def stream(self, replica: Replica, request: Request | None) -> Any: ...

    def close(self) -> None: ...


class Keeper:
    """`home` is the model to which room that nobody asks for belongs, `capacity` for how many replicas there is room,
    and `settled` what the first ready replica of each model said of itself. `idle_seconds` says after how long unused
    replicas are taken away, None = never.
    """

    def __init__(self, cluster: Cluster, line: Line, idle_seconds: Callable[[], float | None]) -> None:
        self.home: Wanted | None = None
        self.capacity = 0
        self.settled: dict[Wanted, SessionState] = {}
        self._cluster = cluster
        self._line = line
        self._idle_seconds = idle_seconds
        self._numbers = itertools.count()
        self._unreachable: AppError | None = None
        self._adjusting = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="replicas", daemon=True)
        self._thread.start()

    def replace_all(self, home: Wanted | None, anew: bool = False) -> None:
        """Stop every replica, and let `home` have the room; with `anew` in a precision that is yet to be chosen."""
        with self._adjusting:
            for replica in self._line.replicas:
                self._stop(replica)
            self.home = home
            if anew and home is not None:
                self.settled.pop(home, None)
        self._line.nudge()

    def lost(self, replica: Replica) -> None:
        """A replica does not answer: the cluster starts it again, and it is ready when it says so."""
        self._line.lose(replica)
        self._watch(replica)

    def check_reachable(self) -> None:
        """Raises AppError where the cluster has not answered for a while."""
        if self._unreachable is not None:
            raise self._unreachable

    def wait_closed(self) -> None:
        self._closed.wait()

    def close(self) -> None:
        self._closed.set()
        self._line.nudge()
        self._thread.join()

    def _keep(self) -> None:
        looked, answered = 0.0, time.monotonic()
        while not self._closed.is_set():
            try:
                if time.monotonic() - looked >= _LOOK:
                    self.capacity, looked = self._cluster.capacity(), time.monotonic()
                with self._adjusting:
                    self._adjust()
                self._unreachable, answered = None, time.monotonic()
            except Exception as error:  # the next look may succeed
                logger.debug("the cluster does not answer", exc_info=error)
                if time.monotonic() - answered >= _PATIENCE:
                    self._unreachable = AppError("cluster_gone")
            self._line.wait(_LOOK / 2)

    def _adjust(self) -> None:
        line = self._line
        todo = changes(line.replicas, line.tickets, self.capacity, self.home, self._idle_seconds(), time.monotonic())
        for replica in todo.stop:
            self._stop(replica)
        if todo.start:
            made = [Replica(next(self._numbers), wanted, self._as_settled(wanted)) for wanted in todo.start]
            self._cluster.start(made)
            for replica in made:
                line.add(replica)
                self._watch(replica)

    def _stop(self, replica: Replica) -> None:
        self._line.lose(replica)
        self._line.remove(replica)
        self._cluster.stop(replica)

    def _as_settled(self, wanted: Wanted) -> Wanted:
        """In the precision that the first replica chose: one picture must not depend on who draws it."""
        held = self.settled.get(wanted)
        return replace(wanted, precision=held.precision) if held else wanted

    def _watch(self, replica: Replica) -> None:
        threading.Thread(target=self._until_ready, args=(replica,), name="replica", daemon=True).start()

    def _until_ready(self, replica: Replica) -> None:
        """Look until a replica that was started, or is being started again, is ready."""
        while not (replica.stopping or self._closed.is_set()):
            try:
                report = self._cluster.report(replica)
            except AppError as error:
                self._line.found(replica, failure=error)
                return
            except Exception:  # lost again
                self._closed.wait(_AGAIN)
                continue
            if report is not None:
                if self.settled.setdefault(replica.wanted, report.state).precision == report.state.precision:
                    self._line.found(replica, report)
                else:
                    self._stop(replica)  # the next look starts another one, in the precision of the first
                return
