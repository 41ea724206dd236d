"""A session in front of replicas, without Ray: who is served, what a lost replica's job shows, and how pictures spread.

The replicas here are threads of this process that draw grey squares. tests/cluster has them as processes, with models.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing, closing
from typing import Any

import pytest
from PIL import Image

from janus_app.cluster.job import MAX_RUNS
from janus_app.cluster.line import Replica, Wanted
from janus_app.cluster.ray_serve import Lost
from janus_app.cluster.replica import ReplicaProcess, Report
from janus_app.cluster.session import ClusterSession
from janus_app.errors import AppError, Message
from janus_app.hub import Hub
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import SessionState, provenance_of
from janus_app.types import (
    Capabilities,
    ChatRequest,
    Event,
    Finished,
    GenerateRequest,
    Notice,
    Picture,
    Preview,
    Progress,
    Queued,
    Request,
    Started,
    TextDelta,
    Turn,
    drain,
)
from tests.conftest import GOLDEN
from tests.coroutines import run as run_async

ONE, TWO = (str(GOLDEN / name / "checkpoint") for name in ("janus_pro_1b", "janus_1_3b"))
A, B = Wanted(ONE), Wanted(TWO)
DRAW = GenerateRequest("a square", seed=7)
ASK = ChatRequest((Turn("user", "Hello"),))
ROWS = 6
ANSWER = ("An ", "answer", " in five", " par", "ts.")
CAPABILITIES = Capabilities(frozenset({"chat", "generate"}), (6, 6), 100)


def square(seed: int, rows: int = ROWS) -> Image.Image:
    image = Image.new("L", (ROWS, ROWS), 255)
    image.paste(seed % 250, (0, 0, ROWS, rows))
    return image


def answer(request: Request) -> Iterator[Event]:
    """What a model would say."""
    provenance = provenance_of(load_catalog().default(), "fp32", "cpu", request)
    yield Started(provenance)
    if isinstance(request, ChatRequest):
        for number, text in enumerate(ANSWER):
            yield TextDelta(text, (number,))
        yield Finished(text="".join(ANSWER), token_ids=(0, 1, 2, 3, 4), provenance=provenance)
        return
    assert isinstance(request, GenerateRequest)
    yield Notice(Message("previews_without_memory"))
    seeds = range(request.seed, request.seed + request.count)
    for row in range(1, ROWS + 1):
        yield Progress("draw", row * request.count, ROWS * request.count)
        yield Preview(tuple(square(seed, row) for seed in seeds), row * request.count, ROWS * request.count)
    yield Finished(pictures=tuple(Picture(square(seed), seed) for seed in seeds), provenance=provenance)


class FakeStream:
    def __init__(self, cluster: FakeCluster, replica: Replica, request: Request) -> None:
        self.cluster, self.replica, self.request, self.cancelled = cluster, replica, request, threading.Event()

    def __iter__(self) -> Iterator[Event]:
        for number, event in enumerate(answer(self.request)):
            self.cluster.step(self, number)
            if self.cancelled.is_set():
                return
            yield event

    def cancel(self) -> None:
        self.cancelled.set()


class FakeCluster:
    """Room for `slots` replicas. `step(stream, number)` is called before each event and may raise or wait."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.streams: list[FakeStream] = []
        self.refused: dict[Wanted, AppError] = {}
        self.precisions = ["fp32"]
        self.dead: set[Replica] = set()
        self.step: Any = lambda stream, number: None

    def capacity(self) -> int:
        return self.slots

    def start(self, replicas: list[Replica]) -> None:
        pass

    def stop(self, replica: Replica) -> None:
        pass

    def report(self, replica: Replica) -> Report | None:
        if replica.load in self.refused:
            raise self.refused[replica.load]
        if replica in self.dead:
            time.sleep(0.01)
            return None
        precision = self.precisions.pop() if len(self.precisions) > 1 else self.precisions[0]
        if replica.load.precision != "auto":
            precision = replica.load.precision
        state = SessionState("x", "X", precision, "cpu", "ready", capabilities=CAPABILITIES)
        return Report(state, "here", 1)

    def stream(self, replica: Replica, request: Request) -> FakeStream:
        self.streams.append(FakeStream(self, replica, request))
        return self.streams[-1]

    def close(self) -> None:
        pass


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster(2)


@pytest.fixture
def session(cluster: FakeCluster) -> Iterator[ClusterSession]:
    made = ClusterSession(load_catalog(), Hub(), cluster)
    drain(made.load(ONE))
    yield made
    made.close()


def until(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def lose_once(cluster: FakeCluster, at: int) -> None:
    """The first stream that comes to its event `at` loses its replica."""
    lost: list[Replica] = []

    def step(stream: FakeStream, number: int) -> None:
        if number == at and not lost:
            lost.append(stream.replica)
            raise Lost("killed")

    cluster.step = step


def texts(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def pixels(events: list[Event]) -> list[bytes]:
    (end,) = (event for event in events if isinstance(event, Finished))
    return [picture.image.tobytes() for picture in end.pictures]


@pytest.mark.parametrize("at", range(6))
def test_a_conversation_whose_replica_is_lost_shows_each_character_once(
    session: ClusterSession, cluster: FakeCluster, at: int
) -> None:
    lose_once(cluster, at)
    events = [event for event in session.run(ASK) if not isinstance(event, Queued)]
    assert texts(events) == "".join(ANSWER)
    assert [event for event in events if isinstance(event, Notice)] == [Notice(Message("replica_lost"))]
    assert sum(isinstance(event, Started) for event in events) == 1
    assert cluster.streams[0].replica != cluster.streams[1].replica


def test_a_drawing_whose_replica_is_lost_shows_no_row_again(session: ClusterSession, cluster: FakeCluster) -> None:
    whole = [event for event in session.run(DRAW) if not isinstance(event, Queued)]
    lose_once(cluster, 8)
    events = [event for event in session.run(DRAW) if not isinstance(event, Queued)]
    events.remove(Notice(Message("replica_lost")))
    assert [(type(e), getattr(e, "done", 0)) for e in events] == [(type(e), getattr(e, "done", 0)) for e in whole]
    assert pixels(events) == pixels(whole)


def test_several_pictures_are_drawn_by_all_free_replicas_and_are_the_same(
    session: ClusterSession, cluster: FakeCluster
) -> None:
    request = GenerateRequest("a square", count=5, seed=3)
    events = list(session.run(request))
    assert [stream.request.count for stream in cluster.streams] == [3, 2]
    assert pixels(events) == [square(seed).tobytes() for seed in range(3, 8)]
    end = events[-1]
    assert isinstance(end, Finished) and end.provenance is not None and end.provenance.request == request
    assert [picture.seed for picture in end.pictures] == list(range(3, 8))
    previews = [event for event in events if isinstance(event, Preview)]
    assert all(len(preview.images) == 5 and preview.total == 5 * ROWS for preview in previews)
    done = [event.done for event in events if isinstance(event, Progress)]
    assert done == sorted(done) and done[-1] == 5 * ROWS
    assert [event.message.code for event in events if isinstance(event, Notice)] == ["previews_without_memory"]


def test_a_part_of_several_pictures_is_drawn_again_where_its_replica_is_lost(
    session: ClusterSession, cluster: FakeCluster
) -> None:
    lose_once(cluster, 6)
    events = list(session.run(GenerateRequest("a square", count=4, seed=3)))
    assert pixels(events) == [square(seed).tobytes() for seed in range(3, 7)]
    assert sum(isinstance(event, Notice) and event.message.code == "replica_lost" for event in events) == 1


def test_a_job_that_ends_every_replica_is_given_up(session: ClusterSession, cluster: FakeCluster) -> None:
    def step(stream: FakeStream, number: int) -> None:
        raise Lost("killed")

    cluster.step = step
    with pytest.raises(AppError) as failure:
        drain(session.run(DRAW))
    assert failure.value.code == "cluster_replicas_lost" and len(cluster.streams) == MAX_RUNS
    assert session._line.tickets == []


def test_what_a_job_raises_is_raised_here_and_frees_the_replica(session: ClusterSession, cluster: FakeCluster) -> None:
    def step(stream: FakeStream, number: int) -> None:
        raise AppError("job_out_of_memory")

    cluster.step = step
    with pytest.raises(AppError) as failure:
        drain(session.run(DRAW))
    assert failure.value.code == "job_out_of_memory" and len(cluster.streams) == 1
    cluster.step = lambda stream, number: None
    assert isinstance(drain(session.run(DRAW)), Finished)


def test_a_job_that_is_closed_cancels_its_streams_and_frees_its_replicas(
    session: ClusterSession, cluster: FakeCluster
) -> None:
    held = threading.Event()
    cluster.step = lambda stream, number: held.wait(30) if number == 3 else None
    job = session.run(GenerateRequest("a square", count=2))
    while not isinstance(next(job), Progress):
        pass
    assert session.state.phase == "busy"
    job.close()
    assert all(stream.cancelled.is_set() for stream in cluster.streams) and len(cluster.streams) == 2
    assert session.state.phase == "ready" and session.state.queue == 0
    held.set()


def test_jobs_beyond_the_replicas_wait_and_are_told_their_places(session: ClusterSession, cluster: FakeCluster) -> None:
    jobs = [session.run(DRAW) for _ in range(4)]
    assert [isinstance(next(job), Started) for job in jobs[:2]] == [True, True]
    assert [next(job) for job in jobs[2:]] == [Queued(1), Queued(2)]
    assert session.state.queue == 2
    jobs[2].close()
    assert next(jobs[3]) == Queued(1)
    jobs[0].close()
    until(lambda: isinstance(next(jobs[3]), Started))
    for job in jobs:
        job.close()


def test_another_model_is_loaded_beside_that_of_the_page(session: ClusterSession, cluster: FakeCluster) -> None:
    other = session.catalog.resolve(TWO)
    makes: list[Any] = []

    def make(facts: Any) -> Request:
        makes.append(facts)
        return DRAW

    assert isinstance(drain(session.run_on(other, make)), Finished)
    assert makes[0].variant == other and session.variant == session.catalog.resolve(ONE)
    assert {replica.wanted for replica in session.replicas} == {Wanted(ONE), Wanted(TWO)}
    assert isinstance(drain(session.run(DRAW)), Finished)
    with pytest.raises(AppError) as missing:
        session.run_on(session.catalog["janus-pro-7b"], make)
    assert missing.value.code == "model_not_downloaded"


def test_a_model_that_no_replica_can_load_says_why_and_the_one_before_comes_back(
    session: ClusterSession, cluster: FakeCluster
) -> None:
    cluster.refused[B] = AppError("job_out_of_memory")
    with pytest.raises(AppError) as failure:
        drain(session.load(TWO))
    assert failure.value.code == "job_out_of_memory"
    assert isinstance(drain(session.run(DRAW)), Finished)
    assert session.variant == session.catalog.resolve(ONE)


def test_idle_replicas_are_taken_away_and_the_next_job_brings_one_back(session: ClusterSession) -> None:
    session.idle_minutes = 1e-6
    until(lambda: not session.replicas)
    assert session.state.phase == "empty" and session.state.idle_unloaded
    events = list(session.run(DRAW))
    assert isinstance(events[-1], Finished)
    assert events[0] == Notice(Message("model_loaded_again", title=session.catalog.resolve(ONE).title))


def test_every_replica_draws_in_the_precision_of_the_first(cluster: FakeCluster) -> None:
    cluster.precisions = ["fp32", "bf16"]
    session = ClusterSession(load_catalog(), Hub(), cluster)
    drain(session.load(ONE))
    until(lambda: session.state.replicas == (2, 2))
    assert {replica.report.state.precision for replica in session.replicas} == {"bf16"}
    session.close()


def test_without_a_model_a_job_says_so(cluster: FakeCluster) -> None:
    session = ClusterSession(load_catalog(), Hub(), cluster)
    assert session.state.phase == "empty" and session.variant is None
    with pytest.raises(AppError) as failure:
        drain(session.run(DRAW))
    assert failure.value.code == "no_model_loaded"
    drain(session.load(ONE))
    drain(session.unload())
    until(lambda: not session.replicas)
    session.close()


def test_a_cluster_that_is_gone_ends_the_jobs_that_wait_for_it(
    session: ClusterSession, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("janus_app.cluster.keeper._PATIENCE", 0.0)

    def gone() -> int:
        raise Lost("no head")

    cluster.capacity = gone  # type: ignore[method-assign]
    cluster.step = lambda stream, number: (_ for _ in ()).throw(Lost("no head"))
    cluster.dead.update(session.replicas)
    with pytest.raises(AppError) as failure:
        drain(session.run(DRAW))
    assert failure.value.code == "cluster_gone"


def test_a_caller_that_leaves_frees_the_replica_after_the_running_step(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = ReplicaProcess(Wanted(ONE, "cpu", "fp32"))
    steps: list[Event] = []
    inside, go = threading.Event(), threading.Event()
    run = replica.session.run

    def held(request: Request) -> Iterator[Event]:
        with closing(run(request)) as job:
            for event in job:
                steps.append(event)
                if isinstance(event, Progress) and event.stage == "draw":
                    inside.set()
                    assert go.wait(30)
                yield event

    monkeypatch.setattr(replica.session, "run", held)

    async def leave() -> int:
        async def call() -> None:
            async with aclosing(replica.run(GenerateRequest("a square"))) as events:
                async for _ in events:
                    pass

        task = asyncio.create_task(call())
        await asyncio.to_thread(inside.wait, 30)
        assert replica.session.state.phase == "busy"
        begun = len(steps)
        task.cancel()
        go.set()
        await asyncio.wait([task])
        return begun

    begun = run_async(leave())
    assert len(steps) == begun and replica.session.state.phase == "ready" and replica.session.state.queue == 0
