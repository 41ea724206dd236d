"""Access to the page: accepted host names, the login of a shared page, job limits, the folder that is served."""

from __future__ import annotations

import atexit
import functools
import ipaddress
import os
import re
import secrets
import shutil
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from janus_app.errors import AppError, Message, match_language

ALL_INTERFACES = ("0.0.0.0", "::", "")
_API_INFO = re.compile(rb"(window\.gradio_api_info = ).*?(?=;?</script>)", re.DOTALL)
MANIFEST_LINK = b'href="/manifest.json"'  # in Gradio's page
MARK = b"<script data-gradio-mode>"  # in Gradio's page, after the script that says what is on the page
_HOST_NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|[0-9a-f:]+")
_SUB_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")


class HostGuard:
    """ASGI middleware: answers 400 to a request whose Host header names another host (DNS rebinding).

    A web site can resolve its own name to 127.0.0.1 and so reach a page on this machine through the visitor's browser;
    the Host header then still carries the name of that site. Starlette's TrustedHostMiddleware compares fixed names
    only, while a page that listens on all interfaces is reached by any address of the machine. With `any_address`, an
    IP address is therefore accepted as it is: an attacker controls what a name resolves to, but not an address.
    """

    def __init__(self, app: Any, names: frozenset[str], any_address: bool) -> None:
        self.app, self.names, self.any_address = app, names, any_address

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket") or self.allows(host_of(scope)):
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        language = match_language(dict(scope["headers"]).get(b"accept-language", b"").decode("latin-1"))
        shown = host if _HOST_NAME.fullmatch(host := host_of(scope)) else "NAME"
        body = Message("page_host_refused", host=shown).text(language).encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def allows(self, host: str) -> bool:
        if host in self.names or any(name.startswith("*.") and host.endswith(name[1:]) for name in self.names):
            return True
        return self.any_address and _is_address(host)


class SubPath:
    """ASGI middleware: takes `path` off the front of a request, for a proxy that passes the sub-path on.

    Without it, only a proxy that takes the sub-path off itself works, and the page's own address does not.
    """

    def __init__(self, app: Any, path: str) -> None:
        self.app, self.path = app, path

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if self.path and (path == self.path or path.startswith(f"{self.path}/")):
            rest = path.removeprefix(self.path) or "/"
            raw = scope.get("raw_path") or path.encode()
            scope = {**scope, "path": rest, "raw_path": raw.removeprefix(self.path.encode()) or b"/"}
        await self.app(scope, receive, send)


class PageText:
    """ASGI middleware: adds the script `opening` and the web app manifest to the page, and takes the list of endpoints
    out of the login page.

    The script runs when the description of the page is there and before Gradio's own scripts, where Gradio lets none.
    Gradio embeds the list of endpoints in the page before the login too, and it names every model, those the user added
    included. Gradio's own manifest is at the top of the server, where the page may lie below it.
    """

    def __init__(self, app: Any, opening: str, manifest: str) -> None:
        self.app, self.opening = app, f"<script>{opening}</script>".encode()
        self.manifest = f'href="./{manifest}"'.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"].strip("/"):
            await self.app(scope, receive, send)
            return
        start: dict[str, Any] = {}
        body = b""

        async def send_changed(message: Any) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            if b'"auth_required":true' in body:
                body = _API_INFO.sub(rb"\1null", body)
            body = body.replace(MARK, self.opening + MARK, 1).replace(MANIFEST_LINK, self.manifest, 1)
            length = (b"content-length", str(len(body)).encode())
            others = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
            await send({**start, "headers": [*others, length]})
            await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, send_changed)


def host_of(scope: Any) -> str:
    """The Host header without its port, lower case; a bracketed IPv6 address without the brackets."""
    raw = dict(scope["headers"]).get(b"host", b"").decode("latin-1").strip().lower()
    if raw.startswith("["):
        return raw[1:].partition("]")[0]
    return raw.rpartition(":")[0] if ":" in raw else raw


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def allowed_names(given: Iterable[str] = ()) -> frozenset[str]:
    """The host names of --allow-host and JANUS_APP_HOSTS; "*.example.org" means the names below example.org alone.

    A URL or a port is taken for its host. Raises AppError for what names no host, such as "*".
    """
    texts = (*given, *os.environ.get("JANUS_APP_HOSTS", "").split(","))
    return frozenset(_host_name(text.strip()) for text in texts if text.strip())


def allowed_origins(given: Iterable[str] = ()) -> frozenset[str]:
    """The web sites of --allow-origin and JANUS_APP_ORIGINS, as browsers write them: "https://app.example.org".

    Raises AppError for what names none, such as "*", or "null", which all files on a disk share.
    """
    texts = (*given, *os.environ.get("JANUS_APP_ORIGINS", "").split(","))
    return frozenset(_origin(text.strip()) for text in texts if text.strip())


def _origin(text: str) -> str:
    try:
        parts = urlsplit(text.rstrip("/"))
        if not parts.scheme or "*" in text or parts.netloc.count("@") or parts.path or parts.query or parts.fragment:
            raise ValueError
        host, port = _host_name(parts.hostname or ""), parts.port
    except (ValueError, AppError):
        raise AppError("api_origin_malformed", given=text) from None
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, usual) else "")


def _host_name(text: str) -> str:
    try:
        name = text if _is_address(text) else urlsplit(text if "//" in text else f"//{text}").hostname or ""
        name = name.encode("idna").decode().lower()  # as browsers send it
    except ValueError:
        name = ""
    if not _HOST_NAME.fullmatch(name):
        raise AppError("page_host_malformed", given=text)
    return name


def sub_path(given: str | None) -> str:
    """The path of --root-path, else of GRADIO_ROOT_PATH, as "/janus", or the whole URL; "" for none.

    Raises AppError for another text.
    """
    text = os.environ.get("GRADIO_ROOT_PATH", "") if given is None else given
    if re.match("https?://.", text):
        return text.rstrip("/")
    path = f"/{text.strip('/')}".rstrip("/")
    if path and not _SUB_PATH.fullmatch(path):
        raise AppError("page_path_malformed", given=text)
    return path


def host_rules(host: str, share: bool, allowed: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The arguments of HostGuard for a page bound to `host`; `allowed` adds the names of a reverse proxy."""
    names = {name.strip("[]") for name in LOOPBACK} | allowed
    if host in ALL_INTERFACES:
        names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local", socket.getfqdn().lower()}
    else:
        names.add(host.strip("[]").lower())
    if share:
        names.add("*.gradio.live")
    return {"names": frozenset(names), "any_address": host in ALL_INTERFACES}


class VisitorLimiter:
    """Limits how many jobs of a shared page wait or run at a time, for each visitor and for all of them together.

    A visitor is one session: a browser tab or an API client. One person can open several, hence the limit on the sum.
    """

    def __init__(self, per_visitor: int = 3, total: int = 30) -> None:
        self.per_visitor, self.total = per_visitor, total
        self._jobs: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def slot(self, visitor: str) -> Iterator[None]:
        """Take one of the visitor's slots for the time of the block. Raises AppError if none is free."""
        with self._lock:
            if self._jobs[visitor] >= self.per_visitor:
                raise AppError("visitor_jobs_full", limit=self.per_visitor)
            if self._jobs.total() >= self.total:
                raise AppError("page_jobs_full")
            self._jobs[visitor] += 1
        try:
            yield
        finally:
            with self._lock:
                self._jobs[visitor] -= 1
                self._jobs += Counter()  # drops visitors without jobs


def answers_one_person(host: str, share: bool, has_login: bool, proxied: bool = False) -> bool:
    """Whether the page serves one person, so that it may list earlier conversations and pictures.

    True if only this machine can reach it, without a proxy, or if it has a login. The login of a shared page is passed
    on to others, so a shared page never lists anything.
    """
    return not share and (has_login or (host in LOOPBACK and not proxied))


def new_login() -> tuple[str, str]:
    """A user name and a random password for a shared page, short enough to be read out."""
    return "guest", secrets.token_urlsafe(9)


@functools.cache
def serving_folder() -> Path:
    """The temporary folder of this process's pages, readable by this user only and deleted at exit.

    URLs of files contain its path, so the path must not contain the user's name. Gradio stores uploads there too and
    reads GRADIO_TEMP_DIR at each upload, so all pages of a process share one folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="janus-page-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder
