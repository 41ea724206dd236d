"""A served app for the tests of its API."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import httpx
import pytest

from tests.http_api.client import generate
from tests.page_server import Served, serve

SITE = "https://app.example"  # a web site that may use the API


@pytest.fixture(scope="package")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("api"), allow_origins=[SITE]) as served:
        yield served


@pytest.fixture
def slow(page: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drawing takes so long that a test can look at it."""
    monkeypatch.setattr(page.session, "pace", 0.1)


@pytest.fixture
def http(page: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=page.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="package")
def drawn(page: Served) -> bytes:
    with httpx.Client(base_url=page.url, timeout=60) as client:
        return base64.b64decode(generate(client)["data"][0]["b64_json"])
