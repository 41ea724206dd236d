"""Several files and several ranges of one file at once: as safe as one connection, and no byte lost to the order."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

import pytest

from janus_app.errors import AppError
from janus_app.hub import DownloadLimits, Hub
from janus_app.registry.types import File
from tests.fake_hub import REPO, FakeHub, Fault
from tests.test_hub import BIG, CONFIG, FILES, a_hub, blob, drain, no_environment, partial, sha256, variant

__all__ = ["no_environment"]  # a fixture for this file too

PIECE = 200_000
WIDE = DownloadLimits(files=4, connections=4, range_bytes=PIECE, split_from=400_000)
AHEAD = WIDE.connections * WIDE.range_bytes  # the most that waits in memory


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with FakeHub(FILES) as running:
        yield running


def wide(tmp_path: Path, server: FakeHub, **options: object) -> Hub:
    return a_hub(tmp_path, server, limits=WIDE, **options)


def ranges(server: FakeHub) -> list[str]:
    return [r[2]["Range"] for r in server.requests if "Range" in r[2]]


def test_a_large_file_comes_over_several_connections_and_each_byte_once(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=99, pause=0.003))
    folder, steps = drain(wide(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert sorted(ranges(server), key=lambda r: int(r[6:].split("-")[0])) == [
        f"bytes={at}-{min(at + PIECE, len(BIG)) - 1}" for at in range(0, len(BIG), PIECE)
    ]
    assert server.busiest >= 3 and (server.sent, server.again) == (len(BIG) + len(CONFIG), 0)
    assert [s.done for s in steps] == sorted(s.done for s in steps) and steps[-1].done == steps[-1].total


def test_several_files_come_at_once_and_only_those_of_the_list(tmp_path: Path) -> None:
    names = [f"part-{number}.bin" for number in range(5)]
    files = {name: random.Random(name).randbytes(300_000) for name in names}
    model = variant(files=tuple(File(name, None, sha256(files[name])) for name in names))
    with FakeHub(files | {"unasked.bin": BIG, "README.md": b"x" * 900}) as server:
        server.fault("*", Fault(times=99, pause=0.01))
        folder, steps = drain(a_hub(tmp_path, server), model)
        assert {name: (folder / name).read_bytes() for name in names} == files
        assert server.busiest == 4 and server.again == 0
        assert not any("unasked" in request[1] or "README" in request[1] for request in server.requests)
    assert any("(4 of 5 files done)" in str(step.detail) for step in steps)


def test_connections_that_break_cost_no_byte_twice(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=9, die_after=70_000))
    folder, _ = drain(wide(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG and server.again == 0


def test_what_a_closed_download_leaves_is_the_beginning_of_the_file(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=999, pause=0.006))
    for goal in (900_000, 1_500_000, 2_400_000):
        work = wide(tmp_path, server).fetch(variant())
        for step in work:
            if step.done > goal:
                break
        work.close()
        # On a busy machine the rest may have come between two steps.
        kept = (blob(tmp_path) if blob(tmp_path).exists() else partial(tmp_path)).read_bytes()
        assert len(kept) >= step.done - len(CONFIG) - AHEAD and BIG.startswith(kept)
    folder, _ = drain(wide(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert server.again <= 3 * AHEAD


def test_a_closed_download_stops_at_once_though_the_server_says_nothing(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=99, stall_after=50_000))
    work = a_hub(tmp_path, server, limits=WIDE, retry=None).fetch(variant())  # would wait ten seconds for a byte
    for step in work:
        if step.done >= 4 * 50_000:
            break
    work.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "janus-download"]
    assert partial(tmp_path).read_bytes() == BIG[:50_000]
    server._faults.clear()
    drain(wide(tmp_path, server), variant())  # the locks were given back


def test_a_server_without_ranges_is_served_by_one_connection(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=99, no_range=True))
    folder, _ = drain(wide(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_an_address_of_storage_that_ran_out_is_asked_for_anew(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=1, status=403, method="GET", storage=True))
    folder, _ = drain(a_hub(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG and server.again == 0
    resolved = [r for r in server.requests if r[0] == "GET" and "/resolve/" in r[1] and "model" in r[1]]
    assert len(resolved) == 1, "the storage is asked directly as long as its address holds"


def test_a_byte_flipped_in_any_lane_is_noticed(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=99, corrupt_at=1_700_000))
    with pytest.raises(AppError, match="wrong content"):
        drain(wide(tmp_path, server), variant())
    assert not blob(tmp_path).exists()
    server._faults.clear()
    folder, _ = drain(wide(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_a_longer_answer_than_asked_for_is_refused(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=99, extra=5))
    with pytest.raises(AppError, match="longer than"):
        drain(wide(tmp_path, server), variant())
    assert not blob(tmp_path).exists()


def test_one_file_that_fails_stops_the_others_and_keeps_their_parts(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(times=999, pause=0.005))
    server.fault("config.json", Fault(times=1, status=403, method="GET"))
    with pytest.raises(AppError, match="refuses access"):
        drain(wide(tmp_path, server), variant())
    assert not partial(tmp_path).exists() or BIG.startswith(partial(tmp_path).read_bytes())
    folder, _ = drain(wide(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG


def test_a_trickle_is_waited_for(tmp_path: Path) -> None:
    files = {"config.json": CONFIG, "model.safetensors": BIG[:400_000]}
    model = variant(files=(File("config.json"), File("model.safetensors", None, sha256(BIG[:400_000]))))
    with FakeHub(files) as server:
        server.fault("model.safetensors", Fault(times=99, pause=0.05))
        folder, steps = drain(wide(tmp_path, server), model)
        assert (folder / "model.safetensors").read_bytes() == BIG[:400_000] and server.again == 0
    assert any(step.rate for step in steps)


def test_retry_after_is_obeyed(tmp_path: Path, server: FakeHub) -> None:
    server.fault("model.safetensors", Fault(status=429, method="GET", retry_after="2"))
    _, steps = drain(a_hub(tmp_path, server), variant())
    assert any("HTTP 429); trying again in 2 s" in str(step.detail) for step in steps)


@pytest.mark.parametrize("asked", ["", "1"])
def test_the_token_goes_to_a_mirror_only_if_asked_and_never_to_the_storage(
    tmp_path: Path, server: FakeHub, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("JANUS_APP_TOKEN_TO_MIRROR", asked)
    server.fault("model.safetensors", Fault(die_after=500_000))
    drain(wide(tmp_path, server), variant())
    told = {("cdn" if r[1].startswith("/cdn/") else "hub"): set() for r in server.requests}
    for _, path, headers in server.requests:
        sent = {name.lower(): value for name, value in headers.items()}.get("authorization", "")
        told["cdn" if path.startswith("/cdn/") else "hub"].add(sent)
    assert told == {"hub": {"Bearer hf_secret" if asked else ""}, "cdn": {""}}


class _Proxy(BaseHTTPRequestHandler):
    """Forwards plain HTTP, as a company's proxy does."""

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
    """A redirect is the client's to follow."""

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> Any:
        return fp


def test_a_proxy_of_the_environment_is_used(tmp_path: Path, server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = type("Proxy", (_Proxy,), {"seen": []})
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_address[1]}")
    from huggingface_hub.utils import close_session  # its clients read the environment when they are made

    close_session()
    try:
        folder, _ = drain(wide(tmp_path, server), variant())
    finally:
        proxy.shutdown()
        proxy.server_close()
        close_session()
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert handler.seen and len(handler.seen) == len(server.requests)  # type: ignore[attr-defined]
    assert any("/cdn/" in url for url in handler.seen) and REPO in handler.seen[0]  # type: ignore[attr-defined]
