"""The studio: one model, one job at a time, places in the line, cancelling, switching, recovering."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from janus_app.catalog import load_catalog
from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.models.base import (
    ChatRequest,
    Event,
    Finished,
    GenerateRequest,
    Progress,
    Queued,
    TextDelta,
    Turn,
)
from janus_app.studio import Studio, drain
from tests.conftest import GOLDEN

PRO = str(GOLDEN / "janus_pro_1b" / "checkpoint")
OLD = str(GOLDEN / "janus_1_3b" / "checkpoint")
DRAW = GenerateRequest("A small red house.", count=2, seed=3)
ASK = ChatRequest((Turn("user", "Hello"),), temperature=0, max_new_tokens=8)


@pytest.fixture
def studio() -> Studio:
    made = Studio(load_catalog(), Hub())
    drain(made.load(PRO, "cpu", "fp32"))
    return made


def tokens(last: Event | None) -> list[tuple[int, ...]]:
    assert isinstance(last, Finished)
    return [p.image_tokens for p in last.pictures]


def test_state_follows_the_model() -> None:
    studio = Studio(load_catalog(), Hub())
    assert studio.state.phase == "empty" and studio.state.capabilities is None
    stages = [e.stage for e in studio.load(PRO, "cpu", "fp32") if isinstance(e, Progress)]
    assert stages[-1] == "ready" and "read" in stages
    state = studio.state
    assert (state.phase, state.precision, state.device) == ("ready", "fp32", "cpu")
    assert state.capabilities is not None and state.capabilities.size == (96, 96)
    assert state.memory_used and state.memory_total and state.memory_used <= state.memory_total
    job = studio.run(DRAW)
    next(job)
    assert studio.state.phase == "busy"
    job.close()  # type: ignore[attr-defined]
    assert studio.state.phase == "ready"
    drain(studio.unload())
    assert studio.state.phase == "empty"
    with pytest.raises(AppError, match="No model is loaded"):
        drain(studio.run(DRAW))


def test_jobs_wait_and_learn_their_place(studio: Studio) -> None:
    first = studio.run(DRAW)
    assert isinstance(next(first), Progress)
    second, third = studio.run(ASK), studio.run(ASK)
    assert next(second) == Queued(1)
    assert next(third) == Queued(2)
    assert studio.state.queue == 2
    second.close()  # type: ignore[attr-defined] # gives up while waiting
    assert next(third) == Queued(1)
    first.close()  # type: ignore[attr-defined]
    assert isinstance(drain(third), Finished)
    assert studio.state.queue == 0


def test_a_job_may_change_threads_between_steps(studio: Studio) -> None:
    """A page advances a generator from whichever worker is free."""
    job, events = studio.run(DRAW), []

    def step() -> None:
        events.append(next(job, None))

    while not events or events[-1] is not None:
        worker = threading.Thread(target=step)
        worker.start()
        worker.join()
    assert isinstance(events[-2], Finished)
    assert tokens(events[-2]) == tokens(drain(studio.run(DRAW)))


def test_jobs_at_once_do_not_mix(studio: Studio) -> None:
    requests = [GenerateRequest("A small red house.", seed=seed) for seed in range(4)]
    alone = [tokens(drain(studio.run(request))) for request in requests]
    together: dict[int, list[tuple[int, ...]]] = {}
    working = 0
    most = 0
    lock = threading.Lock()

    def work(i: int) -> None:
        nonlocal working, most
        inside = False
        for event in studio.run(requests[i]):
            if isinstance(event, Progress) and not inside:
                inside = True
                with lock:
                    working += 1
                    most = max(most, working)
            if isinstance(event, Finished):
                with lock:
                    working -= 1
                together[i] = tokens(event)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[i] for i in range(4)] == alone
    assert most == 1


def test_switching_frees_the_old_model(studio: Studio) -> None:
    assert studio._resident is not None
    old = weakref.ref(studio._resident.model)
    drain(studio.load(OLD, "cpu", "fp32"))
    gc.collect()
    assert old() is None
    assert isinstance(drain(studio.run(ASK)), Finished)


def test_a_failed_load_leaves_nothing_half_loaded(studio: Studio, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(PRO, tmp_path / "broken"))
    weights = folder / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(AppError, match="damaged"):
        drain(studio.load(str(folder), "cpu", "fp32"))
    assert studio.state.phase == "empty"
    drain(studio.load(PRO, "cpu", "fp32"))  # and the next one works
    assert isinstance(drain(studio.run(ASK)), Finished)


def test_an_unknown_model_keeps_the_resident_one(studio: Studio) -> None:
    with pytest.raises(AppError, match="no model called"):
        drain(studio.load("janus-9000"))
    assert studio.state.phase == "ready"


def test_cancelling_a_load(studio: Studio) -> None:
    load = studio.load(OLD, "cpu", "fp32")
    seen: list[Event] = []
    for event in load:
        seen.append(event)
        if isinstance(event, Progress) and event.stage == "read" and event.done:
            break
    load.close()  # type: ignore[attr-defined]
    assert studio.state.phase == "empty" and studio.state.queue == 0
    drain(studio.load(PRO, "cpu", "fp32"))
    assert studio.state.phase == "ready"


def test_running_out_of_memory_is_explained_and_survived(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    assert studio._resident is not None

    def exhausted(_: ChatRequest) -> Iterator[Event]:
        yield TextDelta("a")
        raise MemoryError

    monkeypatch.setattr(studio._resident.model, "chat", exhausted)
    with pytest.raises(AppError, match="ran out of memory"):
        drain(studio.run(ASK))
    monkeypatch.undo()
    assert studio.state.phase == "ready"
    assert isinstance(drain(studio.run(ASK)), Finished)


def test_many_switches_leak_nothing(studio: Studio) -> None:
    import psutil

    process = psutil.Process()
    for name in (OLD, PRO) * 2:
        drain(studio.load(name, "cpu", "fp32"))
    settled = process.memory_info().rss
    for name in (OLD, PRO) * 10:
        drain(studio.load(name, "cpu", "fp32"))
    assert process.memory_info().rss - settled < 20e6  # each checkpoint is 5 MB in fp32
