"""Real models on real replicas: two machines of one cluster, which all tests here share."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import uvicorn

from janus_app.cluster.session import ClusterSession
from janus_app.hub import Hub
from janus_app.outputs.store import OutputStore
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession
from janus_app.server.api.app import api_app
from janus_app.server.api.context import ApiContext
from janus_app.types import (
    GenerateRequest,
    Notice,
    drain,
    finish,
)
from tests.cluster.conftest import MODEL, OTHER, until
from tests.cluster.drawings import ASK, PROMPT, ROW, check_drawings, eight_drawings, losses, pixels
from tests.page_server import free_port


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


@contextmanager
def api_of(session: ClusterSession, folder: Path) -> Iterator[str]:
    """The API in front of a session, at the address that this yields."""
    port = free_port()
    app = api_app(ApiContext(session, OutputStore(folder)))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def test_a_client_that_leaves_frees_the_replicas_before_they_have_drawn(
    cluster: ClusterSession, tmp_path: Path
) -> None:
    share = 8 * 6 * ROW  # tokens of half of sixteen pictures
    body = {"prompt": PROMPT, "n": 16, "stream": True, "partial_images": 100}
    with api_of(cluster, tmp_path) as url:
        with httpx.stream("POST", f"{url}/v1/images/generations", json=body, timeout=60) as answer:
            assert "event: image_generation.partial_image" in answer.iter_lines()
        drawn = [0]

        def idle() -> bool:
            reports = [cluster.ask(replica) for replica in cluster.replicas]  # None: too busy to answer in time
            drawn.extend(report.state.progress.done for report in reports if report and report.state.progress)
            return all(report and report.state.phase == "ready" and not report.state.queue for report in reports)

        until(idle)
        assert max(drawn) < share
        until(lambda: cluster.state.phase == "ready" and not cluster.state.queue)
    assert not list(tmp_path.rglob("*.png"))


def test_another_model_has_a_replica_of_its_own_beside_that_of_the_page(
    cluster: ClusterSession, alone: ModelSession
) -> None:
    other, request = cluster.catalog.resolve(OTHER), GenerateRequest(PROMPT, seed=3)
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(finish, cluster.run_on(other, lambda _: request))
        until(lambda: any(replica.wanted.name == OTHER for replica in cluster.replicas))
        assert pixels(cluster.result(request)) == pixels(alone.result(request))
        drawn = beside.result()
    other_alone = ModelSession(load_catalog(), Hub())
    drain(other_alone.load(OTHER))
    assert pixels(drawn) == pixels(other_alone.result(request)) != pixels(alone.result(request))
    processes = {replica.wanted.name: replica.report.process for replica in cluster.replicas}
    assert processes.keys() == {MODEL, OTHER} and len(set(processes.values())) == 2


def test_idle_replicas_are_taken_away_and_come_back_with_the_next_job(
    cluster: ClusterSession, alone: ModelSession
) -> None:
    before = [replica.report.process for replica in cluster.replicas]
    cluster.idle_minutes = 1e-6
    until(lambda: not cluster.replicas and not any(map(psutil.pid_exists, before)))
    assert cluster.state.phase == "empty" and cluster.state.idle_unloaded
    request = GenerateRequest(PROMPT, seed=4)
    first, *_, last = cluster.run(request)
    assert isinstance(first, Notice) and first.message.code == "model_loaded_again"
    assert pixels(last) == pixels(alone.result(request))
    cluster.idle_minutes = None
    until(lambda: cluster.state.replicas == (2, 2) and {r.wanted.name for r in cluster.replicas} == {MODEL})
