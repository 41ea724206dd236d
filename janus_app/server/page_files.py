"""The scripts and styles of Gradio's page, from memory.

The page needs over a hundred of them before it can be used. Gradio reads each in several steps on other threads and
compresses it for each request, which together takes a good part of a second on a small machine. Here they are
compressed once, and not at all for a browser on this machine.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

from janus_app.server.security import LOOPBACK, host_of

KINDS = {"js": b"text/javascript; charset=utf-8", "css": b"text/css; charset=utf-8"}
_FILE = re.compile(r"/assets/([A-Za-z0-9_-][A-Za-z0-9._-]*-[A-Za-z0-9_-]{8}\.(js|css))")  # with a hash of its content
_LEAST = 400  # bytes; compressed, a smaller file is no smaller


class PageFiles:
    """ASGI middleware: answers requests for the scripts and styles in `folder`; all others pass.

    A name holds a hash of its content, so a browser may keep the file for good.
    """

    def __init__(self, app: Any, folder: Path) -> None:
        self.app, self.folder = app, folder
        self._kept: dict[tuple[str, bool], tuple[list[tuple[bytes, bytes]], bytes]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        asked = scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and _FILE.fullmatch(scope["path"])
        headers = dict(scope.get("headers", ()))
        packed = b"gzip" in headers.get(b"accept-encoding", b"") and not _on_this_machine(scope)
        answer = self._answer(asked[1], packed) if asked else None
        if answer is None:
            await self.app(scope, receive, send)
            return
        told, body = answer
        await send({"type": "http.response.start", "status": 200, "headers": told})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _answer(self, name: str, packed: bool) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        """The headers and the body, None where there is no such file."""
        if (name, packed) not in self._kept:
            try:
                body = (self.folder / name).read_bytes()
            except OSError:
                return None
            headers = [
                (b"content-type", KINDS[name.rpartition(".")[2]]),
                (b"cache-control", b"public, max-age=31536000, immutable"),
                (b"vary", b"Accept-Encoding"),
            ]
            if packed and len(body) >= _LEAST:
                body = gzip.compress(body, 6, mtime=0)
                headers.append((b"content-encoding", b"gzip"))
            headers.append((b"content-length", str(len(body)).encode()))
            self._kept[name, packed] = headers, body
        return self._kept[name, packed]


def _on_this_machine(scope: Any) -> bool:
    """Whether a browser asked for an address of this machine, and no proxy says that it asked for somebody else."""
    forwarded = {b"x-forwarded-for", b"forwarded"} & dict(scope["headers"]).keys()
    return host_of(scope) in LOOPBACK and not forwarded
