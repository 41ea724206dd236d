"""/mcp of the page. The package `mcp` is imported when the first host comes, so that the page opens before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from janus_app.server.api.context import ApiContext

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager


class Mount:
    """An ASGI application; its `run` must be entered."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        self._wanted, self._ended = asyncio.Event(), asyncio.Event()
        self._manager: asyncio.Future[StreamableHTTPSessionManager] = asyncio.get_running_loop().create_future()
        held = asyncio.ensure_future(self._hold())  # in one task, as the manager's own tasks need
        try:
            yield
        finally:
            self._ended.set()
            self._wanted.set()
            try:
                await held
            finally:
                self._manager.cancel()  # hosts that still wait for it

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._wanted.set()
        manager = await asyncio.shield(self._manager)  # a client that leaves ends only its own waiting
        await manager.asgi_app(scope, receive, send)

    async def _hold(self) -> None:
        await self._wanted.wait()
        if self._ended.is_set():
            return
        try:
            manager = await asyncio.to_thread(self._make)
            async with manager.run():
                self._manager.set_result(manager)
                await self._ended.wait()
        except Exception as error:  # every host is told
            if self._manager.done():
                raise
            self._manager.set_exception(error)

    def _make(self) -> StreamableHTTPSessionManager:
        from janus_app.server.mcp.entrances import http

        return http(self._context)
