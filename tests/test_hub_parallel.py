"""Several files, and several ranges of one file, at once."""

from __future__ import annotations

import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

import pytest

from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.registry.types import File
from tests.fake_hub import REPO, FakeHub, Fault
from tests.hub_cases import (
    AHEAD,
    BIG,
    CONFIG,
    PIECE,
    WIDE,
    blob,
    fetch,
    fetch_until,
    make_hub,
    no_environment,
    partial,
    server,
    sha256,
    variant,
)

__all__ = ["no_environment", "server"]  # fixtures


def wide(tmp_path: Path, server: FakeHub, **options: object) -> Hub:
    return make_hub(tmp_path, server, limits=WIDE, **options)


def ranges(server: FakeHub) -> list[str]:
    return [r[2]["Range"] for r in server.requests if "Range" in r[2]]


def test_large_file_uses_several_connections_and_each_byte_is_sent_once(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=99, pause=0.003))
    folder, steps = fetch(wide(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert sorted(ranges(server), key=lambda r: int(r[6:].split("-")[0])) == [
        f"bytes={at}-{min(at + PIECE, len(BIG)) - 1}" for at in range(0, len(BIG), PIECE)
    ]
    assert server.most_at_once >= 3 and (server.sent, server.resent) == (len(BIG) + len(CONFIG), 0)
    assert [s.done for s in steps] == sorted(s.done for s in steps) and steps[-1].done == steps[-1].total


def test_listed_files_are_fetched_at_once_and_no_others(tmp_path: Path) -> None:
    names = [f"part-{number}.bin" for number in range(5)]
    files = {name: random.Random(name).randbytes(300_000) for name in names}
    model = variant(files=tuple(File(name, None, sha256(files[name])) for name in names))
    with FakeHub(files | {"unasked.bin": BIG, "README.md": b"x" * 900}) as server:
        server.fault("*", Fault(times=99, pause=0.01))
        folder, steps = fetch(make_hub(tmp_path, server), model)
        assert {name: (folder / name).read_bytes() for name in names} == files
        assert server.most_at_once == 4 and server.resent == 0
        assert not any("unasked" in request[1] or "README" in request[1] for request in server.requests)
    assert any("(4 of 5 files done)" in str(step.detail) for step in steps)


def test_broken_ranges_cause_no_byte_to_be_sent_twice(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=9, die_after=70_000))
    folder, _ = fetch(wide(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG and server.resent == 0


def test_partial_file_of_closed_download_is_a_prefix(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=999, pause=0.006))
    for goal in (900_000, 1_500_000, 2_400_000):
        work = wide(tmp_path, server).fetch(variant())
        for step in work:
            if step.done > goal:
                break
        work.close()
        # On a busy machine the rest may arrive between two steps.
        kept = (blob(tmp_path) if blob(tmp_path).exists() else partial(tmp_path)).read_bytes()
        assert len(kept) >= step.done - len(CONFIG) - AHEAD and BIG.startswith(kept)
    folder, _ = fetch(wide(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert server.resent <= 3 * AHEAD


def test_close_returns_at_once_while_server_stalls(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=99, stall_after=50_000))
    hub = make_hub(tmp_path, server, limits=WIDE, retry=None)  # waits ten seconds for a byte
    fetch_until(hub, variant(), 4 * 50_000 - 1).close()
    assert not [thread for thread in threading.enumerate() if thread.name == "janus-download"]
    assert partial(tmp_path).read_bytes() == BIG[:50_000]
    server.clear_faults()
    fetch(wide(tmp_path, server), variant())  # the locks were released


def test_server_that_ignores_ranges_gets_one_connection(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=99, no_range=True))
    folder, _ = fetch(wide(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_expired_storage_address_is_requested_again(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=1, status=403, method="GET", storage=True))
    folder, _ = fetch(make_hub(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG and server.resent == 0
    resolved = [r for r in server.requests if r[0] == "GET" and "/resolve/" in r[1] and "model" in r[1]]
    assert len(resolved) == 1, "the storage is asked directly until its address expires"


def test_byte_flipped_in_any_range_is_detected(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=99, corrupt_at=1_700_000))
    with pytest.raises(AppError, match="wrong content"):
        fetch(wide(tmp_path, server), variant())
    assert not blob(tmp_path).exists()
    server.clear_faults()
    folder, _ = fetch(wide(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_answer_longer_than_requested_is_refused(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=99, extra=5))
    with pytest.raises(AppError, match="longer than"):
        fetch(wide(tmp_path, server), variant())
    assert not blob(tmp_path).exists()


def test_failed_file_cancels_the_others_and_keeps_their_partial_files(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=999, pause=0.005))
    server.fault("config.json", Fault(times=1, status=403, method="GET"))
    with pytest.raises(AppError, match="refuses access"):
        fetch(wide(tmp_path, server), variant())
    assert not partial(tmp_path).exists() or BIG.startswith(partial(tmp_path).read_bytes())
    folder, _ = fetch(wide(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_slow_server_is_waited_for(tmp_path: Path) -> None:
    files = {"config.json": CONFIG, "model.safetensors": BIG[:400_000]}
    model = variant(files=(File("config.json"), File("model.safetensors", None, sha256(BIG[:400_000]))))
    with FakeHub(files) as server:
        server.fault("model.safetensors", Fault(times=99, pause=0.05))
        folder, steps = fetch(wide(tmp_path, server), model)
        assert (folder / "model.safetensors").read_bytes() == BIG[:400_000] and server.resent == 0
    assert any(step.rate for step in steps)


def test_retry_after_is_obeyed(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(status=429, method="GET", retry_after="2"))
    _, steps = fetch(make_hub(tmp_path, server), variant())
    assert any("HTTP 429); trying again in 2 s" in str(step.detail) for step in steps)


@pytest.mark.parametrize("on_request", ["", "1"])
def test_token_is_sent_to_mirror_only_on_request_and_never_to_storage(
    tmp_path: Path, server: FakeHub, monkeypatch: pytest.MonkeyPatch, on_request: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("JANUS_APP_TOKEN_TO_MIRROR", on_request)
    server.fault("model.safetensors", Fault(die_after=500_000))
    fetch(wide(tmp_path, server), variant())
    tokens = {("cdn" if r[1].startswith("/cdn/") else "hub"): set() for r in server.requests}
    for _, path, headers in server.requests:
        sent = {name.lower(): value for name, value in headers.items()}.get("authorization", "")
        tokens["cdn" if path.startswith("/cdn/") else "hub"].add(sent)
    assert tokens == {"hub": {"Bearer hf_secret" if on_request else ""}, "cdn": {""}}


class _Proxy(BaseHTTPRequestHandler):
    """Forwards plain HTTP requests."""

    seen: list[str]

    def do_GET(self) -> None:
        type(self).seen.append(self.path)
        names = ("Range", "Accept-Encoding")
        headers = {name: self.headers[name] for name in names if name in self.headers}
        opener = build_opener(ProxyHandler({}), _NoRedirect)
        with opener.open(Request(self.path, headers=headers, method=self.command)) as answer:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.read())

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


class _NoRedirect(HTTPRedirectHandler):
    """Leaves redirects to the client."""

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> Any:
        return fp


def test_proxy_of_the_environment_is_used(tmp_path: Path, server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = type("Proxy", (_Proxy,), {"seen": []})
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_address[1]}")
    from huggingface_hub.utils import close_session  # clients read the environment when they are created

    close_session()
    try:
        folder, _ = fetch(wide(tmp_path, server), variant())
    finally:
        proxy.shutdown()
        proxy.server_close()
        close_session()
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert handler.seen and len(handler.seen) == len(server.requests)  # type: ignore[attr-defined]
    assert any("/cdn/" in url for url in handler.seen) and REPO in handler.seen[0]  # type: ignore[attr-defined]
