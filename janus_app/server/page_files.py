"""The scripts and styles of Gradio's page, and what a browser needs to install the page as an app, from memory.

The page needs over a hundred of them before it can be used. Gradio reads each in several steps on other threads and
compresses it for each request, which together takes a good part of a second on a small machine. Here they are
compressed once, and not at all for a browser on this machine.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from janus_app.server.security import LOOPBACK, host_of

KINDS = {
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".webmanifest": b"application/manifest+json",
}
_FOR_GOOD = b"public, max-age=31536000, immutable"
_FILE = re.compile(r"/assets/([A-Za-z0-9_-][A-Za-z0-9._-]*-[A-Za-z0-9_-]{8}\.(js|css))")  # with a hash of its content
_LEAST = 400  # bytes; compressed, a smaller file is no smaller


class PageFiles:
    """ASGI middleware: answers requests for the scripts and styles in `folder`, and for `own` files; all others pass.

    A name in `folder` holds a hash of its content, so a browser may keep the file for good. `own` files are asked for
    by their names, without a login: a browser sends none for a manifest.
    """

    def __init__(self, app: Any, folder: Path, own: Iterable[Path] = ()) -> None:
        self.app, self.folder = app, folder
        self.own = {f"/{file.name}": file for file in own}
        self._kept: dict[tuple[Path, bool], tuple[list[tuple[bytes, bytes]], bytes]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        file = self._asked(scope["path"]) if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") else None
        headers = dict(scope.get("headers", ()))
        packed = b"gzip" in headers.get(b"accept-encoding", b"") and not _on_this_machine(scope)
        answer = self._answer(file, packed) if file else None
        if answer is None:
            await self.app(scope, receive, send)
            return
        told, body = answer
        await send({"type": "http.response.start", "status": 200, "headers": told})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _asked(self, path: str) -> Path | None:
        found = _FILE.fullmatch(path)
        return self.folder / found[1] if found else self.own.get(path)

    def _answer(self, file: Path, packed: bool) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        """The headers and the body, None where there is no such file."""
        if (file, packed) not in self._kept:
            try:
                body = file.read_bytes()
            except OSError:
                return None
            headers = [
                (b"content-type", KINDS[file.suffix]),
                (b"cache-control", b"no-cache" if file in self.own.values() else _FOR_GOOD),
                (b"vary", b"Accept-Encoding"),
            ]
            if packed and len(body) >= _LEAST:
                body = gzip.compress(body, 6, mtime=0)
                headers.append((b"content-encoding", b"gzip"))
            headers.append((b"content-length", str(len(body)).encode()))
            self._kept[file, packed] = headers, body
        return self._kept[file, packed]


def _on_this_machine(scope: Any) -> bool:
    """Whether a browser asked for an address of this machine, and no proxy says that it asked for somebody else."""
    forwarded = {b"x-forwarded-for", b"forwarded"} & dict(scope["headers"]).keys()
    return host_of(scope) in LOOPBACK and not forwarded
