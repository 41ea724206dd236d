"""The session of a page with several models: it speaks for replicas in other processes as if it held their models."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from janus_app.cluster.line import Line, Replica, Ticket, Wanted, changes
from janus_app.cluster.ray_serve import Lost
from janus_app.cluster.replica import Report
from janus_app.cluster.spread import Shown, Whole, split
from janus_app.errors import AppError, Message
from janus_app.hub import Hub
from janus_app.registry.catalog import Catalog
from janus_app.registry.types import Variant
from janus_app.runtime.session import ModelFacts, SessionState
from janus_app.types import (
    EditRequest,
    Event,
    Events,
    Finished,
    GenerateRequest,
    Notice,
    Progress,
    Queued,
    Request,
    drain,
)

if TYPE_CHECKING:
    from janus_app.runtime.adapters import Adapter
    from janus_app.runtime.fit import LoadOptions

Item = TypeVar("Item")
logger = logging.getLogger(__name__)
MAX_RUNS = 4  # of one part of a job: a request that ends every replica must not go on for ever
_POLL = 0.1  # seconds between two looks at the line; a closed job leaves it within this time
_LOOK = 1.0  # seconds between two looks at the cluster's machines
_PATIENCE = 10.0  # seconds without an answer of the cluster before its jobs end
_END: Any = object()


class Cluster(Protocol):
    """What runs the replicas; `ray_serve.RayServe` says more."""

    def capacity(self) -> int: ...

    def start(self, replicas: list[Replica]) -> None: ...

    def stop(self, replica: Replica) -> None: ...

    def report(self, replica: Replica) -> Report | None: ...

    def stream(self, replica: Replica, request: Request | None) -> Any: ...

    def close(self) -> None: ...


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


class ClusterSession:
    """A `Session` in front of replicas. `home` is the model of the page; other programs may ask for others beside it.

    A job whose replica is lost is run again on another one, and shows only what was not shown before.
    """

    def __init__(self, catalog: Catalog, hub: Hub, cluster: Cluster) -> None:
        self.catalog = catalog
        self.hub = hub
        self.idle_minutes: float | None = None
        self._cluster = cluster
        self._line = Line()
        self._home: Wanted | None = None
        self._variants: dict[Wanted, Variant] = {}
        self._settled: dict[Wanted, SessionState] = {}  # of the first replica that was ready
        self._loading = False
        self._progress: Progress | None = None
        self._numbers = itertools.count()
        self._capacity = 0
        self._unreachable: AppError | None = None
        self._adjusting = threading.Lock()
        self._closed = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="replicas", daemon=True)
        self._keeper.start()

    # What it holds and does.

    @property
    def variant(self) -> Variant | None:
        home = self._home
        return self._variants[home] if home is not None and home in self._settled else None

    @property
    def state(self) -> SessionState:
        home, tickets, replicas = self._home, self._line.tickets, self._line.replicas
        mine = [replica for replica in replicas if replica.wanted == home]
        running = [ticket for ticket in tickets if ticket.replicas]
        waiting = sum(ticket.waits and not ticket.replicas for ticket in tickets) - self._loading
        state = SessionState(queue=waiting, progress=self._progress if tickets else None)
        held = self._settled.get(home) if home else None
        if self._loading or home is None or held is None:
            return replace(state, phase="loading" if self._loading else "empty")
        if not mine and self.idle_minutes:
            return replace(state, phase="busy" if waiting else "empty", idle_unloaded=self._variants[home].title)
        return replace(
            held,
            phase="busy" if running else "ready",
            verb="",
            queue=waiting,
            progress=state.progress,
            replicas=(sum(replica.ready for replica in replicas), max(self._capacity, len(replicas))),
        )

    @property
    def replicas(self) -> list[Replica]:
        return self._line.replicas

    @property
    def room(self) -> int:
        """For how many replicas the machines have room."""
        return self._capacity

    def ask(self, replica: Replica) -> Report | None:
        """What a replica says of itself now, None where it does not answer. Raises Lost."""
        return self._cluster.report(replica)

    def device_names(self) -> list[str]:
        """A replica has one card, or the processor."""
        return ["auto", "cpu"]

    def plan_load(self, variant: Variant, device: str = "auto") -> LoadOptions:
        """As this machine would load it; the others' memory is not known here."""
        from janus_app.runtime.fit import plan_load

        folder = self.hub.status(variant).folder
        return plan_load(variant, folder, device, components=self.hub.part_folders(variant))

    # Jobs.

    def load(
        self, name: str, device: str = "auto", precision: str = "auto", adapters: Sequence[Adapter] = ()
    ) -> Events:
        """Let every replica load `name`, once the jobs before are done. The page's machine downloads it first.

        Raises AppError for adapters, which replicas do not take.
        """
        if adapters:
            raise AppError("adapters_in_cluster")
        variant = self.catalog.resolve(name)
        return self._alone(lambda: self._load(Wanted(name, device, precision), variant))

    def unload(self) -> Events:
        return self._alone(self._unload)

    def check_weights(self) -> Events:
        """Check the weights as one of the replicas holds them."""
        return self._job(self._at_home(), lambda _: None)

    def run(self, request: Request) -> Events:
        return self._job(self._at_home(), lambda _: request)

    def run_on(
        self,
        variant: Variant | None,
        make: Callable[[ModelFacts], Request],
        adapters: tuple[Adapter, ...] | None = None,
    ) -> Events:
        if adapters:
            raise AppError("adapters_in_cluster")
        home = self._home
        if variant is None and home is not None:
            return self._job(home, make)
        wanted = variant or self.catalog.default()
        if home is not None and _same(self._variants[home], wanted):
            return self._job(home, make)
        if not self.hub.status(wanted).complete:
            raise AppError("model_not_downloaded", title=wanted.title, name=wanted.id)
        asked = Wanted(self.catalog.name_of(wanted))
        self._variants[asked] = wanted
        if home is None:
            self._home = asked
        return self._job(asked, make)

    def result(self, request: Request, on_event: Callable[[Event], None] | None = None) -> Finished:
        last = drain(self.run(request), on_event)
        assert isinstance(last, Finished)
        return last

    def exclusively(self, work: Callable[[], Generator[Item, None, None]]) -> Generator[Item | Queued, None, None]:
        """Do work in this process that no job may run beside."""
        return self._alone(work)

    def run_idle_unload(self) -> None:
        """The replicas' keeper takes idle ones away; this only waits, as its caller expects."""
        self._closed.wait()

    def close(self) -> None:
        """Stop the replicas; jobs that still run end with an error."""
        self._closed.set()
        self._line.nudge()
        self._keeper.join()
        self._cluster.close()

    def _at_home(self) -> Wanted:
        if self._home is None:
            raise AppError("no_model_loaded")
        return self._home

    def _alone(self, work: Callable[[], Generator[Item, None, None]]) -> Generator[Item | Queued, None, None]:
        ticket = self._line.join(None)
        try:
            while place := self._line.place(ticket, _POLL):
                yield Queued(place)
            yield from work()
        finally:
            self._line.leave(ticket)

    def _load(self, wanted: Wanted, variant: Variant) -> Events:
        before, self._loading = self._home, True
        try:
            yield from self.hub.fetch(variant)
            with self._adjusting:
                self._stop_all()
                self._variants[wanted], self._home = variant, wanted
                self._settled.pop(wanted, None)
            self._line.nudge()
            while True:
                total, ready = self._capacity, [r for r in self._line.replicas if r.ready]
                yield self._note(Progress("replicas", len(ready), total))
                failed = [replica.failure for replica in self._line.replicas if replica.failure is not None]
                if total and len(ready) + len(failed) >= total:
                    break
                self._check_reachable()
                self._line.wait(_POLL)
            if not ready and failed[0] is not None:
                raise failed[0]
            yield Progress("ready", 1, 1, detail=variant.title)
        finally:
            self._loading = False
            if self._home == wanted and wanted not in self._settled:  # it failed, or was cancelled
                with self._adjusting:
                    self._home = None if before == wanted else before
                    self._stop_all()

    def _unload(self) -> Events:
        with self._adjusting:
            self._home = None
            self._stop_all()
        yield Progress("unloaded", 1, 1)

    def _job(self, wanted: Wanted, make: Callable[[ModelFacts], Request | None]) -> Events:
        ticket = self._line.join(wanted)
        try:
            yield from self._wait(ticket, wanted)
            held = self._settled[wanted]
            assert held.capabilities is not None
            request = make(ModelFacts(self._variants[wanted], held.capabilities))
            count = request.count if isinstance(request, GenerateRequest | EditRequest) else 1
            self._line.widen(ticket, count)
            requests = split(request, ticket.size) if request is not None else [None]
            yield from self._run(ticket, request, [Part(number, part) for number, part in enumerate(requests)])
        finally:
            self._line.leave(ticket)

    def _wait(self, ticket: Ticket, wanted: Wanted) -> Events:
        if self.idle_minutes and not any(replica.wanted == wanted for replica in self._line.replicas):
            yield Notice(Message("model_loaded_again", title=self._variants[wanted].title))
        while place := self._line.place(ticket, _POLL):
            self._check_reachable()
            yield Queued(place)

    def _check_reachable(self) -> None:
        if self._unreachable is not None:
            raise self._unreachable

    def _run(self, ticket: Ticket, request: Any, parts: list[Part]) -> Events:
        """Run the parts of a job, each on a replica of the ticket, and those of lost replicas again."""
        whole, arrived, noticed = Whole(request, [part.request for part in parts]), queue.SimpleQueue[Any](), False
        try:
            while not all(part.ended for part in parts):
                self._place_parts(ticket, parts, arrived)
                try:
                    part, run, item = arrived.get(timeout=_POLL if any(p.replica is None for p in parts) else None)
                except queue.Empty:
                    self._check_reachable()
                    if place := self._line.place(ticket, 0):
                        yield Queued(place)
                    continue
                if run != part.runs or part.ended:
                    continue  # of a stream that was given up
                if isinstance(item, Lost):
                    self._lose(part)
                    if not noticed:
                        noticed = True
                        yield Notice(Message("replica_lost"))
                elif isinstance(item, BaseException):
                    raise item
                elif item is _END:
                    part.ended = True
                    self._line.release(ticket, part.replica)
                elif (new := part.shown.new(item)) is not None and (event := whole.take(part.number, new)) is not None:
                    yield self._note(event)
            if (finished := whole.finished) is not None:
                yield finished
        finally:
            for part in parts:
                if part.stream is not None and not part.ended:
                    part.stream.cancel()

    def _place_parts(self, ticket: Ticket, parts: list[Part], arrived: queue.SimpleQueue[Any]) -> None:
        """Start the parts that have no replica on those that the ticket was given."""
        used = {part.replica for part in parts if not part.ended}
        spare = [replica for replica in list(ticket.replicas) if replica not in used]
        for part, replica in zip([part for part in parts if part.replica is None], spare, strict=False):
            part.replica, part.runs = replica, part.runs + 1
            try:
                part.stream = self._cluster.stream(replica, part.request)
            except Lost as error:
                arrived.put((part, part.runs, error))
                continue
            threading.Thread(target=_pump, args=(part, part.runs, part.stream, arrived), daemon=True).start()

    def _lose(self, part: Part) -> None:
        assert part.replica is not None
        self._line.lose(part.replica)
        self._watch(part.replica)
        part.replica, part.stream = None, None
        part.shown.again()
        if part.runs >= MAX_RUNS:
            raise AppError("cluster_replicas_lost", count=MAX_RUNS)

    def _note(self, event: Event) -> Event:
        if isinstance(event, Progress):
            self._progress = event
        return event

    # The replicas.

    def _stop_all(self) -> None:
        for replica in self._line.replicas:
            self._stop(replica)

    def _stop(self, replica: Replica) -> None:
        self._line.lose(replica)
        self._line.remove(replica)
        self._cluster.stop(replica)

    def _keep(self) -> None:
        """Start and stop replicas as the line needs them and the machines have room."""
        looked, answered = 0.0, time.monotonic()
        while not self._closed.is_set():
            try:
                if time.monotonic() - looked >= _LOOK:
                    self._capacity, looked = self._cluster.capacity(), time.monotonic()
                with self._adjusting:
                    self._adjust()
                self._unreachable, answered = None, time.monotonic()
            except Exception as error:  # the next look may succeed
                logger.debug("the cluster does not answer", exc_info=error)
                if time.monotonic() - answered >= _PATIENCE:
                    self._unreachable = AppError("cluster_gone")
            self._line.wait(_LOOK / 2)

    def _adjust(self) -> None:
        idle = self.idle_minutes * 60 if self.idle_minutes and not self._loading else None
        todo = changes(self._line.replicas, self._line.tickets, self._capacity, self._home, idle, time.monotonic())
        for replica in todo.stop:
            self._stop(replica)
        if todo.start:
            made = [Replica(next(self._numbers), wanted, self._as_settled(wanted)) for wanted in todo.start]
            self._cluster.start(made)
            for replica in made:
                self._line.add(replica)
                self._watch(replica)

    def _as_settled(self, wanted: Wanted) -> Wanted:
        """In the precision that the first replica chose: one picture must not depend on who draws it."""
        held = self._settled.get(wanted)
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
                self._closed.wait(_POLL)
                continue
            if report is not None:
                if self._settled.setdefault(replica.wanted, report.state).precision == report.state.precision:
                    self._line.found(replica, report)
                else:
                    self._stop(replica)  # the keeper starts another one, in the precision of the first
                return


def _same(one: Variant, other: Variant) -> bool:
    return (one.id, one.folder) == (other.id, other.folder)


def _pump(part: Part, run: int, stream: Any, arrived: queue.SimpleQueue[Any]) -> None:
    try:
        for event in stream:
            arrived.put((part, run, event))
    except BaseException as error:
        arrived.put((part, run, error))
    else:
        arrived.put((part, run, _END))
