"""A Hub on the loopback for the real huggingface_hub client, with faults on demand.

    with FakeHub({"model.bin": data}) as server:
        server.fault("model.bin", Fault(die_after=1000))     # for the next download of it
        Hub(endpoint=server.endpoint, ...)

Large files (over 100 kB) are served like LFS files: by a redirect to another host name, as the real Hub does, with the
sha256 as their ETag. Small files are served directly, with git's hash. `sent` counts the bytes of file contents sent,
`resent` those of them that were sent before, `most_at_once` the most contents that were being sent at the same time.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPO = "test-owner/tiny-janus"
SECOND = "test-owner/tiny-vae"  # the files of the second repository are those whose path starts with "second/"
REVISION = "0123456789abcdef0123456789abcdef01234567"
LARGE = 100_000
STEP = 16_384


@dataclass
class Counts:
    """Totals over all servers of this process; tests/conftest.py prints them at the end."""

    faults: int = 0
    sent: int = 0
    resent: int = 0
    kills: int = 0
    checked: int = 0  # files compared with the server's, after a download said it was complete
    lost: int = 0  # of those, the files that differed

    def line(self) -> str:
        return (
            f"faults tried: {self.faults}; processes killed: {self.kills}; bytes served: {self.sent:,}, of them "
            f"sent before: {self.resent:,}; files compared: {self.checked}; files lost: {self.lost}"
        )


COUNTS = Counts()


@dataclass
class Fault:
    """Something that goes wrong `times` times. A `status` answers requests of any method, or of `method` only."""

    times: int = 1
    status: int = 0
    method: str = ""
    code: str = ""  # X-Error-Code
    retry_after: str = ""
    storage: bool = False  # only at the storage behind the redirect
    die_after: int | None = None  # bytes of content are sent, then the connection is cut
    extra: int = 0  # bytes sent beyond the announced length
    corrupt_at: int | None = None  # this byte of the content is flipped
    no_range: bool = False  # a Range request is answered with 200 and the whole file
    pause: float = 0.0  # seconds between two steps of content
    step: int = STEP  # bytes
    stall_after: int | None = None  # after so many bytes nothing is sent, but the connection stays open


class FakeHub:
    """Serves two repositories, REPO and `second`, at one revision until closed."""

    def __init__(self, files: dict[str, bytes], second: str = SECOND) -> None:
        self.files = dict(files)
        self.second = second
        self.sent = 0
        self.resent = 0
        self.most_at_once = 0
        self._active = 0
        self._sent_before = {path: bytearray(len(data)) for path, data in files.items()}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.announced: dict[str, int] = {}  # a wrong length to claim in the metadata
        self.etags: dict[str, str] = {}  # a wrong ETag to claim
        self._faults: dict[str, list[Fault]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients hang up on purpose
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> FakeHub:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        COUNTS.sent += self.sent
        COUNTS.resent += self.resent
        self._server.shutdown()
        self._server.server_close()

    def fault(self, path: str, fault: Fault) -> None:
        """Queue a fault for a file; "*" is any file."""
        self._faults.setdefault(path, []).append(fault)

    def clear_faults(self) -> None:
        self._faults.clear()

    def take(self, path: str, method: str, storage: bool = False) -> Fault:
        """The fault of this request. Faults of the content wait for a GET."""
        with self._lock:
            for name in (path, "*"):
                for fault in self._faults.get(name, []):
                    wanted = fault.method or (method if fault.status else "GET")
                    if fault.times > 0 and method == wanted and (storage or not fault.storage):
                        fault.times -= 1
                        COUNTS.faults += 1
                        return fault
        return Fault()

    def count(self, path: str, start: int, size: int) -> None:
        """Count bytes [start, start + size) of a file as sent."""
        with self._lock:
            self.sent += size
            if path not in self._sent_before:
                self._sent_before[path] = bytearray(len(self.files[path]))
            seen = self._sent_before[path]
            self.resent += seen[start : start + size].count(1)
            seen[start : start + size] = b"\1" * len(seen[start : start + size])

    def count_active(self, change: int) -> None:
        with self._lock:
            self._active += change
            self.most_at_once = max(self.most_at_once, self._active)

    def etag(self, path: str) -> str:
        data = self.files[path]
        if path in self.etags:
            return self.etags[path]
        if len(data) > LARGE:
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.hub
        hub.requests.append((self.command, self.path, dict(self.headers)))
        if match := re.fullmatch(r"/cdn/(.+)", self.path):
            self._content(match.group(1), storage=True)
            return
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([0-9a-f]+)/(.+)", self.path)
        if match is None:
            self._refuse(404, "")
            return
        repo, revision, path = match.groups()
        path = f"second/{path}" if repo == hub.second else path
        fault = hub.take(path, self.command) if self.command == "HEAD" else Fault()
        if fault.status:
            self._refuse(fault.status, fault.code, fault.retry_after)
        elif repo not in (REPO, hub.second):
            self._refuse(404, "RepoNotFound")
        elif revision != REVISION:
            self._refuse(404, "RevisionNotFound")
        elif path not in hub.files:
            self._refuse(404, "EntryNotFound")
        elif len(hub.files[path]) > LARGE:
            self.send_response(302)
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("X-Linked-ETag", f'"{hub.etag(path)}"')
            self.send_header("X-Linked-Size", str(hub.announced.get(path, len(hub.files[path]))))
            self.send_header("Location", f"http://localhost:{hub.port}/cdn/{path}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._content(path)

    def _refuse(self, status: int, code: str, retry_after: str = "") -> None:
        self.send_response(status)
        if retry_after:
            self.send_header("Retry-After", retry_after)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _content(self, path: str, storage: bool = False) -> None:
        hub = self.hub
        data = hub.files[path]
        fault = hub.take(path, "GET", storage) if self.command == "GET" else Fault()
        if fault.status:
            self._refuse(fault.status, fault.code, fault.retry_after)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = (int(asked[1]), int(asked[2] or len(data) - 1) + 1) if asked else (0, len(data))
        if fault.no_range:
            asked, start, end = None, 0, len(data)
        if asked and start >= len(data):
            self._refuse(416, "")
            return
        body = bytearray(data[start:end]) + b"x" * fault.extra
        if fault.corrupt_at is not None and 0 <= fault.corrupt_at - start < len(body):
            body[fault.corrupt_at - start] ^= 0xFF
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hub.etag(path)}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if self.command == "GET":
            hub.count_active(1)
            self._send(path, start, bytes(body), fault)
            hub.count_active(-1)

    def _send(self, path: str, start: int, body: bytes, fault: Fault) -> None:
        limit = min(x for x in (fault.die_after, fault.stall_after, len(body)) if x is not None)
        try:
            for at in range(0, limit, fault.step):
                piece = body[at : min(at + fault.step, limit)]
                self.wfile.write(piece)
                self.hub.count(path, start + at, len(piece))
                if fault.pause:
                    time.sleep(fault.pause)
            if fault.stall_after is not None:
                self.hub._closing.wait(30)
        except OSError:  # the client went away
            self.close_connection = True
        if limit < len(body):
            self.close_connection = True
