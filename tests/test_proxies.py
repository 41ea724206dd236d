"""Proxy variables and HF_ENDPOINT: the page starts whatever they say; downloads use them or name the one at fault."""

from __future__ import annotations

import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

from janus_app.errors import AppError
from janus_app.hub import proxies
from janus_app.hub.proxies import page_environment, proxy_of
from janus_app.runtime import doctor
from tests.fake_hub import FakeHub
from tests.hub_cases import BIG, fetch, make_hub, variant
from tests.hub_cases import server as server
from tests.page_server import free_port

ROOT = Path(__file__).parents[1]
SOCKS = "socks5://127.0.0.1:9"
without_socks = pytest.mark.skipif(find_spec("socksio") is not None, reason="socksio is installed")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from huggingface_hub.utils import close_session  # clients read the environment when they are created

    for name in [*os.environ]:
        if name.lower() in (*proxies.NAMES, proxies.NO_PROXY) or name in ("HF_ENDPOINT", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name)
    close_session()
    yield
    close_session()


class _BadGateway(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(502)
        self.end_headers()

    do_HEAD = do_CONNECT = do_GET

    def log_message(self, *_: object) -> None:
        pass


class _Socks(socketserver.BaseRequestHandler):
    """Connects to the IPv4 address or the host name that a SOCKS 5 client asks for."""

    asked: list[int]

    def handle(self) -> None:
        client = self.request
        client.recv(262)
        client.sendall(b"\x05\x00")
        kind = client.recv(4)[3]
        host = socket.inet_ntoa(client.recv(4)) if kind == 1 else client.recv(client.recv(1)[0]).decode()
        port = int.from_bytes(client.recv(2), "big")
        type(self).asked.append(port)
        with socket.create_connection((host, port)) as server:
            client.sendall(b"\x05\x00\x00\x01" + bytes(6))
            answer = threading.Thread(target=_pump, args=(server, client), daemon=True)
            answer.start()
            _pump(client, server)
            answer.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture
def bad_proxy() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _BadGateway) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def refusal(tmp_path: Path, server: FakeHub | None, **options: object) -> str:
    with pytest.raises(AppError) as error:
        fetch(make_hub(tmp_path, server, **options), variant())
    return str(error.value)


def test_page_starts_whatever_the_proxy_variables_say(bad_proxy: str, tmp_path: Path) -> None:
    port = free_port()
    odd = {"http_proxy": bad_proxy, "https_proxy": "http://host:port", "all_proxy": SOCKS, "no_proxy": "[::1]"}
    environment = os.environ | odd | {"JANUS_APP_DATA": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "app.py", "--no-browser", "--port", str(port)]
    opener = build_opener(ProxyHandler({}))
    log = tmp_path / "log"
    with log.open("w") as out, subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out) as page:
        try:
            status, until = 0, time.monotonic() + 90
            while status != 200 and page.poll() is None and time.monotonic() < until:
                time.sleep(0.5)
                try:
                    status = opener.open(f"http://127.0.0.1:{port}/", timeout=5).status
                except OSError:
                    continue
            time.sleep(2)  # Gradio asks its own address after the server answers
            assert status == 200 and page.poll() is None, log.read_text()
        finally:
            page.kill()


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("value", [SOCKS, "foo://host", "http://host:port", "http://127.0.0.1:9"])
def test_this_machine_is_asked_directly_while_the_page_starts(
    bad_proxy: str, monkeypatch: pytest.MonkeyPatch, share: bool, value: str
) -> None:
    import httpx

    monkeypatch.setenv("all_proxy", value)
    monkeypatch.setenv("HTTP_PROXY", value)
    before = dict(os.environ)
    with page_environment("127.0.0.1", share):
        assert httpx.get(bad_proxy).status_code == 502  # asked as a server; the proxy does not answer
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        pytest.param("ALL_PROXY", "socks5://me:secret@127.0.0.1:9", "pip install socksio", marks=without_socks),
        ("all_proxy", "socks://127.0.0.1:9", "socks5://"),
        ("http_proxy", "http://host:port", "http://host:port"),
    ],
)
def test_download_names_a_variable_that_cannot_be_used(
    tmp_path: Path, server: FakeHub, monkeypatch: pytest.MonkeyPatch, name: str, value: str, part: str
) -> None:
    monkeypatch.setenv(name, value)
    said = refusal(tmp_path, server)
    assert f"{name} is set to" in said and part in said and "secret" not in said


def test_download_goes_through_a_socks_proxy(tmp_path: Path, server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("socksio")
    handler = type("Socks", (_Socks,), {"asked": []})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as proxy:
        proxy.daemon_threads, proxy.block_on_close = True, False
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("all_proxy", f"socks5://127.0.0.1:{proxy.server_address[1]}")
        folder, _ = fetch(make_hub(tmp_path, server), variant())
        proxy.shutdown()
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert handler.asked  # type: ignore[attr-defined]


@pytest.mark.parametrize("endpoint", ["http://hub.example", "https://hub.example"])
def test_failing_proxy_is_named_with_its_variable(
    tmp_path: Path, bad_proxy: str, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    name = endpoint.partition(":")[0] + "_proxy"
    monkeypatch.setenv(name, bad_proxy.replace("http://", "http://user:secret@"))
    hub = make_hub(tmp_path, None)
    hub._endpoint = endpoint
    with pytest.raises(AppError) as error:
        fetch(hub, variant())
    said = str(error.value)
    assert name in said and bad_proxy in said and "502" in said and "secret" not in said
    (finding,) = doctor._hub(hub, 5)
    assert finding.level == "WARN" and name in str(finding.detail) and "502" in str(finding.detail)


@pytest.mark.parametrize(
    "endpoint", ["hf-mirror.com", "htps://hf-mirror.com", "https:/hf-mirror.com", "https://h:port"]
)
def test_endpoint_that_is_no_address_is_refused_at_once_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    hub = make_hub(tmp_path, None)
    hub._endpoint = endpoint
    with pytest.raises(AppError) as error:
        fetch(hub, variant())
    assert error.value.code == "hub_endpoint_malformed" and endpoint in str(error.value)
    (finding,) = doctor._hub(hub, 5)
    assert finding.level == "WARN" and "HF_ENDPOINT" in str(finding.detail)


def test_endpoint_with_an_unknown_host_is_refused_before_the_first_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    hub = make_hub(tmp_path, None)
    hub._endpoint = "https://hf-miror.com"
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(AppError) as error:
        fetch(hub, variant())
    assert error.value.code == "hub_endpoint_unknown" and "hf-miror.com" in str(error.value)


def test_doctor_lists_every_proxy_variable_and_its_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = make_hub(tmp_path, None)
    hub._endpoint = "https://hub.example"
    (nothing,) = doctor._proxies(hub)
    assert nothing.level == "OK"
    monkeypatch.setenv("HTTPS_PROXY", "http://old:1")
    monkeypatch.setenv("https_proxy", "http://user:secret@new:1")
    monkeypatch.setenv("HTTP_PROXY", "other:1")
    monkeypatch.setenv("ALL_PROXY", "socks4://host:1")
    monkeypatch.setenv("NO_PROXY", "localhost,.lan")
    found = {str(finding.what): finding for finding in doctor._proxies(hub)}
    codes = {name: finding.detail.code for name, finding in found.items()}
    assert codes == {
        "HTTPS_PROXY": "doctor_proxy_ignored",
        "https_proxy": "doctor_proxy_used",
        "HTTP_PROXY": "doctor_proxy_unused",
        "ALL_PROXY": "proxy_scheme_unknown",
        "NO_PROXY": "doctor_proxy_exceptions",
    }
    assert found["ALL_PROXY"].level == "WARN" and found["ALL_PROXY"].remedy
    assert not any("secret" in str(finding.detail) for finding in found.values())


def test_hosts_of_no_proxy_are_reached_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "http://proxy:1")
    monkeypatch.setenv("no_proxy", "mirror.lan, .company.example")
    assert proxy_of("https://mirror.lan") is None and proxy_of("https://hub.company.example/x") is None
    assert proxy_of("https://huggingface.co") is not None
    monkeypatch.setenv("no_proxy", "a, *")
    assert proxy_of("https://huggingface.co") is None
