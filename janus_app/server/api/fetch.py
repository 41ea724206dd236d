"""Pictures at web addresses, where the user allowed it: never inside the user's own network, bounded in every way."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from urllib.parse import urljoin, urlsplit

import anyio
import httpx

from janus_app.errors import AppError
from janus_app.outputs.image_io import MAX_BYTES

SECONDS = 20.0  # for a picture, redirects included
REDIRECTS = 3
# Addresses that stand for an IPv4 address, which may be a private one: 6to4, NAT64, Teredo.
_WRAPPED = tuple(map(ipaddress.ip_network, ("2002::/16", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32")))


def fetch(url: str) -> bytes:
    """The bytes at an http(s) address. Raises AppError for a private address, and where it cannot be read in time."""
    # In an event loop of its own, where a server that sends one byte at a time is cut off in the middle of a read.
    return asyncio.run(_fetch(url))


async def _fetch(url: str) -> bytes:
    try:
        # Variables of the environment could name a proxy that resolves names by itself.
        async with (
            asyncio.timeout(SECONDS),
            httpx.AsyncClient(trust_env=False, timeout=SECONDS / 2, follow_redirects=False) as client,
        ):
            for _ in range(REDIRECTS + 1):
                found = await _read(client, url)
                if isinstance(found, bytes):
                    return found
                url = urljoin(url, found)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError, ValueError):
        pass
    raise AppError("api_url_unreadable", url=url[:200])


async def _read(client: httpx.AsyncClient, url: str) -> bytes | str:
    """The content, or the address of a redirect. The connection goes to the very address that was checked."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise AppError("api_url_unreadable", url=url[:200])
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = await anyio.to_thread.run_sync(public_address, parts.hostname, port, abandon_on_cancel=True)
    target = httpx.URL(url).copy_with(host=address)
    host = parts.netloc.rpartition("@")[2]
    extensions = {"sni_hostname": parts.hostname}  # the certificate is still checked for the name
    async with client.stream("GET", target, headers={"host": host}, extensions=extensions) as answer:
        if answer.has_redirect_location:
            return answer.headers["location"]
        answer.raise_for_status()
        content = bytearray()
        async for chunk in answer.aiter_bytes():
            content += chunk
            if len(content) > MAX_BYTES:
                raise AppError("api_url_unreadable", url=url[:200])
        return bytes(content)


def public_address(host: str, port: int) -> str:
    """An address of `host`. Raises AppError if any of its addresses is not public."""
    addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        wrapped = address.version == 6 and (address.ipv4_mapped or any(address in network for network in _WRAPPED))
        if not address.is_global or address.is_multicast or wrapped:
            raise AppError("api_url_private", host=host[:200])
    return min(addresses, key=lambda text: (":" in text, text))
