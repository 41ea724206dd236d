"""What every route of the API is given, and how a route runs a job."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from starlette.requests import Request
from starlette.responses import Response

from janus_app import types
from janus_app.errors import AppError, Message
from janus_app.outputs.store import OutputStore
from janus_app.registry.types import Variant
from janus_app.runtime.face import Session
from janus_app.runtime.session import ModelFacts
from janus_app.server.api.errors import as_app_error, error_response, event_of, language_of
from janus_app.server.bridge import ClientGone, steps, until_gone
from janus_app.server.security import VisitorLimiter
from janus_app.types import Event, Finished, Notice

if TYPE_CHECKING:
    from janus_app.runtime.adapters import Adapter

MAX_JOBS = 64  # waiting or running
MAX_FILES = 1_000  # pictures that can be fetched by their URL
PING_SECONDS = 15.0  # a proxy closes a connection that is silent for a minute
STALL_SECONDS = 60.0  # a client that reads nothing for so long has lost its job

Make = Callable[[ModelFacts], types.Request]


@dataclass(frozen=True)
class ApiContext:
    """`limiter` is the page's own where strangers can reach it, else None. `base` is the URL under which a proxy serves
    the page, or the path of it.
    """

    session: Session
    store: OutputStore
    limiter: VisitorLimiter | None = None
    base: str = ""
    fetch_images: bool = False
    files: OrderedDict[str, tuple[Path, str]] = field(default_factory=OrderedDict)
    workers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(MAX_JOBS + 8, "api"))
    line: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(MAX_JOBS))

    def variant(self, name: str | None) -> Variant | None:
        """The variant that a client calls `name`, None for the loaded one. Never a folder. Raises AppError."""
        loaded = self.session.variant
        if not name:
            return None
        if loaded is not None and name.strip().lower() == loaded.id:
            return loaded
        catalog = self.session.catalog
        if name.strip().lower() not in catalog:
            raise AppError("api_model_unknown", given=repr(name[:200]), known=", ".join(self.models()))
        return catalog.resolve(name)

    def adapters(self, names: Sequence[str] | None) -> tuple[Adapter, ...] | None:
        """The adapters that a client names, "name=strength" each, None for those of the loaded model. Never a folder.

        Raises AppError.
        """
        from janus_app.runtime.adapters import find_adapter

        return None if names is None else tuple(find_adapter(name, paths=False) for name in names)

    def adapter_names(self) -> list[str]:
        """What `adapters` finds."""
        from janus_app.runtime.adapters import known_adapters

        return list(known_adapters())

    def expected(self, variant: Variant | None) -> Variant:
        """The variant that will probably answer, for a first check of a request before it waits."""
        return variant or self.session.variant or self.session.catalog.default()

    def require_files(self, variant: Variant) -> None:
        """Raises AppError where the variant would have to be downloaded."""
        if not self.session.hub.status(variant).complete:
            raise AppError("model_not_downloaded", title=variant.title, name=variant.id)

    def models(self) -> dict[str, Variant]:
        """The variants whose files are on this machine, the loaded one first."""
        session = self.session
        found = {session.variant.id: session.variant} if session.variant else {}
        for name, variant in session.catalog.items():
            if name not in found and session.hub.status(variant).complete:
                found[name] = variant
        return found

    @contextmanager
    def place(self, request: Request | None) -> Iterator[None]:
        """A place in the line for the time of the block; a `request` of None came over no network.

        Raises AppError if none is free.
        """
        if not self.line.acquire(blocking=False):
            raise AppError("api_line_full", count=MAX_JOBS)
        try:
            visitor = f"api {request.client.host if request and request.client else ''}"
            with self.limiter.slot(visitor) if self.limiter else nullcontext():
                yield
        finally:
            self.line.release()

    async def events(
        self,
        request: Request | None,
        variant: Variant | None,
        make: Make,
        adapters: tuple[Adapter, ...] | None = None,
    ) -> AsyncGenerator[Event, None]:
        """The events of the job that `make` asks for; a place in the line for as long as it lasts. Raises AppError."""
        with self.place(request):
            job = self.session.run_on(variant, make, adapters)
            async with aclosing(steps(job, self.workers)) as events:
                async for event in events:
                    yield event

    async def finished(
        self,
        request: Request,
        variant: Variant | None,
        make: Make,
        adapters: tuple[Adapter, ...] | None = None,
        notices: list[Message] | None = None,
    ) -> Finished:
        """The end of a job; its notices join `notices`. Raises AppError, and ClientGone if the client leaves."""

        async def work() -> Finished:
            last: Event | None = None
            async with aclosing(self.events(request, variant, make, adapters)) as events:
                async for event in events:
                    last = event
                    if notices is not None and isinstance(event, Notice):
                        notices.append(event.message)
            assert isinstance(last, Finished)
            return last

        return await until_gone(request.receive, work())

    async def threaded(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a blocking function without stopping the event loop."""
        return await anyio.to_thread.run_sync(function, *args)

    def publish(self, request: Request, file: Path, media: str) -> str:
        """A URL of a picture, for as long as the app runs and no more than MAX_FILES newer ones were asked for."""
        name = f"{secrets.token_urlsafe(24)}{file.suffix}"
        self.files[name] = (file, media)
        while len(self.files) > MAX_FILES:
            self.files.popitem(last=False)
        if self.base.startswith("http"):
            return f"{self.base}/v1/images/files/{name}"
        return f"{request.url.scheme}://{request.headers['host']}{self.base}/v1/images/files/{name}"


class EventStream(Response):
    """Server-sent events. `parts` yields the text of one or more events, "" to say only that it still works.

    A failure before the first step of the model is an HTTP error, a later one an event. The generator is closed when
    the client leaves or stops reading.
    """

    def __init__(self, request: Request, parts: AsyncGenerator[str, None]) -> None:
        self.request, self.parts, self.background = request, parts, None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with contextlib.suppress(ClientGone, OSError):
            await until_gone(receive, self._send(scope, receive, send))

    async def _send(self, scope: Any, receive: Any, send: Any) -> None:
        language, started, last = language_of(self.request), False, time.monotonic()

        async def write(text: str, more: bool = True) -> None:
            nonlocal started
            with anyio.move_on_after(STALL_SECONDS) as limit:
                if not started:
                    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"),
                               (b"x-accel-buffering", b"no")]  # fmt: skip
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    started = True
                await send({"type": "http.response.body", "body": text.encode(), "more_body": more})
            if limit.cancelled_caught:
                raise ClientGone

        async with aclosing(self.parts) as parts, aclosing(_with_silence(parts)) as heard:
            try:
                async for text in heard:
                    if text or time.monotonic() - last > PING_SECONDS:
                        await write(text or ": working\n\n")
                        last = time.monotonic()
            except ClientGone:
                raise
            except Exception as error:
                failure = as_app_error(error)
                if not started:
                    await error_response(failure, language)(scope, receive, send)
                    return
                await write(event_of(failure, language))
            await write("", more=False)


async def _with_silence(parts: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """The parts, and "" whenever none came for PING_SECONDS. Nobody else may read `parts` before this is closed."""
    coming: asyncio.Task[str | None] | None = None

    async def part() -> str | None:
        return await anext(parts, None)

    try:
        while True:
            coming = asyncio.create_task(part())
            while not (await asyncio.wait([coming], timeout=PING_SECONDS))[0]:
                yield ""
            if (text := coming.result()) is None:
                return
            yield text
    finally:
        if coming is not None and not coming.done():
            coming.cancel()  # `parts` cannot be closed while it runs
            await asyncio.wait([coming])
            if not coming.cancelled():
                coming.exception()  # seen, though nobody is told


def sse(data: dict[str, Any] | str, name: str = "") -> str:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return (f"event: {name}\n" if name else "") + f"data: {text}\n\n"
