"""The session of a page with several models: it speaks for replicas in other processes as if it held their models."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from janus_app.cluster.job import POLL, Job
from janus_app.cluster.keeper import Cluster, Keeper
from janus_app.cluster.line import Line, Replica, Ticket, Wanted
from janus_app.cluster.replica import Report
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
    finish,
)

if TYPE_CHECKING:
    from janus_app.runtime.adapters import Adapter
    from janus_app.runtime.fit import LoadOptions

Item = TypeVar("Item")


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
        self._variants: dict[Wanted, Variant] = {}
        self._loading = False
        self._progress: Progress | None = None
        self._keeper = Keeper(cluster, self._line, self._idle_seconds)

    # What it holds and does.

    @property
    def variant(self) -> Variant | None:
        home = self._keeper.home
        return self._variants[home] if home is not None and home in self._keeper.settled else None

    @property
    def state(self) -> SessionState:
        home, tickets, replicas = self._keeper.home, self._line.tickets, self._line.replicas
        mine = [replica for replica in replicas if replica.wanted == home]
        running = [ticket for ticket in tickets if ticket.replicas]
        waiting = sum(ticket.waits and not ticket.replicas for ticket in tickets) - self._loading
        state = SessionState(queue=waiting, progress=self._progress if tickets else None)
        held = self._keeper.settled.get(home) if home else None
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
            replicas=(sum(replica.ready for replica in replicas), max(self.room, len(replicas))),
        )

    @property
    def replicas(self) -> list[Replica]:
        return self._line.replicas

    @property
    def room(self) -> int:
        """For how many replicas the machines have room."""
        return self._keeper.capacity

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
        home = self._keeper.home
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
            self._keeper.home = asked
        return self._job(asked, make)

    def result(self, request: Request, on_event: Callable[[Event], None] | None = None) -> Finished:
        return finish(self.run(request), on_event)

    def exclusively(self, work: Callable[[], Generator[Item, None, None]]) -> Generator[Item | Queued, None, None]:
        """Do work in this process that no job may run beside."""
        return self._alone(work)

    def run_idle_unload(self) -> None:
        """The replicas' keeper takes idle ones away; this only waits, as its caller expects."""
        self._keeper.wait_closed()

    def close(self) -> None:
        """Stop the replicas; jobs that still run end with an error."""
        self._keeper.close()
        self._cluster.close()

    def _idle_seconds(self) -> float | None:
        return self.idle_minutes * 60 if self.idle_minutes and not self._loading else None

    def _at_home(self) -> Wanted:
        if self._keeper.home is None:
            raise AppError("no_model_loaded")
        return self._keeper.home

    def _alone(self, work: Callable[[], Generator[Item, None, None]]) -> Generator[Item | Queued, None, None]:
        ticket = self._line.join(None)
        try:
            while place := self._line.place(ticket, POLL):
                yield Queued(place)
            yield from work()
        finally:
            self._line.leave(ticket)

    def _load(self, wanted: Wanted, variant: Variant) -> Events:
        keeper, before = self._keeper, self._keeper.home
        self._loading = True
        try:
            yield from self.hub.fetch(variant)
            self._variants[wanted] = variant
            keeper.replace_all(wanted, anew=True)
            yield from self._until_loaded()
            yield Progress("ready", 1, 1, detail=variant.title)
        finally:
            self._loading = False
            if keeper.home == wanted and wanted not in keeper.settled:  # it failed, or was cancelled
                keeper.replace_all(None if before == wanted else before)

    def _until_loaded(self) -> Events:
        """Raises AppError where no replica can load the model."""
        while True:
            total, replicas = self.room, self._line.replicas
            ready, failed = [r for r in replicas if r.ready], [r.failure for r in replicas if r.failure is not None]
            self._progress = Progress("replicas", len(ready), total)
            yield self._progress
            if total and len(ready) + len(failed) >= total:
                break
            self._keeper.check_reachable()
            self._line.wait(POLL)
        if not ready:
            raise failed[0]

    def _unload(self) -> Events:
        self._keeper.replace_all(None)
        yield Progress("unloaded", 1, 1)

    def _job(self, wanted: Wanted, make: Callable[[ModelFacts], Request | None]) -> Events:
        ticket = self._line.join(wanted)
        try:
            yield from self._wait(ticket, wanted)
            held = self._keeper.settled[wanted]
            assert held.capabilities is not None
            request = make(ModelFacts(self._variants[wanted], held.capabilities))
            count = request.count if isinstance(request, GenerateRequest | EditRequest) else 1
            self._line.widen(ticket, count)
            with closing(Job(self._cluster, self._line, self._keeper, ticket, request).run()) as events:
                for event in events:
                    if isinstance(event, Progress):
                        self._progress = event
                    yield event
        finally:
            self._line.leave(ticket)

    def _wait(self, ticket: Ticket, wanted: Wanted) -> Events:
        if self.idle_minutes and not any(replica.wanted == wanted for replica in self._line.replicas):
            yield Notice(Message("model_loaded_again", title=self._variants[wanted].title))
        while place := self._line.place(ticket, POLL):
            self._keeper.check_reachable()
            yield Queued(place)


def _same(one: Variant, other: Variant) -> bool:
    return (one.id, one.folder) == (other.id, other.folder)
