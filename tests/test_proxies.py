"""Proxy variables and HF_ENDPOINT: the page starts whatever they say; downloads use them or name the one at fault."""

from __future__ import annotations

import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
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


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from huggingface_hub.utils import close_session  # clients read the environment when they are created

    for name in [*os.environ]:
        if name.lower() in (*proxies.NAMES, proxies.NO_PROXY) or name in ("HF_ENDPOINT", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name)
    close_session()
    yield
    close_session()


class _Forward(BaseHTTPRequestHandler):
    """An HTTP proxy that forwards requests, or with a `status` answers all of them itself."""

    status = 0
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        parts = urlsplit(self.path)
        if self.status or not parts.hostname:
            self.send_response(self.status or 400)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        server = HTTPConnection(parts.hostname, parts.port or 80, timeout=20)
        server.request(self.command, parts.path, headers=dict(self.headers))
        answer = server.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.read())

    do_HEAD = do_CONNECT = do_GET

    def log_message(self, *_: object) -> None:
        pass


class _Socks(socketserver.BaseRequestHandler):
    """Connects to the IPv4 address or the host name that a SOCKS 5 client asks for. With a `status`, wants a login."""

    status = 0
    asked: list[str]

    def handle(self) -> None:
        client = self.request
        client.recv(262)
        if self.status:
            self.asked.append("refused")  # before the client knows
            client.sendall(b"\x05\xff")
            return
        client.sendall(b"\x05\x00")
        kind = client.recv(4)[3]
        host = socket.inet_ntoa(client.recv(4)) if kind == 1 else client.recv(client.recv(1)[0]).decode()
        port = int.from_bytes(client.recv(2), "big")
        self.asked.append(f"http://{host}:{port}")
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


@contextmanager
def proxy_server(kind: str, status: int = 0) -> Iterator[tuple[str, list[str]]]:
    """A proxy, "http" or "socks5", that runs on the loopback: its address, and what it was asked for."""
    asked: list[str] = []
    handler: Any = type("Handler", (_Socks if kind == "socks5" else _Forward,), {"asked": asked, "status": status})
    server: Any = socketserver.ThreadingTCPServer if kind == "socks5" else ThreadingHTTPServer
    with server(("127.0.0.1", 0), handler) as running:
        running.daemon_threads, running.block_on_close = True, False
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield f"{kind}://127.0.0.1:{running.server_address[1]}", asked
        running.shutdown()


@pytest.fixture
def bad_proxy() -> Iterator[str]:
    with proxy_server("http", 502) as (address, _):
        yield address


def refusal(tmp_path: Path, server: FakeHub | None, **options: object) -> str:
    with pytest.raises(AppError) as error:
        fetch(make_hub(tmp_path, server, **options), variant())
    return str(error.value)


def test_page_starts_whatever_the_proxy_variables_say(bad_proxy: str, tmp_path: Path) -> None:
    port = free_port()
    odd = {"http_proxy": bad_proxy, "https_proxy": "http://host:port", "all_proxy": SOCKS, "no_proxy": "[::1]"}
    environment = os.environ | odd | {"JANUS_APP_DATA": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "app.py", "--no-browser", "--port", str(port)]
    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipe) as page:
        try:
            printed = ""
            while f":{port}" not in printed and (line := page.stdout.readline()):  # type: ignore[union-attr]
                printed += line
            assert f"http://127.0.0.1:{port}" in printed and "bug" not in printed, printed
            opener = build_opener(ProxyHandler({}))
            assert opener.open(f"http://127.0.0.1:{port}/", timeout=20).status == 200
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


def test_shared_page_keeps_the_exceptions_that_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "[::1], bad:port, .lan, 10.0.0.0/8")
    with page_environment("192.168.1.5", share=True):
        assert os.environ["NO_PROXY"] == "localhost,127.0.0.1,::1,192.168.1.5,.lan,10.0.0.0/8"
        httpx.Client()


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("ALL_PROXY", "socks5://me:secret@127.0.0.1:9", "pip install socksio"),
        ("all_proxy", "socks://127.0.0.1:9", "socks5://"),
        ("http_proxy", "http://host:port", "http://host:port"),
    ],
)
def test_download_names_a_variable_that_cannot_be_used(
    tmp_path: Path, server: FakeHub, monkeypatch: pytest.MonkeyPatch, name: str, value: str, part: str
) -> None:
    import httpcore2  # noqa: F401  decides on its import whether it can use SOCKS

    monkeypatch.setitem(sys.modules, "socksio", None)  # as if it were not installed
    monkeypatch.setenv(name, value)
    said = refusal(tmp_path, server)
    assert f"{name} is set to" in said and part in said and "secret" not in said


@pytest.mark.parametrize("module", ["janus_app.hub", "janus_app.ui.app"])
def test_libraries_send_no_usage_data(module: str) -> None:
    """Otherwise huggingface_hub asks the Hub for a list before a download, and names PyTorch in its requests."""
    code = (
        f"import os, {module}; from huggingface_hub import constants;"
        "print(constants.HF_HUB_DISABLE_TELEMETRY, os.environ.get('GRADIO_ANALYTICS_ENABLED'))"
    )
    set_here = ("HF_HUB_DISABLE_TELEMETRY", "GRADIO_ANALYTICS_ENABLED", "DO_NOT_TRACK")  # by the app itself
    clean = {name: value for name, value in os.environ.items() if name not in set_here}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "None" if module == "janus_app.hub" else "False"], done.stderr


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_download_goes_through_the_proxy(
    tmp_path: Path, server: FakeHub, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The requests to the Hub and to its storage."""
    with proxy_server(kind) as (address, asked):
        monkeypatch.setenv("all_proxy", address)
        folder, _ = fetch(make_hub(tmp_path, server), variant())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert {urlsplit(address).netloc for address in asked} == {f"127.0.0.1:{server.port}", f"localhost:{server.port}"}


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
    (finding,) = doctor.hub_findings(hub, 5)
    assert finding.level == "WARN" and name in str(finding.detail) and "502" in str(finding.detail)


@pytest.mark.parametrize(
    ("kind", "status", "endpoint", "code"),
    [
        ("http", 407, "http://hub.example", "proxy_login_refused"),
        ("http", 407, "https://hub.example", "proxy_login_refused"),
        ("socks5", 407, "https://hub.example", "proxy_login_refused"),
        ("http", 403, "https://hub.example", "proxy_refused"),
    ],
)
def test_proxy_that_refuses_is_asked_once_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, status: int, endpoint: str, code: str
) -> None:
    with proxy_server(kind, status) as (address, asked):
        monkeypatch.setenv("all_proxy", address)
        hub = make_hub(tmp_path, None)
        hub._endpoint = endpoint
        with pytest.raises(AppError) as error:
            fetch(hub, variant(files=variant().files[:1]))
        assert len(asked) == 1
        (finding,) = doctor.hub_findings(hub, 5)
    assert error.value.code == code and finding.detail.code == code
    assert "all_proxy" in str(error.value) and address in str(error.value)


@pytest.mark.parametrize(("runs", "named"), [("", "http"), ("http", "socks5"), ("socks5", "http")])
def test_address_where_no_such_proxy_answers_is_named(
    tmp_path: Path, server: FakeHub, monkeypatch: pytest.MonkeyPatch, runs: str, named: str
) -> None:
    """Nothing listens there, or a proxy of the other kind."""
    with proxy_server(runs or "http") as (address, _):
        address = address.replace(f"{runs}://", f"{named}://") if runs else f"http://127.0.0.1:{free_port()}"
        monkeypatch.setenv("all_proxy", address)
        said = refusal(tmp_path, server)
        (finding,) = doctor.hub_findings(make_hub(tmp_path, server), 1)
    assert f"proxy {address} that all_proxy names" in said
    assert finding.level == "WARN" and address in str(finding.detail)


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
    (finding,) = doctor.hub_findings(hub, 5)
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
    (nothing,) = doctor.proxy_findings(hub)
    assert nothing.level == "OK"
    monkeypatch.setenv("HTTPS_PROXY", "http://old:1")
    monkeypatch.setenv("https_proxy", "http://user:secret@new:1")
    monkeypatch.setenv("HTTP_PROXY", "other:1")
    monkeypatch.setenv("ALL_PROXY", "socks4://host:1")
    monkeypatch.setenv("NO_PROXY", "localhost,.lan")
    found = {str(finding.what): finding for finding in doctor.proxy_findings(hub)}
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
    monkeypatch.setenv("http_proxy", "")
    codes = {str(finding.what): finding.detail.code for finding in doctor.proxy_findings(hub)}
    assert (codes["HTTP_PROXY"], codes["http_proxy"]) == ("doctor_proxy_ignored", "doctor_proxy_empty")


NO_PROXY_VALUES = (
    "", "*", "a, *", "hub.lan", " Hub.lan ,", ".hub.lan", "*.hub.lan", "hub.lan:8443", "hub.lan:443", "10.0.0.0/8",
    "lan", "127.0.0.1", "::1", "[::1]", "localhost", "bad:port",
)  # fmt: skip
ADDRESSES = ("https://hub.lan", "https://x.hub.lan", "https://xhub.lan", "https://hub.lan:8443", "http://10.1.2.3")


@pytest.mark.parametrize("value", NO_PROXY_VALUES)
def test_hosts_of_no_proxy_are_those_that_the_client_reaches_directly(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import get_session

    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", value)
    client: Any = get_session()
    for address in (*ADDRESSES, "http://127.0.0.1:5", "http://[::1]:3", "http://localhost:4"):
        url = client.build_request("GET", address).url
        assert (proxy_of(address) is not None) == (client._transport_for_url(url) is not client._transport), address
