"""Who may talk to the page: names it answers to, passwords of a shared page, its temporary folder."""

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradio.context import LocalContext

from janus_app.errors import AppError

EVERYWHERE = ("0.0.0.0", "::", "")
_DOORS = re.compile(rb"(window\.gradio_api_info = ).*?(?=;?</script>)", re.DOTALL)
LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")


class HostGuard:
    """Answers 400 to requests for another host's name.

    A web site can point its own name at 127.0.0.1 and so reach a page on this machine through the visitor's browser;
    the Host header then still carries that site's name. Starlette's TrustedHostMiddleware knows only fixed names, and a
    page open to the network is reached by any of the machine's addresses. Bare addresses are let through there: a
    foreign site can lend its name to our address, but cannot become an address.
    """

    def __init__(self, app: Any, names: frozenset[str], any_address: bool) -> None:
        self.app, self.names, self.any_address = app, names, any_address

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket") or self.allows(_host(scope)):
            await self.app(scope, receive, send)
            return
        body = b"This page does not answer to that host name. Open it by the address printed when it started."
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def allows(self, host: str) -> bool:
        if host in self.names or any(name.startswith("*.") and host.endswith(name[1:]) for name in self.names):
            return True
        return self.any_address and _is_address(host)


class QuietLogin:
    """Takes the list of doors out of the login page.

    Gradio writes it there for everybody, and it names every model of the page, the person's own ones too. Inside the
    page the list stays: who is not asked for a password gets the answer as it is.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"].strip("/"):
            await self.app(scope, receive, send)
            return
        start: dict[str, Any] = {}
        body = b""

        async def hold(message: Any) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            if b'"auth_required":true' in body:
                body = _DOORS.sub(rb"\1null", body)
            length = (b"content-length", str(len(body)).encode())
            kept = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
            await send({**start, "headers": [*kept, length]})
            await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, hold)


def _host(scope: Any) -> str:
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


def host_rules(host: str, share: bool) -> dict[str, Any]:
    """The guard's settings for a page bound to `host`. JANUS_APP_HOSTS adds names, for a proxy in front."""
    names = {name.strip("[]") for name in LOOPBACK}
    if host in EVERYWHERE:
        names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local", socket.getfqdn().lower()}
    else:
        names.add(host.strip("[]").lower())
    if share:
        names.add("*.gradio.live")
    names |= {name.strip().lower() for name in os.environ.get("JANUS_APP_HOSTS", "").split(",") if name.strip()}
    return {"names": frozenset(names), "any_address": host in EVERYWHERE}


class VisitorLimiter:
    """How many jobs a visitor of a shared page may have waiting or running, and all of them together.

    A visitor is a browser tab or a client: what one person can open more of, which is why the sum is bounded too.
    """

    def __init__(self, each: int = 3, everybody: int = 30) -> None:
        self.each, self.everybody = each, everybody
        self._inside: Counter[str] = Counter()
        self._guard = threading.Lock()

    @contextmanager
    def through(self, visitor: str) -> Iterator[None]:
        """Hold a place while the block runs. Raises AppError where there is none."""
        with self._guard:
            if self._inside[visitor] >= self.each:
                raise AppError(
                    f"You have {self.each} jobs on this shared page already. Wait until one of them ends, or stop it."
                )
            if self._inside.total() >= self.everybody:
                raise AppError("Too many jobs wait on this shared page. Try again in a while.")
            self._inside[visitor] += 1
        try:
            yield
        finally:
            with self._guard:
                self._inside[visitor] -= 1
                self._inside += Counter()  # forgets who has left


def visitor() -> str:
    """Who asked for what runs now: the session of the browser tab or client, "" outside of any."""
    request = LocalContext.request.get(None)
    return str(getattr(request, "session_hash", None) or "")


def answers_one_person(host: str, share: bool, has_login: bool) -> bool:
    """True where the page may list what was made before: it answers this machine alone, or whoever has its password.

    A shared page's password goes round, so it never does.
    """
    return not share and (has_login or host in LOOPBACK)


def new_login() -> tuple[str, str]:
    """The user and password of a shared page, short enough to read out and long enough to be safe."""
    return "guest", secrets.token_urlsafe(9)


@functools.cache
def serving_folder() -> Path:
    """The temporary folder of this program's pages, private to this user and gone when the program ends.

    File addresses on the page show its path, so it carries nobody's name. Gradio keeps uploads there too, and looks
    for them where the environment says at that moment: one folder a program, or a second page would lose the first's.
    """
    folder = Path(tempfile.mkdtemp(prefix="janus-page-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder
