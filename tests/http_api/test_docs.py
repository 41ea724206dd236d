"""The commands of docs/api.md: a shell runs each of them, and each route of the API has one."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import httpx
import pytest
from starlette.routing import Match, Route

from janus_app.outputs.store import OutputStore
from janus_app.server.api.app import api_app
from janus_app.server.api.context import ApiContext
from janus_app.types import drain
from tests.http_api.client import left_half
from tests.page_server import Served

ROOT = Path(__file__).parent.parent.parent
DOCS = [ROOT / "docs" / "api.md", ROOT / "docs" / "api.zh-CN.md"]


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if "curl" in line and "localhost" in line]


def requests(command: str) -> Iterator[tuple[str, str]]:
    """(method, path) of what a command sends."""
    for call in command.split("curl ")[1:]:
        method = "POST" if re.search(r" -(d|F|X POST)", call) else "GET"
        for address in re.findall(r"localhost:7860(/[^\s\"')]*)", call):
            parts = [part.strip("{}").split(",") for part in re.split(r"({[^}]*})", address)]
            yield from ((method, "".join(path)) for path in product(*parts))
    if "response_format" in command:  # the address is one that the app gave
        yield "GET", "/v1/images/files/name.png"


def test_both_languages_show_the_same_commands() -> None:
    assert commands(DOCS[0]) == commands(DOCS[1])


def test_every_route_has_a_command(page: Served, tmp_path: Path) -> None:
    shown = [found for command in commands(DOCS[0]) for found in requests(command)]
    for route in api_app(ApiContext(page.session, OutputStore(tmp_path))).routes:
        assert isinstance(route, Route)
        scopes = [{"type": "http", "method": method, "path": path} for method, path in shown]
        assert Match.FULL in [route.matches(scope)[0] for scope in scopes], f"no command for {route}"


@pytest.fixture
def borrowed(page: Served) -> Iterator[Served]:
    """The page, which has its model again at the end."""
    yield page
    drain(page.session.load("tiny-a"))


def test_every_command_is_answered(borrowed: Served, http: httpx.Client, drawn: bytes, tmp_path: Path) -> None:
    (tmp_path / "frogs.png").write_bytes(drawn)
    (tmp_path / "mask.png").write_bytes(left_half("RGBA"))
    for command in commands(DOCS[0]):
        line = command.replace("curl ", "curl --fail-with-body ")
        line = line.replace("localhost:7860", borrowed.url.removeprefix("http://"))
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{line}\n{done.stdout}"
        assert ("b64_json" if re.search("/images/(?!.*response_format)", line) else "") in done.stdout
        assert done.stdout or " -o " in line
    assert borrowed.session.state.variant_id == "janus-embedded"
