"""Who may use the API: a key where others can reach it, only web sites that were named, and no endless bodies."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware

from janus_app.errors import AppError, match_language
from janus_app.server.api.errors import error_response
from janus_app.server.security import answers_one_person

PREFIXES = ("/v1", "/sdapi", "/mcp")
FILES = "/v1/images/files/"  # names that cannot be guessed; a browser sends no key for the pictures of a chat
FORWARDED = ("forwarded", "via", "x-real-ip")  # what proxies add to a request, beside X-Forwarded-*
EXPOSED = ("Retry-After", "X-Should-Retry", "Mcp-Session-Id", "Mcp-Protocol-Version")  # which a web site may read
MAX_BODY = 30_000_000  # bytes


@dataclass(frozen=True)
class Access:
    """`key` is what clients send, "" for none. Without a key, the API answers only where `trusting`.

    The web sites `origins` may use it in their visitors' browsers, with the key where there is one.
    """

    key: str = field(default="", repr=False)
    trusting: bool = False
    origins: frozenset[str] = frozenset()

    def check(self, headers: Headers) -> None:
        """Raises AppError for a request that must not be answered."""
        if self.key:
            if not self._has_key(headers):
                raise AppError("api_key_wrong")
            return
        # A proxy that the app was not told of may pass on what others send.
        if not self.trusting or any(name in FORWARDED or name.startswith("x-forwarded-") for name in headers):
            raise AppError("api_needs_key")
        origin = headers.get("origin")
        if origin is not None and origin not in self.origins and urlsplit(origin).netloc != headers.get("host"):
            raise AppError("api_origin_refused")  # any web site can send requests through its visitor's browser

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":  # what clients of the Stable Diffusion web UI send: any user, the key as password
            try:
                value = base64.b64decode(value.strip()).decode().partition(":")[2]
            except ValueError:  # not base64, not ASCII, not UTF-8
                return False
        elif scheme.lower() != "bearer":
            return False
        return secrets.compare_digest(value.strip().encode(), self.key.encode())


def api_access(
    given: str, host: str, share: bool, has_login: bool, proxied: bool, origins: frozenset[str] = frozenset()
) -> tuple[Access, str]:
    """Who may use the API of a page that is served like this, and the key that was made for a shared page, else "".

    Without a key it is on where only this machine can reach it. A login of the page would be worth nothing beside an
    open API, so there it needs a key too.
    """
    given = given.strip()  # clients cannot send the rest: HTTP takes it off a header
    made = secrets.token_urlsafe(18) if share and not given else ""
    trusting = not has_login and answers_one_person(host, share, False, proxied)
    return Access(given or made, trusting, origins), made


class ApiGate:
    """ASGI middleware: requests for the API go to `api` if `access` allows them, all others to the page.

    Browsers show the answers to the web sites of `access.origins` alone.
    """

    def __init__(self, app: Any, api: Any, access: Access) -> None:
        self.app, self.api, self.access = app, api, access
        self.shared = CORSMiddleware(
            self._answer,
            allow_origins=access.origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=EXPOSED,
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not any(path == p or path.startswith(f"{p}/") for p in PREFIXES):
            await self.app(scope, receive, send)
        elif Headers(scope=scope).get("origin") in self.access.origins:
            await self.shared(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        headers = Headers(scope=scope)
        try:
            if not scope["path"].startswith(FILES):
                self.access.check(headers)
            if int(headers.get("content-length") or 0) > MAX_BODY:
                raise AppError("api_body_too_large", megabytes=MAX_BODY // 10**6)
        except AppError as error:
            language = match_language(headers.get("accept-language", ""))
            await error_response(error, language)(scope, receive, send)
            return
        await self.api(scope, _bounded(receive), send)


def _bounded(receive: Any) -> Any:
    left = MAX_BODY

    async def bounded() -> Any:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise AppError("api_body_too_large", megabytes=MAX_BODY // 10**6)
        return message

    return bounded
