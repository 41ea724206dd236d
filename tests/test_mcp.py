"""The MCP tools without a host: what they answer, and what is said where the package is missing. tests/clients has the
real clients."""

from __future__ import annotations

import asyncio
import base64
import io
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx
import pytest
from mcp_types import ImageContent, TextContent
from PIL import Image

from janus_app.cli import main
from janus_app.hub import Hub
from janus_app.outputs.metadata import read_metadata
from janus_app.outputs.store import OutputStore
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession, provenance_of
from janus_app.server.api.app import api_app
from janus_app.server.api.context import ApiContext
from janus_app.server.bridge import ClientGone
from janus_app.server.mcp import answers, progress
from janus_app.server.mcp.mount import Mount
from janus_app.types import Event, Finished, GenerateRequest, Picture, Progress, TextDelta
from tests.coroutines import run


@pytest.fixture
def context(tmp_path: Path) -> ApiContext:
    return ApiContext(ModelSession(load_catalog(), Hub()), OutputStore(tmp_path))


@pytest.mark.parametrize("most", [answers.INLINE, 30_000])
def test_a_large_answer_has_smaller_pictures_and_links_to_the_saved_ones(
    context: ApiContext, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(answers, "INLINE", most)
    noise = Image.effect_noise((256, 256), 80).convert("RGB")
    provenance = provenance_of(load_catalog().default(), "fp32", "cpu", GenerateRequest("noise"))
    found = answers.pictures(
        context, None, Finished(pictures=(Picture(noise, 7), Picture(noise, 8)), provenance=provenance), "en"
    )
    pictures = [part for part in found if isinstance(part, ImageContent)]
    lines = [part.text for part in found if isinstance(part, TextContent)]
    assert len(pictures) == len(lines) == 2 and "seed 8" in lines[1]
    assert sum(len(part.data) for part in pictures) <= most
    content = base64.b64decode(pictures[1].data)
    if most > 30_000:
        assert pictures[1].mime_type == "image/png" and read_metadata(content).seed == 8
        return
    assert pictures[1].mime_type == Image.open(io.BytesIO(content)).get_format_mimetype() == "image/jpeg"
    saved = Path(url2pathname(urlsplit(lines[1].split()[-1]).path))
    assert Image.open(saved).tobytes() == noise.tobytes()


def test_without_the_package_the_app_says_what_to_install(
    context: ApiContext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mcp_types", None)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(api_app(context))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/mcp", json={})

    answer = run(ask())
    assert answer.status_code == 501 and "requirements-mcp.txt" in answer.json()["error"]["message"]
    assert main(["mcp"]) == 1
    out, err = capsys.readouterr()
    assert not out and "requirements-mcp.txt" in err


def test_a_host_that_does_not_read_loses_its_call(context: ApiContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "STALL_SECONDS", 0.01)

    class Deaf:
        async def report_progress(self, *_: Any) -> None:
            await asyncio.Event().wait()

    host: Any = SimpleNamespace(session=Deaf())
    with pytest.raises(ClientGone):
        run(progress.Meter(host, context.session, "en").see(Progress("draw", 1, 2)))


def test_progress_of_a_drawing_goes_on_behind_its_plan_and_behind_its_judgement(context: ApiContext) -> None:
    heard: list[tuple[float, int | None]] = []

    class Host:
        async def report_progress(self, done: float, total: int | None, _: str | None) -> None:
            heard.append((done, total))

    async def listen(*events: Event) -> None:
        host: Any = SimpleNamespace(session=Host())
        meter = progress.Meter(host, context.session, "en")
        for event in events:
            await meter.see(event)

    text, rows = [TextDelta("word")] * 2, [Progress("draw", row, 2, "steps") for row in (1, 2)]
    run(listen(*text, *rows, *text, *rows))
    assert heard == [(1, None), (2, None), (3, 4), (4, 4), (5, None), (6, None), (7, 8), (8, 8)]


def test_a_host_is_told_where_its_manager_fails_and_does_not_outlive_the_page(
    context: ApiContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        raise OSError("no manager")
        yield

    async def come(leave_at_once: bool) -> BaseException | None:
        mount = Mount(context)
        async with mount.run():
            host = asyncio.ensure_future(mount(None, None, None))
            await asyncio.sleep(0)  # it waits by now
            if not leave_at_once:
                await asyncio.wait([host], timeout=60)
        await asyncio.wait([host], timeout=10)
        assert host.done(), "it waits for ever"
        return asyncio.CancelledError() if host.cancelled() else host.exception()

    monkeypatch.setattr(Mount, "_make", lambda _: SimpleNamespace(run=failing))
    assert isinstance(run(come(leave_at_once=False)), OSError)
    assert isinstance(run(come(leave_at_once=True)), asyncio.CancelledError)
