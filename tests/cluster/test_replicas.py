"""Real models on real replicas. The tests share one cluster and run in order: the last one takes a machine away."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

from gradio_client import Client
from PIL import Image

from janus_app.cluster.session import ClusterSession
from janus_app.runtime.session import ModelSession
from janus_app.types import ChatRequest, Event, Finished, GenerateRequest, Notice, Preview, Progress, Started, Turn
from janus_app.ui.app import launch
from janus_app.workflows.settings import drawing_settings
from tests.cluster.conftest import TwoMachines, until
from tests.page_server import free_port

PROMPT = "A small red house."
ROW = 6  # image tokens
ASK = ChatRequest((Turn("user", "Hello"),), max_new_tokens=24, seed=5)


def pixels(finished: Event | None) -> list[bytes]:
    assert isinstance(finished, Finished)
    return [picture.image.tobytes() for picture in finished.pictures]


def eight_drawings(session: ClusterSession, on_third_row: Callable[[], None] = lambda: None) -> list[list[Event]]:
    """The events of eight drawings for four visitors at once; the first that shows its third row calls the function."""
    events: list[list[Event]] = [[] for _ in range(8)]
    lock, called = threading.Lock(), []

    def visit(visitor: int) -> None:
        for number in (visitor, visitor + 4):
            for event in session.run(GenerateRequest(PROMPT, seed=number)):
                events[number].append(event)
                if isinstance(event, Progress) and event.stage == "draw" and event.done >= 3 * ROW:
                    with lock:
                        if not called:
                            called.append(True)
                            on_third_row()

    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(4)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    return events


def check_drawings(events: list[list[Event]], alone: ModelSession) -> None:
    """Every drawing ended with the same bytes as on one model, and showed each step once."""
    for number, job in enumerate(events):
        expected = alone.result(GenerateRequest(PROMPT, seed=number))
        assert pixels(job[-1]) == pixels(expected)
        assert sum(isinstance(event, Started) for event in job) == 1
        for kind in (Progress, Preview):
            done = [event.done for event in job if isinstance(event, kind)]
            assert done == sorted(set(done))


def losses(events: list[list[Event]]) -> list[int]:
    return [sum(isinstance(event, Notice) and event.message.code == "replica_lost" for event in job) for job in events]


def test_eight_drawings_of_four_visitors_are_those_of_one_model(cluster: ClusterSession, alone: ModelSession) -> None:
    events = eight_drawings(cluster)
    check_drawings(events, alone)
    assert losses(events) == [0] * 8
    assert {replica.report.process for replica in cluster.replicas} != {os.getpid()} and len(cluster.replicas) == 2


def test_several_pictures_are_drawn_by_both_replicas_and_the_answer_is_the_same(
    cluster: ClusterSession, alone: ModelSession
) -> None:
    request = GenerateRequest(PROMPT, count=3, seed=11)
    job, together = cluster.run(request), 0
    events = []
    for event in job:
        events.append(event)
        together = max(together, sum(replica.ticket is not None for replica in cluster.replicas))
    assert together == 2
    assert pixels(events[-1]) == pixels(alone.result(request))
    assert events[-1].provenance == alone.result(request).provenance
    assert cluster.result(ASK).token_ids == alone.result(ASK).token_ids


def test_the_page_and_the_api_draw_through_the_replicas(
    cluster: ClusterSession, alone: ModelSession, tmp_path: Path
) -> None:
    port = free_port()
    page = launch(
        cluster, cluster.catalog, port=port, outputs=tmp_path / "out", data=tmp_path / "data", prevent_thread_lock=True
    )
    try:
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        client.predict(prompt=PROMPT, count=2, seed=7, new_seed=False, guidance=5, temperature=1, api_name="/draw")
        body = json.dumps({"prompt": PROMPT, "n": 2, "seed": 7}).encode()
        headers = {"content-type": "application/json"}
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/images/generations", body, headers)
        answer = json.load(urllib.request.urlopen(asked))
    finally:
        page.close()
    expected = alone.result(GenerateRequest(PROMPT, **drawing_settings({"seed": 7, "count": 2}, alone.variant)))
    saved = [Image.open(file).tobytes() for file in sorted((tmp_path / "out").rglob("*.png"))]
    sent = [Image.open(io.BytesIO(base64.b64decode(row["b64_json"]))).tobytes() for row in answer["data"]]
    assert sent == pixels(expected) and sorted(saved) == sorted(2 * sent)


def test_a_job_that_is_closed_frees_its_replica_within_a_step(cluster: ClusterSession) -> None:
    whole = 16 * 6 * ROW  # tokens of sixteen pictures
    job = cluster.run(GenerateRequest(PROMPT, count=16))
    for event in job:
        if isinstance(event, Preview):
            break
    job.close()
    assert cluster.state.phase == "ready"
    seen = [0]

    def idle() -> bool:
        states = [cluster.ask(replica).state for replica in cluster.replicas]
        seen.extend(state.progress.done for state in states if state.progress)
        return all(state.phase == "ready" for state in states)

    until(idle)
    assert max(seen) < whole / 2  # neither drew its share to the end


def test_a_replica_that_is_killed_at_the_third_row_costs_no_drawing(
    cluster: ClusterSession, alone: ModelSession
) -> None:
    victim = cluster.replicas[0]

    def kill() -> None:
        os.kill(victim.report.process, signal.SIGKILL)

    before = victim.report.process
    events = eight_drawings(cluster, kill)
    check_drawings(events, alone)
    assert sum(losses(events)) == 1
    until(lambda: cluster.state.replicas == (2, 2))
    assert victim.report.process != before


def test_a_machine_whose_daemon_is_killed_at_the_third_row_costs_no_drawing(
    cluster: ClusterSession, alone: ModelSession, machines: TwoMachines
) -> None:
    events = eight_drawings(cluster, machines.member.daemon().kill)
    check_drawings(events, alone)
    assert max(losses(events)) == 1
    until(lambda: cluster.room == 1)
    assert pixels(cluster.result(GenerateRequest(PROMPT, seed=2))) == pixels(
        alone.result(GenerateRequest(PROMPT, seed=2))
    )
