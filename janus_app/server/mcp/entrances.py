"""How a host reaches the tools: at /mcp of the page, or over stdin and stdout of a process that it starts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from janus_app.server.api.context import ApiContext
from janus_app.server.api.gate import MAX_BODY
from janus_app.server.mcp.tools import Tools
from janus_app.version import __version__

MAX_SESSIONS = 1_000  # of clients that speak a version of the protocol with sessions


def server(tools: Tools) -> Server:
    return Server(
        "janus_app", version=__version__, title="Janus Studio", on_list_tools=tools.list, on_call_tool=tools.call
    )


def http(context: ApiContext) -> StreamableHTTPSessionManager:
    """What serves /mcp; its `run` must be entered. `HostGuard` and `ApiGate` decide who reaches it."""
    return StreamableHTTPSessionManager(
        server(Tools(context)), max_request_body_size=MAX_BODY, max_sessions=MAX_SESSIONS
    )


async def stdio(context: ApiContext, load: Callable[[], None] | None) -> None:
    """Serve until stdin ends. `load` loads a model first, while the host already asks for the tools."""
    async with stdio_server() as (read, write):
        startup = asyncio.ensure_future(asyncio.to_thread(load)) if load else None
        served = server(Tools(context, startup))
        await served.run(read, write, served.create_initialization_options())
