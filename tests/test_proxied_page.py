"""The page behind a reverse proxy: its host names, and a sub-path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from PIL import Image

from janus_app.errors import AppError
from janus_app.server.security import HostGuard, allowed_names, answers_one_person, host_rules, sub_path
from tests.nginx_server import nginx
from tests.page_client import draw, gallery_of
from tests.page_server import Served, serve


@pytest.fixture(scope="module")
def sub_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    names = ["*.proxy.runpod.net", "https://janus.example.org:8443/x", "studio_1"]
    with serve(tmp_path_factory.mktemp("sub"), root_path="janus/", allow_hosts=names) as served:
        yield served


def check_page(address: str, folder: Path) -> None:
    """The page, its script and style, an upload, a streamed drawing and the download of a picture work at `address`."""
    home = httpx.get(f"{address}/", trust_env=False)
    assert home.status_code == 200 and "PROMPTS" in home.text  # assets/page is part of the page
    assert f'"root":"{address}"' in home.text.replace('": "', '":"')
    for link in re.findall(r'(?:src|href)="(\.?/?[^":]*\.(?:js|css))"', home.text):
        assert httpx.get(f"{address}/{link.lstrip('./')}", trust_env=False).status_code == 200, link
    config = httpx.get(f"{address}/config", trust_env=False).json()
    assert config["root"] == address and "#topbar" in config["css"]
    client = Client(address, verbose=False, download_files=str(folder))
    drawn = draw(client, count=1)
    drawn.result(timeout=60)
    (picture,) = gallery_of(drawn)
    assert Image.open(picture).size == (96, 96)
    sent = httpx.post(f"{address}/gradio_api/upload", files={"files": ("a.png", picture.read_bytes())}, trust_env=False)
    kept = httpx.get(f"{address}/gradio_api/file={sent.json()[0]}", trust_env=False)
    assert kept.content == picture.read_bytes()


def test_page_is_usable_behind_nginx_under_a_sub_path(sub_page: Served, tmp_path: Path) -> None:
    with nginx(sub_page.url, tmp_path) as proxied:
        check_page(proxied.url, tmp_path)


def test_page_with_a_sub_path_is_usable_at_its_own_address_too(sub_page: Served, tmp_path: Path) -> None:
    """As behind a proxy that passes the sub-path on."""
    check_page(f"{sub_page.url}/janus", tmp_path)


def test_page_answers_to_allowed_names_alone(sub_page: Served) -> None:
    def status(host: str) -> int:
        return httpx.get(f"{sub_page.url}/config", headers={"Host": host}, trust_env=False).status_code

    assert [status(host) for host in ("ab-7860.proxy.runpod.net", "JANUS.example.org", "studio_1:80")] == [200] * 3
    others = ("proxy.runpod.net", "xproxy.runpod.net", "a.proxy.runpod.net.evil.example", "a.janus.example.org")
    assert [status(host) for host in others] == [400] * 4


def test_api_of_a_page_with_a_name_lets_no_web_site_read_its_answers(sub_page: Served) -> None:
    """Gradio itself lets every one do so, where the page is not reached as localhost."""
    headers = {"host": "studio_1", "origin": "https://evil.example", "access-control-request-method": "GET"}
    for method in ("OPTIONS", "GET"):
        answer = httpx.request(method, f"{sub_page.url}/janus/v1/models", headers=headers, trust_env=False)
        assert answer.status_code == 403 and not [name for name in answer.headers if "access-control" in name]


@pytest.mark.parametrize(("language", "expected"), [("en-GB", "does not answer"), ("zh-TW,en;q=0.5", "主机名")])
def test_refusal_names_the_flag_in_the_language_of_the_browser(page: Served, language: str, expected: str) -> None:
    headers = {"Host": "ab.proxy.runpod.net", "Accept-Language": language}
    refused = httpx.get(page.url, headers=headers, trust_env=False)
    assert refused.status_code == 400 and expected in refused.text
    assert "--allow-host ab.proxy.runpod.net" in refused.text and "--root-path" in refused.text
    hostile = httpx.get(page.url, headers={"Host": "$(reboot)"}, trust_env=False)
    assert "reboot" not in hostile.text and "--allow-host NAME" in hostile.text


def test_no_name_is_allowed_by_itself_and_the_variable_adds_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert allowed_names() == frozenset()
    monkeypatch.setenv("JANUS_APP_HOSTS", "Page.test, *.lan ,")
    assert allowed_names(["bücher.example"]) == {"page.test", "*.lan", "xn--bcher-kva.example"}
    guard = HostGuard(None, **host_rules("127.0.0.1", False, allowed_names()))
    assert guard.allows("a.lan") and not guard.allows("lan") and not guard.allows("192.168.1.5")


@pytest.mark.parametrize("given", ["*", "*.", "a.*.example", "https://", "two names", "[::"])
def test_what_names_no_host_is_refused(given: str) -> None:
    with pytest.raises(AppError) as refused:
        allowed_names([given])
    assert refused.value.code == "page_host_malformed"


def test_sub_paths_are_read_with_and_without_slashes() -> None:
    assert [sub_path(text) for text in ("", "/", "janus", "/a/janus/")] == ["", "", "/janus", "/a/janus"]
    assert sub_path("https://example.org/janus/") == "https://example.org/janus"
    for text in ("/a b", "/a/../b", "/a?b", "//a//b", "/<b>"):
        with pytest.raises(AppError):
            sub_path(text)


def test_page_behind_a_proxy_lists_history_only_with_a_login() -> None:
    assert not answers_one_person("127.0.0.1", False, False, proxied=True)
    assert answers_one_person("127.0.0.1", False, True, proxied=True)


def test_exported_curl_calls_go_to_the_sub_path() -> None:
    from types import SimpleNamespace

    from janus_app.ui.common.more import page_address

    headers = {"host": "a.test", "origin": "http://a.test", "referer": "http://a.test/janus/?__theme=dark"}
    asked: Any = SimpleNamespace(headers=headers)
    assert page_address(asked) == "http://a.test/janus"


def test_start_says_which_names_are_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sub_page: Served
) -> None:
    with serve(tmp_path, allow_hosts=["janus.test"], root_path="/janus") as served:
        printed = capsys.readouterr().out
    assert f"Open {served.url}/janus" in printed and "janus.test" in printed and "--auth" in printed
