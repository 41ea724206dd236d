"""The entrances of a running app, each as its programs use it: one drawing as a PNG. Needs only Pillow and `mcp`."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import urllib.request
from typing import Any

from mcp import Client
from mcp_types import CallToolResult, ImageContent
from PIL import Image

PROMPT, SEED = "a red circle", 7
SEEDED = {"prompt": PROMPT, "seed": SEED}


def answer(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=120))


def by_the_page(url: str) -> bytes:
    """The page's public endpoint, which draws as its button does."""
    endpoint = f"{url}/gradio_api/call/v2/draw"
    number = answer(endpoint, {**SEEDED, "count": 1, "new_seed": False})["event_id"]
    lines = urllib.request.urlopen(f"{endpoint}/{number}", timeout=120).read().decode().splitlines()
    (result,) = json.loads(lines[lines.index("event: complete") + 1].removeprefix("data: "))
    return urllib.request.urlopen(result["pictures"][0]["file"]["url"]).read()


def by_openai(url: str, **more: Any) -> bytes:
    return base64.b64decode(answer(f"{url}/v1/images/generations", SEEDED | more)["data"][0]["b64_json"])


def by_a1111(url: str) -> bytes:
    return base64.b64decode(answer(f"{url}/sdapi/v1/txt2img", SEEDED)["images"][0])


def by_mcp(client: Client) -> bytes:
    async def ask() -> CallToolResult:
        async with client:
            return await client.call_tool("draw", {**SEEDED, "guidance": 5, "temperature": 1})

    (picture,) = (part.data for part in asyncio.run(ask()).content if isinstance(part, ImageContent))
    return base64.b64decode(picture)


def pixels(png: bytes) -> bytes:
    return Image.open(io.BytesIO(png)).tobytes()
