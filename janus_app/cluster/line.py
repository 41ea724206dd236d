"""Who is served next, and which replicas there should be. Plain bookkeeping: it knows nothing of Ray.

A ticket waits for a replica that holds its model. Tickets are served in the order in which they came; one that needs
another model than those before it may be served earlier, where a replica with its model is free.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from janus_app.errors import AppError

KEPT_SECONDS = 60.0  # a model that nobody asks for any more keeps its last replica for so long


@dataclass(frozen=True)
class Wanted:
    """What a replica is to load: a name that `Catalog.resolve` knows on every machine, a device and a precision."""

    name: str
    device: str = "auto"
    precision: str = "auto"


@dataclass(eq=False)
class Replica:
    """One process with one model, as the head knows it.

    `wanted` is what was asked for, `load` the same in the precision that the model's first replica chose. `report` is
    what it said of itself when it became ready.
    """

    number: int
    wanted: Wanted
    load: Wanted
    handle: Any = None
    report: Any = None
    ready: bool = False
    stopping: bool = False
    failure: AppError | None = None
    ticket: Ticket | None = None
    used: float = field(default_factory=time.monotonic)

    @property
    def free(self) -> bool:
        return self.ready and not self.stopping and self.ticket is None


@dataclass(eq=False)
class Ticket:
    """A job's place. It is to have `size` replicas with the model `wanted`; None = the whole cluster, alone."""

    wanted: Wanted | None
    size: int = 1
    replicas: list[Replica] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        return len(self.replicas) < self.size


class Line:
    """Tickets in order, and the replicas they share. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._tickets: list[Ticket] = []
        self._replicas: list[Replica] = []
        self._changed = threading.Condition()

    @property
    def tickets(self) -> list[Ticket]:
        with self._changed:
            return list(self._tickets)

    @property
    def replicas(self) -> list[Replica]:
        with self._changed:
            return list(self._replicas)

    def join(self, wanted: Wanted | None) -> Ticket:
        ticket = Ticket(wanted)
        with self._changed:
            self._tickets.append(ticket)
            self._assign()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give the place and all its replicas back."""
        with self._changed:
            self._tickets.remove(ticket)
            for replica in ticket.replicas:
                replica.ticket, replica.used = None, time.monotonic()
            ticket.replicas.clear()
            self._assign()

    def place(self, ticket: Ticket, timeout: float) -> int:
        """0 if the ticket has what it waits for, else its place, 1 = next. Waits for a change, up to `timeout` s.

        Raises AppError where no replica can load its model.
        """
        with self._changed:
            if self._place(ticket):
                self._changed.wait(timeout)
            return self._place(ticket)

    def widen(self, ticket: Ticket, most: int) -> None:
        """Give a ticket up to `most` replicas in all, as far as some are free and nobody waits for them."""
        with self._changed:
            if any(other.wanted in (None, ticket.wanted) for other in self._tickets if other.waits and other != ticket):
                return
            for replica in self._replicas:
                if len(ticket.replicas) < most and replica.free and replica.wanted == ticket.wanted:
                    self._give(replica, ticket)
            ticket.size = len(ticket.replicas)

    def release(self, ticket: Ticket, replica: Replica) -> None:
        """A ticket needs one replica less, and this one is free again."""
        with self._changed:
            ticket.replicas.remove(replica)
            ticket.size -= 1
            replica.ticket, replica.used = None, time.monotonic()
            self._assign()

    def lose(self, replica: Replica) -> None:
        """A replica does not answer. Its ticket is given another one, before those that came later."""
        with self._changed:
            replica.ready = False
            if replica.ticket is not None:
                replica.ticket.replicas.remove(replica)
                replica.ticket = None
            self._assign()

    def add(self, replica: Replica) -> None:
        with self._changed:
            self._replicas.append(replica)
            self._changed.notify_all()

    def remove(self, replica: Replica) -> None:
        """A replica is being stopped; it is given to nobody any more. Call `lose` first where it has a job."""
        with self._changed:
            replica.stopping = True
            self._replicas.remove(replica)
            self._changed.notify_all()

    def found(self, replica: Replica, report: Any = None, failure: AppError | None = None) -> None:
        """A replica is ready, or it cannot load its model."""
        with self._changed:
            replica.report, replica.failure, replica.ready = report or replica.report, failure, failure is None
            replica.used = time.monotonic()
            self._assign()

    def nudge(self) -> None:
        """Let who waits look again: something outside the line changed."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, timeout: float) -> None:
        """Until something changes."""
        with self._changed:
            self._changed.wait(timeout)

    def _place(self, ticket: Ticket) -> int:
        before = self._tickets[: self._tickets.index(ticket)]
        if ticket.wanted is None:
            return len(before)
        if not ticket.waits:
            return 0
        mine = [replica for replica in self._replicas if replica.wanted == ticket.wanted]
        if mine and all(replica.failure for replica in mine):
            assert mine[0].failure is not None
            raise mine[0].failure
        return 1 + sum(other.waits or other.wanted is None for other in before)

    def _assign(self) -> None:
        for ticket in self._tickets:
            if ticket.wanted is None:
                break  # what comes after it waits
            for replica in self._replicas:
                if ticket.waits and replica.free and replica.wanted == ticket.wanted:
                    self._give(replica, ticket)
        self._changed.notify_all()

    def _give(self, replica: Replica, ticket: Ticket) -> None:
        replica.ticket = ticket
        ticket.replicas.append(replica)


@dataclass(frozen=True)
class Changes:
    start: tuple[Wanted, ...] = ()
    stop: tuple[Replica, ...] = ()


def changes(
    replicas: Sequence[Replica],
    tickets: Iterable[Ticket],
    capacity: int,
    home: Wanted | None,
    idle_seconds: float | None,
    now: float,
) -> Changes:
    """Which replicas to start and to stop.

    `capacity` is how many the machines have room for, `home` the model of the page. Each model that a ticket asks for
    gets a replica, and more while others have some to spare: all but the one of `home`, and but the last one of another
    model that was used within KEPT_SECONDS. Room that is left belongs to `home`, unless idle replicas are taken away:
    those unused for `idle_seconds`, None = never.
    """
    asked: Counter[Wanted] = Counter()
    for ticket in tickets:
        if ticket.wanted is not None:
            asked[ticket.wanted] += ticket.size
    kept = list(replicas)
    stop: list[Replica] = []
    start: list[Wanted] = []

    def least(replica: Replica) -> int:
        """How many replicas its model keeps, however many others are asked for."""
        keeps = replica.wanted == home or now - replica.used < KEPT_SECONDS
        return max(asked[replica.wanted], int(keeps))

    def drop(replica: Replica) -> None:
        kept.remove(replica)
        stop.append(replica)

    for replica in [replica for replica in kept if not replica.ready][: max(0, len(kept) - capacity)]:
        drop(replica)  # its machine is gone
    if idle_seconds is not None:
        for replica in [r for r in kept if r.free and not asked[r.wanted] and now - r.used >= idle_seconds]:
            drop(replica)
    for wanted, number in asked.items():
        held = Counter(replica.wanted for replica in kept)
        for missing in range(held[wanted], min(number, capacity)):
            if len(kept) + len(start) >= capacity:
                spare = [r for r in kept if r.free and r.wanted != wanted]
                if missing:  # has one already: it takes only what others can spare
                    spare = [r for r in spare if held[r.wanted] > least(r)]
                if not spare:
                    break
                victim = min(spare, key=lambda replica: (asked[replica.wanted], replica.used))
                held[victim.wanted] -= 1
                drop(victim)
            start.append(wanted)
    if home is not None and idle_seconds is None:
        start += [home] * (capacity - len(kept) - len(start))
    return Changes(tuple(start), tuple(stop))
