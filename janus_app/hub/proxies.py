"""The proxy variables and HF_ENDPOINT: what the environment says, and whether requests can be made with it.

httpx, which Gradio and huggingface_hub make requests with, reads the variables when a client is created, and raises on
a value that it cannot use even if no request would go through it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from janus_app.errors import AppError, Message

T = TypeVar("T")
NAMES = ("http_proxy", "https_proxy", "all_proxy")
NO_PROXY = "no_proxy"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ProxyVariable:
    """An environment variable as it is spelled there."""

    name: str
    value: str

    @property
    def shown(self) -> str:
        """The value without a login."""
        return without_login(self.value)

    def problem(self) -> Message | None:
        """Why no request can be made while the variable has this value; None if it can be used."""
        address = self.value if "://" in self.value else f"http://{self.value}"
        scheme = address.partition("://")[0].lower()
        values = {"variable": self.name, "value": self.shown}
        if scheme in ("socks5", "socks5h") and find_spec("socksio") is None:
            return Message("proxy_socks_needs_package", **values)
        if scheme not in ("http", "https", "socks5", "socks5h"):
            return Message("proxy_scheme_unknown", scheme=scheme, **values)
        return None if _split(address) else Message("proxy_malformed", **values)


def proxy_variables() -> list[ProxyVariable]:
    """Every variable that is set, NO_PROXY included, in either case; of two cases, the one that counts is the later."""
    names = sorted(name for name in os.environ if name.lower() in (*NAMES, NO_PROXY))
    return [ProxyVariable(name, os.environ[name].strip()) for name in names]


def effective() -> dict[str, ProxyVariable]:
    """The variable that counts, by its name in lower case; one that is empty counts as not set."""
    last = {variable.name.lower(): variable for variable in proxy_variables()}
    return {name: variable for name, variable in last.items() if variable.value}


def proxy_of(address: str) -> ProxyVariable | None:
    """The variable whose proxy a request to `address` goes through."""
    found = effective()
    parts = urlsplit(address)
    if any(_excludes(entry, parts) for entry in _no_proxy()):
        return None
    return found.get(f"{parts.scheme}_proxy") or found.get("all_proxy")


def _no_proxy() -> list[str]:
    variable = effective().get(NO_PROXY)
    entries = variable.value.lower().split(",") if variable else []
    return [entry.strip() for entry in entries if entry.strip()]


def _excludes(entry: str, address: SplitResult) -> bool:
    """Whether an entry of NO_PROXY means the address: `host`, `.host`, `*.host`, `host:port`, `10.0.0.0/8` or `*`."""
    host = address.hostname or ""
    try:
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        name, colon, port = entry.partition(":")
    if colon and port != str(address.port):
        return False
    name = name.removeprefix("*")
    return not name or host == name or host.endswith(name if name.startswith(".") else f".{name}")


def open_client(create: Callable[[], T]) -> T:
    """What `create` returns. Raises AppError that names the variable because of which no client can be created."""
    try:
        return create()
    except Exception as error:
        found = effective()
        problems = [found[name].problem() for name in NAMES if name in found]
        if problem := next(filter(None, problems), None):
            raise AppError(problem) from error
        raise


def check_endpoint(endpoint: str) -> None:
    """Raises AppError if `endpoint` is no address of a server, or of a server that does not exist."""
    from huggingface_hub import constants

    parts = _split(endpoint)
    if parts is None or parts.scheme not in ("http", "https"):
        raise AppError("hub_endpoint_malformed", endpoint=without_login(endpoint))
    if endpoint == constants._HF_DEFAULT_ENDPOINT or proxy_of(endpoint):  # a proxy looks names up itself
        return
    try:
        socket.getaddrinfo(parts.hostname, parts.port)
    except (OSError, UnicodeError):
        raise AppError("hub_endpoint_unknown", endpoint=without_login(endpoint), host=parts.hostname) from None


@contextmanager
def page_environment(host: str = "", share: bool = False) -> Iterator[None]:
    """While Gradio is imported and starts its server: no request to this machine goes through a proxy.

    All proxies are ignored, whatever they are set to. A shared page asks Gradio's server for a tunnel, which may need
    them; there, this machine and the bound `host` are excluded too, and what cannot be used is ignored.
    """
    kept = dict(os.environ)
    usable = [entry for entry in _no_proxy() if "[" not in entry and _split(f"all://{entry}")]
    excluded = [*LOOPBACK, host, *usable] if share else ["*"]
    if share:
        for variable in proxy_variables():
            if variable.name.lower() != NO_PROXY and variable.problem():
                del os.environ[variable.name]
    for name in (NO_PROXY, NO_PROXY.upper()):
        os.environ[name] = ",".join(excluded)
    try:
        yield
    finally:
        for variable in proxy_variables():
            del os.environ[variable.name]
        os.environ.update({name: value for name, value in kept.items() if name.lower() in (*NAMES, NO_PROXY)})


def without_login(address: str) -> str:
    """The address without a user and a password in it."""
    scheme, separator, rest = address.rpartition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"


def _split(address: str) -> SplitResult | None:
    """The parts of an address with a host and, if it has a port, a valid one; else None."""
    try:
        parts = urlsplit(address)
        valid = parts.hostname and not any(c.isspace() for c in address) and parts.port != 0
    except ValueError:
        return None
    return parts if valid else None
