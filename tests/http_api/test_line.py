"""Who waits for the model, who leaves, and what becomes of a job that nobody reads."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from starlette.requests import Request

from janus_app.outputs.store import OutputStore
from janus_app.server.api.app import api_app
from janus_app.server.api.context import ApiContext, EventStream
from janus_app.server.api.gate import Access
from janus_app.server.bridge import steps
from janus_app.types import Event, Finished, Preview, Progress, drain
from tests.coroutines import run
from tests.http_api.client import PROMPT, asgi, error_of, events, generate
from tests.page_client import draw
from tests.page_server import Served, wait_until


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_model_within_a_step(
    page: Served, http: httpx.Client, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Event] = []
    left = threading.Event()
    paced = page.session._paced

    def recorded(job: Any) -> Iterator[Event]:
        with closing(paced(job)) as job_events:
            for event in job_events:
                seen.append(event)
                yield event
                if any(isinstance(earlier, Preview) for earlier in seen):
                    assert left.wait(60)

    monkeypatch.setattr(page.session, "_paced", recorded)
    # So many that already the first preview is due: on a busy machine few others are drawn.
    body = {"prompt": PROMPT, "model": "tiny-a", "n": 16, "stream": stream, "partial_images": 100}
    saved = len(list(page.outputs.glob("*.png")))

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=page.url, timeout=60) as client:
            asked = asyncio.create_task(client.post("/v1/images/generations", json=body))
            await asyncio.to_thread(wait_until, lambda: any(isinstance(event, Preview) for event in seen))
            asked.cancel()
            await asyncio.wait([asked])

    if stream:
        with http.stream("POST", "/v1/images/generations", json=body) as response:
            first = next(parts := events(response))
            assert first["type"] == "image_generation.partial_image" and page.session.state.phase == "busy", first
            parts.close()
    else:
        run(leave())
    left.set()
    wait_until(lambda: page.session.state.phase == "ready" and page.session.state.queue == 0)
    assert not any(isinstance(event, Finished) for event in seen)
    assert len(list(page.outputs.glob("*.png"))) == saved


@pytest.mark.parametrize("leaves", [True, False])
def test_a_stream_says_that_it_works_during_a_long_step(monkeypatch: pytest.MonkeyPatch, leaves: bool) -> None:
    monkeypatch.setattr("janus_app.server.api.context.PING_SECONDS", 0.01)
    sent, ended = [], []

    async def ask() -> None:
        pinged = asyncio.Event()

        async def step() -> AsyncGenerator[str, None]:
            try:
                await (asyncio.Event() if leaves else pinged).wait()
                yield "data: 1\n\n"
            finally:
                await asyncio.sleep(0)
                ended.append(True)

        async def receive() -> Any:
            await (pinged if leaves else asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))
            if sent[-1].startswith(b": working"):
                pinged.set()

        scope = {"type": "http", "headers": []}
        async with asyncio.timeout(30):
            await EventStream(Request(scope), step())(scope, receive, send)

    run(ask())
    assert b": working\n\n" in sent and ended == [True]
    assert (b"data: 1\n\n" in sent) != leaves


def test_clients_of_every_kind_and_the_page_wait_in_one_line(
    page: Served, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    paced = page.session._paced

    def recorded(job: Any) -> Iterator[Event]:
        with closing(paced(job)) as job_events:
            for event in job_events:
                if isinstance(event, Finished) and event.provenance:
                    ended.append(event.provenance.request.seed)  # type: ignore[union-attr]
                yield event

    monkeypatch.setattr(page.session, "_paced", recorded)
    ask = {"prompt": PROMPT, "seed": 1}
    tab = Client(page.url, verbose=False)
    held = page.session._queue.join()  # the machine is busy
    with ThreadPoolExecutor(3) as pool:
        pool.submit(http.post, "/v1/images/generations", json=ask)
        wait_until(lambda: page.session.state.queue == 1)
        drawing = draw(tab, PROMPT, seed=2, count=1)
        wait_until(lambda: page.session.state.queue == 2)
        pool.submit(http.post, "/sdapi/v1/txt2img", json=ask | {"seed": 3})
        wait_until(lambda: page.session.state.queue == 3)
        page.session._queue.leave(held)
        drawing.result(timeout=60)
    assert ended == [1, 2, 3]


def test_a_request_while_a_model_loads_waits_for_it(page: Served, http: httpx.Client) -> None:
    with closing(page.session.load("tiny-b")) as loading, ThreadPoolExecutor(1) as pool:
        while page.session.state.phase != "loading":
            next(loading)
        answer = pool.submit(generate, http, model="tiny-a")
        wait_until(lambda: page.session.state.queue == 1)
        drain(loading)
        assert answer.result(timeout=60)["janus_app"]["model"] == "tiny-a"


def test_two_hundred_requests_at_once_are_answered_or_told_to_come_back(page: Served) -> None:
    body = {"model": "tiny-a", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}

    async def ask() -> list[httpx.Response]:
        unlimited = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=page.url, timeout=60, limits=unlimited, trust_env=False) as client:
            return await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for _ in range(200)))

    answers = run(ask())
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert sum(answer.status_code == 200 for answer in answers) >= 64  # as many as may wait
    for answer in answers:
        if answer.status_code == 429:
            assert error_of(answer, 429)["code"] == "api_line_full"
    wait_until(lambda: page.session.state.phase == "ready" and page.session.state.queue == 0)


def test_a_cancelled_task_closes_its_job_after_the_running_step() -> None:
    inside, go, closed = threading.Event(), threading.Event(), threading.Event()

    def job() -> Iterator[Event]:
        try:
            while True:
                inside.set()
                go.wait(30)
                yield Progress("draw", 1, 2)
        finally:
            closed.set()

    held: Any = job()  # so that it is not closed by losing its last reference

    async def leave() -> None:
        async def consume() -> None:
            async with aclosing(steps(held, ThreadPoolExecutor(1))) as job_events:
                async for _ in job_events:
                    pass

        task = asyncio.create_task(consume())
        await asyncio.to_thread(inside.wait, 30)
        task.cancel()
        go.set()
        await asyncio.wait([task])

    run(leave())
    assert closed.is_set()


@pytest.mark.usefixtures("slow")
def test_interrupt_ends_the_jobs_of_a1111_clients_alone(page: Served, http: httpx.Client) -> None:
    with ThreadPoolExecutor(2) as pool:
        with page.session.held():
            job = pool.submit(http.post, "/sdapi/v1/txt2img", json={"prompt": PROMPT, "batch_size": 16})
            wait_until(lambda: page.session.state.phase == "busy")
            other = pool.submit(http.post, "/v1/images/generations", json={"prompt": PROMPT})
            wait_until(lambda: page.session.state.queue == 1)
            http.post("/sdapi/v1/interrupt")
        assert job.result().status_code == 409 and job.result().json()["error"] == "api_interrupted"
        assert other.result().status_code == 200


def test_a_full_line_is_answered_with_when_to_come_back(page: Served, tmp_path: Path) -> None:
    context = ApiContext(page.session, OutputStore(tmp_path), line=threading.BoundedSemaphore(1))
    context.line.acquire()

    async def ask() -> tuple[httpx.Response, httpx.Response]:
        async with asgi(context, Access(trusting=True)) as client:
            body = {"prompt": PROMPT, "model": "tiny-a"}
            loading = await client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "tiny-b"})
            assert loading.status_code == 429
            full = await client.post("/v1/images/generations", json=body | {"stream": True})
            context.line.release()
            return full, await client.post("/v1/images/generations", json=body)

    full, after = run(ask())
    assert error_of(full, 429)["type"] == "rate_limit_error" and int(full.headers["retry-after"]) > 0
    assert after.status_code == 200


@pytest.mark.usefixtures("slow")
def test_a_client_that_stops_reading_loses_its_job(
    page: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("janus_app.server.api.context.STALL_SECONDS", 0.2)
    context = ApiContext(page.session, OutputStore(tmp_path))
    app = api_app(context)
    body = json.dumps({"prompt": PROMPT, "model": "tiny-a", "n": 16, "stream": True, "partial_images": 5}).encode()
    path = "/v1/images/generations"
    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"", "client": ("a", 1)}

    async def ask() -> None:
        sent = [{"type": "http.request", "body": body}]

        async def receive() -> Any:
            return sent.pop() if sent else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()  # the buffers are full

        await app(scope, receive, send)

    run(ask())
    assert page.session.state.phase == "ready" and page.session.state.queue == 0
    assert context.line.acquire(blocking=False)
