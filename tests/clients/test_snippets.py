"""What the panel "Use from other programs" shows is run as its reader would run it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from PIL import Image

from tests.clients.conftest import App


def run(command: list[str], folder: Path, **more: str) -> str:
    environment = {**os.environ, **more}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_openai(app: App, tmp_path: Path) -> None:
    (tmp_path / "draw.py").write_text(app.snippets["openai"])
    run([sys.executable, "draw.py"], tmp_path)
    assert Image.open(tmp_path / "frogs.png").size == (96, 96)


def test_curl(app: App, tmp_path: Path) -> None:
    answer = json.loads(run(["sh", "-c", app.snippets["curl"]], tmp_path))
    assert answer["data"][0]["b64_json"]


def test_llm(app: App, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(app.snippets["llm"])
    command = [sys.executable, "-m", "llm", "-m", "janus_app", "-o", "max_tokens", "4", "--no-log", "What is it?"]
    assert run(command, tmp_path, LLM_USER_PATH=str(tmp_path)).strip()


def test_open_webui(app: App) -> None:
    """Its variables name addresses and a model that answer. The program itself was run with them by hand."""
    variables = dict(line.split("=", 1) for line in app.snippets["open-webui"].split())
    for prefix, model in (("IMAGES", "IMAGE_GENERATION_MODEL"), ("IMAGES_EDIT", "IMAGE_EDIT_MODEL")):
        headers = {"Authorization": f"Bearer {variables[f'{prefix}_OPENAI_API_KEY']}"}
        request = urllib.request.Request(
            f"{variables[f'{prefix}_OPENAI_API_BASE_URL']}/models/{variables[model]}", headers=headers
        )
        assert json.load(urllib.request.urlopen(request))["object"] == "model"


async def tools(client: Client) -> list[str]:
    async with client:
        return [tool.name for tool in (await client.list_tools()).tools]


@pytest.mark.parametrize("name", ["mcp-http", "mcp-stdio"])
def test_mcp_hosts(app: App, tmp_path: Path, name: str) -> None:
    server = json.loads(app.snippets[name])["mcpServers"]["janus_app"]
    if name == "mcp-http":
        http = create_mcp_http_client(headers=server["headers"])
        client = Client(streamable_http_client(server["url"], http_client=http))
    else:
        client = Client(stdio_client(StdioServerParameters(**server, cwd=tmp_path)))
    assert "draw" in asyncio.run(tools(client))
