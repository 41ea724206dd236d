"""Who may use the API, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

import app
from janus_app.errors import AppError
from janus_app.outputs.store import OutputStore
from janus_app.server.api.context import ApiContext
from janus_app.server.api.gate import Access, api_access
from janus_app.server.security import allowed_origins
from tests.coroutines import run
from tests.http_api.client import PROMPT, asgi, error_of
from tests.http_api.conftest import SITE
from tests.page_server import Served


def test_malformed_bodies_and_unknown_routes_are_refused_in_openais_shape(http: httpx.Client) -> None:
    route = "/v1/images/generations"
    for content in (b"", b"{", b"[" * 100_000, b"\xff\xfe", b'"text"', b"[]"):
        assert error_of(http.post(route, content=content), 400)["type"] == "invalid_request_error"
    assert error_of(http.get(route), 405)["code"] == "api_method_not_allowed"
    assert error_of(http.get("/v1/nothing"), 404)["code"] == "api_route_unknown"
    error_of(http.post(route, content=(b" " * 1_000_000 for _ in range(31))), 413)


def test_a_foreign_host_or_web_site_reaches_no_model(http: httpx.Client) -> None:
    assert http.get("/v1/models", headers={"host": "evil.example"}).status_code == 400
    answer = http.get("/v1/models", headers={"origin": "http://evil.example"})
    assert error_of(answer, 403)["code"] == "api_origin_refused"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/images/generations", "/sdapi/v1/txt2img", "/mcp"])
def test_a_web_site_that_was_named_may_use_the_api_and_no_other_may(http: httpx.Client, path: str) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    preflight = http.options(path, headers=asked | {"origin": SITE})
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, SITE)
    assert preflight.headers["access-control-allow-headers"] == "authorization,content-type"
    allowed = http.post(path, headers={"origin": SITE}, content=b"{")
    assert allowed.headers["access-control-allow-origin"] == SITE and allowed.status_code in (400, 405)
    answers = [preflight, allowed]
    for other in ("https://evil.example", f"{SITE}.evil.example", "http://app.example", f"{SITE}:8443", "null"):
        for answer in (
            http.options(path, headers=asked | {"origin": other}),
            http.post(path, headers={"origin": other}),
        ):
            assert error_of(answer, 403)["code"] == "api_origin_refused"
            assert "access-control-allow-origin" not in answer.headers
            answers.append(answer)
    assert not any("access-control-allow-credentials" in answer.headers for answer in answers)


def test_a_web_site_that_may_use_the_api_cannot_use_the_page(http: httpx.Client) -> None:
    for path in ("/", "/config", "/gradio_api/info", "/v10/models"):
        for answer in (
            http.get(path, headers={"origin": SITE}),
            http.options(path, headers={"origin": SITE, "access-control-request-method": "GET"}),
        ):
            assert "access-control-allow-origin" not in answer.headers, path


def test_a_web_site_with_a_name_needs_the_key_too_and_can_read_the_refusal(page: Served, tmp_path: Path) -> None:
    async def ask(**headers: str) -> httpx.Response:
        access = Access("key", origins=frozenset({SITE}))
        async with asgi(ApiContext(page.session, OutputStore(tmp_path)), access) as client:
            return await client.get("/v1/models", headers={"origin": SITE} | headers)

    for answer, status in ((run(ask()), 401), (run(ask(authorization="Bearer key")), 200)):
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, SITE)


def test_web_sites_are_named_as_browsers_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert allowed_origins() == frozenset()
    monkeypatch.setenv("JANUS_APP_ORIGINS", "HTTPS://App.Example:443/, http://[::1]:3000 ,")
    assert allowed_origins(["app://obsidian.md"]) == {"https://app.example", "http://[::1]:3000", "app://obsidian.md"}
    for wrong in ("*", "null", "app.example", "https://*.example", "https://a.example/x", "https://", "http://a:b"):
        with pytest.raises(AppError) as refused:
            allowed_origins([wrong])
        assert refused.value.code == "api_origin_malformed"


@pytest.mark.parametrize(
    ("host", "share", "login", "proxied", "is_open"),
    [
        ("127.0.0.1", False, False, False, True),
        ("127.0.0.1", False, True, False, False),
        ("127.0.0.1", False, False, True, False),
        ("0.0.0.0", False, False, False, False),
        ("127.0.0.1", True, False, False, False),
    ],
)
def test_only_a_page_of_this_machine_alone_has_an_api_without_a_key(
    host: str, share: bool, login: bool, proxied: bool, is_open: bool
) -> None:
    access, made = api_access("", host, share, login, proxied)
    assert (access.trusting and not access.key) == is_open
    assert bool(made) == share and access.key == made
    assert api_access(" given\n", host, share, login, proxied)[0].key == "given"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("Bearer key", 200),
        ("Basic YW55Ym9keTprZXk=", 200),
        ("Bearer wrong", 401),
        ("Basic !", 401),
        ("", 401),
        (b"Basic \xe9", 401),
    ],
)
def test_a_key_is_asked_for_on_every_route(page: Served, tmp_path: Path, sent: str | bytes, status: int) -> None:
    async def ask() -> None:
        async with asgi(ApiContext(page.session, OutputStore(tmp_path)), Access("key")) as client:
            for route in ("/v1/models", "/sdapi/v1/options"):
                answer = await client.get(route, headers={"authorization": sent} if sent else {})
                assert answer.status_code == status
            if status == 401:
                answer = await client.post("/mcp", headers={"authorization": sent} if sent else {}, json={})
                assert answer.status_code == status
            foreign = {"authorization": "Bearer key", "origin": "http://evil.example"}
            assert (await client.get("/v1/models", headers=foreign)).status_code == 200  # it has the key

    run(ask())


def test_without_a_key_an_api_that_others_can_reach_says_how_to_turn_it_on(page: Served, tmp_path: Path) -> None:
    async def ask() -> httpx.Response:
        async with asgi(ApiContext(page.session, OutputStore(tmp_path)), Access()) as client:
            return await client.get("/v1/models")

    assert "--api-key" in error_of(run(ask()), 403)["message"]


@pytest.mark.parametrize("name", ["Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP"])
def test_without_a_key_a_request_through_a_proxy_is_refused(page: Served, tmp_path: Path, name: str) -> None:
    async def ask(access: Access, **more: str) -> httpx.Response:
        async with asgi(ApiContext(page.session, OutputStore(tmp_path)), access) as client:
            return await client.get("/v1/models", headers={name: "203.0.113.9"} | more)

    assert error_of(run(ask(Access(trusting=True))), 403)["code"] == "api_needs_key"
    assert run(ask(Access("key"), authorization="Bearer key")).status_code == 200


def test_a_bug_is_answered_without_its_text(
    page: Served, http: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a secret")
        yield

    monkeypatch.setattr(page.session, "run_on", broken)
    answer = http.post("/v1/images/generations", json={"prompt": PROMPT})
    assert error_of(answer, 500)["code"] == "api_bug" and "secret" not in answer.text
    assert "a secret" in caplog.text


@pytest.mark.parametrize(("options", "key"), [([], "from the environment"), (["--api-key", "given"], "given")])
def test_the_key_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch, options: list[str], key: str) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr("janus_app.ui.app.launch", lambda *given, **named: told.update(named))
    monkeypatch.setattr("janus_app.runtime.session.ModelSession.run_idle_unload", lambda session: None)
    monkeypatch.setenv("JANUS_APP_API_KEY", "from the environment")
    monkeypatch.setattr("sys.argv", ["app.py", *options])
    assert app.serve(app.parse()) == 0 and told["api_key"] == key
