"""A job on replicas: its parts, each on one of them, and the parts of lost replicas again on others."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from typing import Any

from janus_app.cluster.keeper import Cluster, Keeper
from janus_app.cluster.line import Line, Replica, Ticket
from janus_app.cluster.ray_serve import Lost
from janus_app.cluster.spread import Shown, Whole, split
from janus_app.errors import AppError, Message
from janus_app.types import Event, Events, Notice, Queued, Request

MAX_RUNS = 4  # of one part of a job: a request that ends every replica must not go on for ever
POLL = 0.1  # seconds between two looks at the line; a closed job leaves it within this time
_END: Any = object()


@dataclass(eq=False)
class Part:
    """A share of a job: its request, what was shown of it, and the replica and stream that it runs on."""

    number: int
    request: Request | None
    shown: Shown = field(default_factory=Shown)
    replica: Replica | None = None
    stream: Any = None
    runs: int = 0
    ended: bool = False

    def run(self, cluster: Cluster, replica: Replica, arrived: queue.SimpleQueue[Any]) -> None:
        """Start on a replica. What comes is put into `arrived`, with the number of this run."""
        self.replica, self.runs = replica, self.runs + 1
        try:
            self.stream = cluster.stream(replica, self.request)
        except Lost as error:
            arrived.put((self, self.runs, error))
            return
        threading.Thread(target=_pump, args=(self, self.runs, self.stream, arrived), daemon=True).start()


class Job:
    """`ticket` has the replicas of a request, or of a check of the weights (None)."""

    def __init__(self, cluster: Cluster, line: Line, keeper: Keeper, ticket: Ticket, request: Request | None) -> None:
        self._cluster, self._line, self._keeper, self._ticket = cluster, line, keeper, ticket
        requests = split(request, ticket.size) if request is not None else [None]
        self._parts = [Part(number, part) for number, part in enumerate(requests)]
        self._whole = Whole(request, [part.request for part in self._parts])
        self._arrived = queue.SimpleQueue[Any]()
        self._noticed = False

    def run(self) -> Events:
        """Raises what a replica raised, and AppError where too many were lost or the cluster is gone."""
        try:
            while not all(part.ended for part in self._parts):
                self._place_parts()
                try:
                    waits = any(part.replica is None for part in self._parts)
                    part, run, item = self._arrived.get(timeout=POLL if waits else None)
                except queue.Empty:
                    self._keeper.check_reachable()
                    if place := self._line.place(self._ticket, 0):
                        yield Queued(place)
                    continue
                if run == part.runs and not part.ended and (event := self._take(part, item)) is not None:
                    yield event
            if (finished := self._whole.finished) is not None:
                yield finished
        finally:
            for part in self._parts:
                if part.stream is not None and not part.ended:
                    part.stream.cancel()

    def _place_parts(self) -> None:
        """Start the parts that have no replica on those that the ticket was given."""
        used = {part.replica for part in self._parts if not part.ended}
        spare = [replica for replica in list(self._ticket.replicas) if replica not in used]
        for part, replica in zip([part for part in self._parts if part.replica is None], spare, strict=False):
            part.run(self._cluster, replica, self._arrived)

    def _take(self, part: Part, item: Any) -> Event | None:
        """What the job's user sees of something that came from a part."""
        if isinstance(item, Lost):
            self._lose(part)
            noticed, self._noticed = self._noticed, True
            return None if noticed else Notice(Message("replica_lost"))
        if isinstance(item, BaseException):
            raise item
        if item is _END:
            part.ended = True
            assert part.replica is not None
            self._line.release(self._ticket, part.replica)
            return None
        new = part.shown.new(item)
        return None if new is None else self._whole.take(part.number, new)

    def _lose(self, part: Part) -> None:
        assert part.replica is not None
        self._keeper.lost(part.replica)
        part.replica, part.stream = None, None
        part.shown.again()
        if part.runs >= MAX_RUNS:
            raise AppError("cluster_replicas_lost", count=MAX_RUNS)


def _pump(part: Part, run: int, stream: Any, arrived: queue.SimpleQueue[Any]) -> None:
    try:
        for event in stream:
            arrived.put((part, run, event))
    except BaseException as error:
        arrived.put((part, run, error))
    else:
        arrived.put((part, run, _END))
