"""The mcp package as a host's client, over HTTP and over the stdin and stdout of a process that it starts."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters, stdio_client
from mcp_types import CallToolResult, ImageContent, TextContent
from PIL import Image

from tests.clients.conftest import ROOT
from tests.entrances import answer, by_a1111, by_mcp, by_openai, by_the_page, pixels

PROMPT = "a red circle"
CHECKPOINT = ROOT / "tests" / "golden" / "janus" / "janus_pro_1b" / "checkpoint"  # that of tiny-a
TOOLS = ["draw", "edit", "describe", "rank", "models"]
ERAS = ["2026-07-28", "legacy"]


def at(url: str, era: str = "auto") -> Client:
    return Client(f"{url}/mcp", mode=era)


def over_stdio(*command: str) -> Client:
    """A client of a server that it starts: a module and its options, the model of which is tiny-a's."""
    python = os.environ.get("JANUS_APP_PYTHON", sys.executable)
    args = ["-m", *command, "--model", str(CHECKPOINT)]
    return Client(stdio_client(StdioServerParameters(command=python, args=args, cwd=ROOT)))


def images(result: CallToolResult) -> list[Image.Image]:
    found = [part for part in result.content if isinstance(part, ImageContent)]
    return [Image.open(io.BytesIO(base64.b64decode(part.data))) for part in found]


def text(result: CallToolResult) -> str:
    return "\n".join(part.text for part in result.content if isinstance(part, TextContent))


def data_uri(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def test_the_tools_are_listed_with_their_fields_and_marks(url: str) -> None:
    async def ask() -> Any:
        async with at(url) as client:
            return await client.list_tools()

    tools = {tool.name: tool for tool in asyncio.run(ask()).tools}
    assert list(tools) == TOOLS
    assert [tool.annotations.read_only_hint for tool in tools.values()] == [False, False, True, True, True]
    assert tools["edit"].input_schema["required"] == ["prompt", "image"]
    assert all(field["description"] for tool in tools.values() for field in tool.input_schema["properties"].values())


@pytest.mark.parametrize("era", ERAS)
def test_a_drawing_reports_its_rows_and_an_edit_takes_the_picture(url: str, era: str) -> None:
    seen = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        seen.append((done, total))

    async def ask() -> tuple[CallToolResult, CallToolResult, CallToolResult, CallToolResult]:
        async with at(url, era) as client:
            given = {"prompt": PROMPT, "model": "tiny-a", "seed": 7, "n": 2}
            drawn = await client.call_tool("draw", given, progress_callback=progress)
            one, two = images(drawn)
            edited = await client.call_tool("edit", {"prompt": "blue", "image": data_uri(one), "model": "tiny-a"})
            told = await client.call_tool("describe", {"image": data_uri(one), "model": "tiny-a"})
            ranked = await client.call_tool("rank", {"prompt": PROMPT, "images": [data_uri(one), data_uri(two)]})
            return drawn, edited, told, ranked

    drawn, edited, told, ranked = asyncio.run(ask())
    assert not any(result.is_error for result in (drawn, edited, told, ranked)), (drawn, edited, told, ranked)
    assert [image.size for image in images(drawn)] == [(96, 96)] * 2 and "seed 8" in text(drawn)
    rows = [(done, total) for done, total in seen if total]
    assert rows == [(row, 6) for row in range(1, 7)]  # 96 pixels of 16-pixel tokens
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len(images(edited)) == 1 and text(told)
    assert len(json.loads(ranked.content[0].text)["scores"]) == 2


@pytest.mark.parametrize("era", ERAS)
def test_a_cancelled_call_frees_the_model(url: str, era: str, check_closed: Callable[[], None]) -> None:
    async def ask() -> None:
        async with at(url, era) as client:
            await cancelled(client)
            await asyncio.to_thread(check_closed)

    asyncio.run(ask())


async def cancelled(client: Client) -> None:
    """Begin a long drawing and cancel it."""
    begun = asyncio.Event()

    async def progress(done: float, total: float | None, message: str | None) -> None:
        if total:
            begun.set()

    given = {"prompt": PROMPT, "n": 16}
    task = asyncio.create_task(client.call_tool("draw", given, progress_callback=progress))
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])


def test_a_call_that_is_cancelled_over_stdio_frees_the_model_for_the_next(tmp_path: Path) -> None:
    async def ask() -> CallToolResult:
        (tmp_path / "hold").touch()
        async with over_stdio("tests.clients.serve_stdio", str(tmp_path)) as client:
            await cancelled(client)
            (tmp_path / "hold").unlink()
            return await client.call_tool("draw", {"prompt": PROMPT, "seed": 7})

    assert len(images(asyncio.run(ask()))) == 1
    assert (tmp_path / "ended").read_text("utf-8").split() == ["closed", "finished"]
    assert len(list(tmp_path.glob("*.png"))) == 1


@pytest.mark.parametrize(
    ("tool", "given", "words"),
    [
        ("describe", {"image": "/etc/passwd"}, "paths and file names are not opened"),
        ("describe", {"image": "data:image/png;base64,AAAA"}, "not a picture"),
        ("describe", {"image": "http://127.0.0.1/a.png"}, "web addresses"),
        ("draw", {"prompt": PROMPT, "n": 0}, "1 to 16"),
        ("draw", {"prompt": PROMPT, "n": 999}, "1 to 16"),
        ("draw", {"prompt": PROMPT, "size": "0x0"}, "not a size"),
        ("draw", {"prompt": PROMPT, "model": "../tiny-a"}, "no model called"),
        ("draw", {"prompt": PROMPT, "model": "janus-pro-7b"}, "not on this machine"),
        ("draw", {}, "prompt: it is missing"),
        ("rank", {"prompt": PROMPT, "images": []}, "no pictures"),
        ("rank", {"prompt": PROMPT, "images": ["x"] * 17}, "at most 16"),
    ],
)
def test_what_cannot_be_done_is_told_to_the_model_that_asked(
    url: str, tool: str, given: dict[str, Any], words: str
) -> None:
    async def ask() -> CallToolResult:
        async with at(url) as client:
            return await client.call_tool(tool, given)

    result = asyncio.run(ask())
    assert result.is_error and words in text(result), text(result)


def test_the_example_of_the_docs_draws(url: str) -> None:
    for page in ("api.md", "api.zh-CN.md"):
        text = (ROOT / "docs" / page).read_text("utf-8")
        example = re.findall(r"```py\n(.*?)```", text, flags=re.DOTALL)[-1]
        names: dict[str, Any] = {}
        exec(compile(example.replace("http://localhost:7860", url), page, "exec"), names)
        assert len(images(names["result"])) == 1


# One seed, every entrance; tests/cluster has them in front of replicas


def by_the_command_line(folder: Path) -> bytes:
    python = os.environ.get("JANUS_APP_PYTHON", sys.executable)
    options = ["--model", str(CHECKPOINT), "--prompt", PROMPT, "--seed", "7", "--guidance", "5", "--temperature", "1"]
    command = [python, "-m", "janus_app", "generate", *options, "--out", str(folder / "cli.png")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return (folder / "cli.png").read_bytes()


def test_the_same_seed_gives_the_same_pixels_by_every_entrance(url: str, tmp_path: Path) -> None:
    answer(f"{url}/sdapi/v1/options", {"sd_model_checkpoint": "tiny-a"})
    pngs = {
        "page": by_the_page(url),
        "command line": by_the_command_line(tmp_path),
        "/v1": by_openai(url),
        "/sdapi": by_a1111(url),
        "/mcp": by_mcp(at(url)),
        "mcp over stdio": by_mcp(over_stdio("janus_app", "mcp", "--out", str(tmp_path))),
    }
    drawn = {name: pixels(png) for name, png in pngs.items()}
    assert len(set(drawn.values())) == 1, {name: hash(found) for name, found in drawn.items()}
