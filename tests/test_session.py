"""A session: one loaded model, one job at a time, places in the queue, cancelling, switching, recovering."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from janus_app.errors import AppError, Message
from janus_app.hub import Hub
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession
from janus_app.runtime.watchdog import Watchdog, explain, reporting_silence
from janus_app.types import (
    ChatRequest,
    Event,
    Finished,
    GenerateRequest,
    Notice,
    Progress,
    Queued,
    Started,
    Turn,
    drain,
)
from tests.conftest import GOLDEN

ROOT = Path(__file__).parent.parent
PRO = str(GOLDEN / "janus_pro_1b" / "checkpoint")
OLD = str(GOLDEN / "janus_1_3b" / "checkpoint")
DRAW = GenerateRequest("A small red house.", count=2, seed=3)
ASK = ChatRequest((Turn("user", "Hello"),), temperature=0, max_new_tokens=8)


@pytest.fixture
def session() -> ModelSession:
    made = ModelSession(load_catalog(), Hub())
    drain(made.load(PRO, "cpu", "fp32"))
    return made


def tokens(last: Event | None) -> list[tuple[int, ...]]:
    assert isinstance(last, Finished)
    return [p.image_tokens for p in last.pictures]


def test_state_tells_what_is_loaded_and_running() -> None:
    session = ModelSession(load_catalog(), Hub())
    assert session.state.phase == "empty" and session.state.capabilities is None
    stages = [e.stage for e in session.load(PRO, "cpu", "fp32") if isinstance(e, Progress)]
    assert stages[-1] == "ready" and "read" in stages
    state = session.state
    assert (state.phase, state.precision, state.device) == ("ready", "fp32", "cpu")
    assert state.capabilities is not None and state.capabilities.size == (96, 96)
    own = psutil.Process().memory_info()
    assert state.memory and own.rss / 2 < state.memory < own.vms, "the memory is the program's, not the machine's"
    job = session.run(DRAW)
    next(job)
    assert session.state.phase == "busy"
    job.close()
    assert session.state.phase == "ready"
    drain(session.unload())
    assert session.state.phase == "empty"
    with pytest.raises(AppError, match="No model is loaded"):
        drain(session.run(DRAW))


def test_waiting_jobs_report_their_place_in_the_queue(session: ModelSession) -> None:
    first = session.run(DRAW)
    assert isinstance(next(first), Started)
    second, third = session.run(ASK), session.run(ASK)
    assert next(second) == Queued(1)
    assert next(third) == Queued(2)
    assert session.state.queue == 2
    second.close()  # gives up while waiting
    assert next(third) == Queued(1)
    first.close()
    assert isinstance(drain(third), Finished)
    assert session.state.queue == 0


def test_job_may_change_threads_between_steps(session: ModelSession) -> None:
    """A page advances a generator from whichever worker is free."""
    job, events = session.run(DRAW), []

    def step() -> None:
        events.append(next(job, None))

    while not events or events[-1] is not None:
        worker = threading.Thread(target=step)
        worker.start()
        worker.join()
    assert isinstance(events[-2], Finished)
    assert tokens(events[-2]) == tokens(drain(session.run(DRAW)))


def test_concurrent_jobs_run_one_at_a_time_with_unchanged_results(session: ModelSession) -> None:
    requests = [GenerateRequest("A small red house.", seed=seed) for seed in range(4)]
    alone = [tokens(drain(session.run(request))) for request in requests]
    together: dict[int, list[tuple[int, ...]]] = {}
    working = 0
    most = 0
    lock = threading.Lock()

    def work(i: int) -> None:
        nonlocal working, most
        inside = False
        for event in session.run(requests[i]):
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


def test_loading_frees_the_old_model(session: ModelSession) -> None:
    assert session.loaded is not None
    old = weakref.ref(session.loaded.model)
    drain(session.load(OLD, "cpu", "fp32"))
    gc.collect()
    assert old() is None
    assert isinstance(drain(session.run(ASK)), Finished)


def test_failed_load_leaves_nothing_loaded_and_the_next_one_works(session: ModelSession, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(PRO, tmp_path / "broken"))
    weights = folder / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(AppError, match="incomplete"):
        drain(session.load(str(folder), "cpu", "fp32"))
    assert session.state.phase == "empty"
    drain(session.load(PRO, "cpu", "fp32"))  # and the next one works
    assert isinstance(drain(session.run(ASK)), Finished)


def test_unknown_name_keeps_the_loaded_model(session: ModelSession) -> None:
    with pytest.raises(AppError, match="no model called"):
        drain(session.load("janus-9000"))
    assert session.state.phase == "ready"


def test_cancelled_load_leaves_an_empty_session_that_loads_again(session: ModelSession) -> None:
    load = session.load(OLD, "cpu", "fp32")
    seen: list[Event] = []
    for event in load:
        seen.append(event)
        if isinstance(event, Progress) and event.stage == "read" and event.done:
            break
    load.close()
    assert session.state.phase == "empty" and session.state.queue == 0
    drain(session.load(PRO, "cpu", "fp32"))
    assert session.state.phase == "ready"


def alive(kind: type) -> set[Any]:
    """Objects that occupy memory: the fit advisor keeps a network on the meta device, which does not."""
    gc.collect()
    return {thing for thing in gc.get_objects() if type(thing) is kind and thing.device.type != "meta"}


# In its own process: the heap that a thousand tests leave is fragmented, and slow to collect.
FIFTY = """
import gc, json, sys
from dataclasses import replace
import psutil
from janus_app.nn.llama import KVCache
from janus_app.models.janus.modeling import JanusNetwork
from tests.test_session import ASK, OLD, PRO, Hub, ModelSession, alive, drain, load_catalog

session, process, brief = ModelSession(load_catalog(), Hub()), psutil.Process(), replace(ASK, max_new_tokens=1)
for number, name in enumerate((OLD, PRO) * 27):
    drain(session.load(name, "cpu", "fp32"))
    drain(session.run(brief))
    if number == 3:
        settled = process.memory_info().rss
grown = process.memory_info().rss - settled
left = len(alive(JanusNetwork)), len(alive(KVCache))
drain(session.unload())
print(json.dumps([grown, *left, len(alive(JanusNetwork))]))
"""


def test_fifty_switches_leak_nothing() -> None:
    """Neither objects nor resident memory grow between the fourth and the fifty-fourth switch."""
    done = subprocess.run([sys.executable, "-c", FIFTY], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    grown, networks, caches, unloaded = json.loads(done.stdout)
    assert (networks, caches, unloaded) == (1, 0, 0)
    assert grown < 25e6  # a tenth of what fifty checkpoints take


def test_load_that_does_not_fit_is_refused_before_anything_is_unloaded_or_fetched(
    session: ModelSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from janus_app.runtime import fit
    from janus_app.runtime.devices import Memory

    def fetched(*_: object) -> Iterator[Progress]:
        raise AssertionError("a download was begun")

    monkeypatch.setattr(session.hub, "fetch", fetched)
    monkeypatch.setattr(fit, "device_memory", lambda device: Memory(int(2e9), int(4e9)))
    with pytest.raises(AppError, match=r"Janus-Pro-7B: even nf4 needs .* you have 2.0 GB free"):
        drain(session.load("janus-pro-7b", "cpu"))
    assert session.state.phase == "ready" and isinstance(drain(session.run(ASK)), Finished)


def test_plan_counts_a_split_model_as_freed_on_each_of_its_devices(
    session: ModelSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 7B model on two invented cards and in main memory: the next plan finds the room it had on each of them."""
    import torch

    from janus_app.runtime import fit
    from janus_app.runtime.devices import Memory, Placement

    main, second, host = torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cpu")
    room = {main: int(7e9), second: int(5e9), host: int(32e9)}
    monkeypatch.setattr(fit, "device_memory", lambda device: Memory(room[device], int(64e9)))
    monkeypatch.setattr(fit, "placements", lambda name: [Placement("cuda+cpu", main, (second,), host=True)])
    seven = session.catalog["janus-pro-7b"]
    plan = session.plan_load(seven).choose("bf16")
    assert set(plan.split.values()) == {second, host}
    rest, layers = fit._weights(fit._model(seven, None, None), "bf16", main)
    here = rest + sum(size for layer, size in enumerate(layers) if layer not in plan.split)
    there = {device: sum(layers[layer] for layer, d in plan.split.items() if d == device) for device in (second, host)}
    assert session.loaded is not None
    session._loaded = replace(session.loaded, plan=plan)
    noted: list[dict[str, int]] = []
    monkeypatch.setattr(fit, "plan_load", lambda *_, components, freed: noted.append(freed))
    session.plan_load(seven)
    assert noted == [{"cuda:0": here, "cuda:1": there[second], "cpu": there[host]}]
    assert here + sum(there.values()) == plan.need.weights


def test_idle_model_is_unloaded_and_loaded_again_by_the_next_job(session: ModelSession) -> None:
    expected = tokens(drain(session.run(DRAW)))
    assert not session.unload_if_idle(), "no limit was set"
    session.idle_minutes = 60
    assert not session.unload_if_idle(), "it was used a moment ago"
    session.idle_minutes = 1e-9
    job = session.run(ASK)
    next(job)
    assert not session.unload_if_idle(), "a job is running"
    job.close()
    assert session.unload_if_idle()
    assert session.state.phase == "empty" and session.state.idle_unloaded
    events = list(session.run(DRAW))
    assert isinstance(events[0], Notice) and "loaded again" in events[0].text
    assert tokens(events[-1]) == expected
    assert session.state.precision == "fp32" and not session.state.idle_unloaded
    assert session.unload_if_idle()
    drain(session.unload())
    with pytest.raises(AppError, match="No model is loaded"):  # the user unloaded it
        drain(session.run(ASK))


def test_job_that_joins_before_the_idle_unload_keeps_its_model(
    session: ModelSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.idle_minutes = 1e-9
    job, join = session.run(ASK), session._queue.join
    started: list[Event] = []

    def join_late() -> object:
        if not started:
            monkeypatch.setattr(session._queue, "join", join)
            started.append(next(job))
        return join()

    monkeypatch.setattr(session._queue, "join", join_late)
    assert not session.unload_if_idle()
    assert isinstance(started[0], Started) and session.loaded is not None
    assert isinstance(drain(job), Finished) and session.state.queue == 0


def test_job_that_joins_during_the_idle_unload_loads_the_model_again(
    session: ModelSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.idle_minutes = 1e-9
    answers: list[Event] = []
    leave = session._queue.leave

    def leave_to_a_job(ticket: object) -> None:
        leave(ticket)
        if not answers:
            answers.extend(session.run(ASK))

    monkeypatch.setattr(session._queue, "leave", leave_to_a_job)
    assert session.unload_if_idle()
    assert isinstance(answers[-1], Finished)
    assert session.state.phase == "ready" and not session.state.idle_unloaded


def test_silent_download_is_explained_in_the_state(session: ModelSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """The download reads from a pipe that nothing is written to."""
    source, sink = os.pipe()

    def fetch(_: object) -> Generator[Progress, None, Path]:
        yield Progress("download", 1, 100, "bytes")
        os.read(source, 1)
        raise AppError("The server sent nothing.")

    monkeypatch.setattr(session.hub, "fetch", fetch)
    session.watchdog.patience = 0.2
    ended: list[BaseException] = []

    def load() -> None:
        try:
            drain(session.load(OLD, "cpu", "fp32"))
        except BaseException as error:
            ended.append(error)

    worker = threading.Thread(target=load, daemon=True)
    worker.start()
    deadline = time.monotonic() + 60
    said = ""
    while "server" not in said and time.monotonic() < deadline:  # on a busy machine planning the load is slow too
        time.sleep(0.05)
        said = str(session.state.silence or "")
    os.close(sink)  # lets the waiting read return
    worker.join(timeout=60)
    os.close(source)
    assert said.startswith("No progress for") and "server does not respond" in said
    assert isinstance(ended[0], AppError) and session.state.silence is None
    assert session.state.phase == "ready" and isinstance(drain(session.run(ASK)), Finished)


def test_slow_receiver_does_not_count_as_silence(session: ModelSession) -> None:
    session.watchdog.patience = 0.05
    job = session.run(DRAW)
    next(job)
    time.sleep(0.2)
    assert session.state.silence is None
    job.close()


@pytest.mark.parametrize(
    ("stage", "busy", "scarce", "word"),
    [
        ("download", True, True, "server"),
        ("draw", True, True, "out of memory"),
        ("read", False, False, "disk"),
        ("draw", True, False, "still computing"),
        ("", False, False, "waiting for the device"),
    ],
)
def test_reason_of_a_silence_depends_on_stage_and_machine(stage: str, busy: bool, scarce: bool, word: str) -> None:
    assert word in str(explain(stage, 31.4, busy=busy, scarce=scarce))


def test_each_silence_is_reported_once() -> None:
    reports: list[Message] = []
    reported = threading.Event()
    watchdog = Watchdog(patience=0.1)

    def report(reason: Message) -> None:
        reports.append(reason)
        reported.set()

    def slow() -> Iterator[Event]:
        yield Progress("draw", 0, 2)
        assert reported.wait(60)
        time.sleep(0.3)  # several more looks of the reporting thread
        yield Progress("draw", 1, 2)

    with reporting_silence(watchdog, report):
        events = list(watchdog.watch(slow()))
    assert len(events) == 2 and len(reports) == 1 and "No progress" in str(reports[0])
