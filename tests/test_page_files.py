"""The scripts and styles of Gradio's page, as the page's server answers for them."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from janus_app.server.page_files import PageFiles
from janus_app.server.security import MANIFEST_LINK, MARK
from janus_app.ui.assets import FAVICON, MANIFEST, gradio_files

NAME = "index-DphvyggB.js"
SCRIPT = b"export const page = 1;\n" * 40


async def gradio(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b"Gradio's answer"})


@pytest.fixture
def files(tmp_path: Path) -> PageFiles:
    folder = tmp_path / "assets"
    folder.mkdir()
    (folder / NAME).write_bytes(SCRIPT)
    (tmp_path / "secret-DphvyggB.js").write_bytes(b"not a file of the page")
    return PageFiles(gradio, folder)


def asked(
    files: PageFiles,
    path: str,
    encoding: bytes = b"",
    method: str = "GET",
    host: bytes = b"example.org",
    proxy: bool = False,
) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"accept-encoding", encoding), (b"host", host), *([(b"x-forwarded-for", b"10.0.0.1")] if proxy else [])]
    asyncio.run(files({"type": "http", "method": method, "path": path, "headers": headers}, None, send))  # type: ignore[arg-type]
    start, body = sent
    return start["status"], dict(start["headers"]), body["body"]


def test_script_comes_as_it_is_and_compressed_and_may_be_kept(files: PageFiles) -> None:
    status, headers, body = asked(files, f"/assets/{NAME}")
    assert (status, body, headers[b"content-type"]) == (200, SCRIPT, b"text/javascript; charset=utf-8")
    assert b"immutable" in headers[b"cache-control"] and b"content-encoding" not in headers
    for _ in range(2):
        _, headers, packed = asked(files, f"/assets/{NAME}", b"gzip, deflate, br")
        assert headers[b"content-encoding"] == b"gzip" and int(headers[b"content-length"]) == len(packed) < len(SCRIPT)
        assert gzip.decompress(packed) == SCRIPT
    _, headers, body = asked(files, f"/assets/{NAME}", method="HEAD")
    assert (int(headers[b"content-length"]), body) == (len(SCRIPT), b"")


@pytest.mark.parametrize("host", [b"127.0.0.1:7860", b"localhost:7860", b"[::1]:7860", b"localhost"])
def test_nothing_is_compressed_for_a_browser_on_this_machine(files: PageFiles, host: bytes) -> None:
    _, headers, body = asked(files, f"/assets/{NAME}", b"gzip", host=host)
    assert b"content-encoding" not in headers and body == SCRIPT
    assert asked(files, f"/assets/{NAME}", b"gzip", host=host, proxy=True)[1][b"content-encoding"] == b"gzip"


@pytest.mark.parametrize(
    "path",
    [
        "/assets/missing-DphvyggB.js",
        "/assets/../secret-DphvyggB.js",
        "/assets/..%2fsecret-DphvyggB.js",
        "/assets/unversioned.js",
        "/assets/font-DphvyggB.woff2",
        "/config",
        "/",
    ],
)
def test_everything_else_is_left_to_gradio(files: PageFiles, path: str) -> None:
    assert asked(files, path)[2] == b"Gradio's answer"
    assert asked(files, f"/assets/{NAME}", method="POST")[2] == b"Gradio's answer"


def test_page_can_be_installed_without_a_login() -> None:
    files = PageFiles(gradio, gradio_files(), own=(MANIFEST, FAVICON))
    status, headers, body = asked(files, f"/{MANIFEST.name}")
    assert (status, headers[b"content-type"], headers[b"cache-control"]) == (
        200,
        b"application/manifest+json",
        b"no-cache",
    )
    told = json.loads(body)
    (icon,) = told["icons"]
    status, headers, _ = asked(files, icon["src"].removeprefix("."))
    assert (status, headers[b"content-type"]) == (200, icon["type"].encode())
    addresses = [told["start_url"], told["scope"], *(one["url"] for one in told["shortcuts"])]
    assert all(address.startswith("./") for address in addresses), "the page may lie under a sub-path"


def test_page_is_made_of_files_that_are_found() -> None:
    """After an update of Gradio they might lie elsewhere; then the page still works, and slower."""
    files = PageFiles(gradio, gradio_files())
    page = (gradio_files().parent / "index.html").read_text(encoding="utf-8")
    assert page.count(MARK.decode()) == 1, "the script that runs before Gradio's is in no page"
    assert page.count(MANIFEST_LINK.decode()) == 1, "the page cannot be installed"
    (name,) = [part for part in page.split('"') if part.startswith("./assets/index-") and part.endswith(".js")]
    assert asked(files, name.removeprefix("."))[0] == 200
