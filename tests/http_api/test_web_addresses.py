"""Pictures at web addresses."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from janus_app.errors import AppError
from janus_app.outputs.store import OutputStore
from janus_app.server.api import fetch as fetch_module
from janus_app.server.api.context import ApiContext
from janus_app.server.api.fetch import fetch
from janus_app.server.api.gate import Access
from tests.coroutines import run
from tests.http_api.client import PROMPT, asgi, error_of
from tests.page_server import Served


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "2130706433", "10.0.0.1", "169.254.169.254", "[::ffff:10.0.0.1]", "0.0.0.0",
     "[64:ff9b::a00:1]", "192.168.1.1", "[fe80::1]"],
)  # fmt: skip
def test_private_addresses_are_never_fetched(host: str) -> None:
    with pytest.raises(AppError) as refused:
        fetch(f"http://{host}:9/")
    assert refused.value.code == "api_url_private"


def test_a_public_address_is_fetched_and_a_redirect_into_the_network_is_not(
    monkeypatch: pytest.MonkeyPatch, drawn: bytes
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            inside = self.path == "/redirect"
            if self.path.startswith("/slow"):
                self.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if self.path == "/slow_body" else b"x-long: "))
                with suppress(OSError):  # until the client has gone
                    while True:
                        self.wfile.write(b"x")
                        time.sleep(0.02)
                return
            self.send_response(302 if inside else 304 if self.path == "/304" else 200)
            if inside:
                self.send_header("location", f"http://127.0.0.1:{server.server_port}/picture")
            self.end_headers()
            self.wfile.write(b"" if inside else drawn if self.path == "/picture" else b"x" * 50_000_000)

        def log_message(self, *_: Any) -> None: ...

    real = fetch_module.public_address
    monkeypatch.setattr(
        fetch_module, "public_address", lambda host, port: "127.0.0.1" if host == "example.org" else real(host, port)
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://example.org:{server.server_port}"
        assert fetch(f"{base}/picture") == drawn
        for path in ("redirect", "endless", "304", "slow_body", "slow_header"):
            if path.startswith("slow"):
                monkeypatch.setattr(fetch_module, "SECONDS", 0.5)
            code = "api_url_private" if path == "redirect" else "api_url_unreadable"
            with pytest.raises(AppError) as refused:
                fetch(f"{base}/{path}")
            assert refused.value.code == code
        server.shutdown()


def test_several_pictures_at_web_addresses_are_fetched_at_the_same_time(
    page: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: bytes
) -> None:
    both = threading.Barrier(2, timeout=30)

    def fetched(url: str) -> bytes:
        both.wait()
        return drawn

    monkeypatch.setattr("janus_app.server.api.inputs.fetch", fetched)
    urls = ["http://example.org/1", "http://example.org/2"]

    async def ask(route: str, body: dict[str, Any]) -> httpx.Response:
        context = ApiContext(page.session, OutputStore(tmp_path), fetch_images=True)
        async with asgi(context, Access(trusting=True)) as client:
            return await client.post(route, json=body | {"model": "tiny-a"})

    edited = run(ask("/v1/images/edits", {"prompt": PROMPT, "images": urls}))
    assert error_of(edited, 400)["code"] == "edit_takes_one_image"
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    told = run(ask("/v1/chat/completions", {"messages": [{"role": "user", "content": parts}], "max_tokens": 1}))
    assert told.status_code == 200, told.text
