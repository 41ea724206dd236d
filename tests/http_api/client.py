"""How the tests of the API ask it, and read its answers."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Generator
from typing import Any

import httpx
from PIL import Image

from janus_app.server.api.app import api_app
from janus_app.server.api.context import ApiContext
from janus_app.server.api.gate import Access, ApiGate

PROMPT = "a red circle"


def generate(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/images/generations", json={"prompt": PROMPT, "model": "tiny-a", "seed": 7} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def picture(item: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    (error,) = answer.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    return error


def events(response: httpx.Response) -> Generator[dict[str, Any]]:
    """The events of a stream. Dropping this iterator closes the connection: who wants to go on keeps it."""
    for line in response.iter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def png_of(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def left_half(mode: str) -> bytes:
    """A mask of the left half: transparent there, as OpenAI's clients send it, or white, as all others do."""
    keep, redraw = ((0, 0, 0, 255), (0, 0, 0, 0)) if mode == "RGBA" else (0, 255)
    mask = Image.new(mode, (96, 96), keep)
    mask.paste(redraw, (0, 0, 48, 96))
    return png_of(mask)


def edit(http: httpx.Client, files: Any, route: str = "edits", **fields: Any) -> httpx.Response:
    data = {"prompt": "a blue square", "model": "tiny-a", "seed": "3"} | fields
    return http.post(f"/v1/images/{route}", data=data, files=files)


def chat(http: httpx.Client, content: Any = "What is it?", **fields: Any) -> httpx.Response:
    body = {"model": "tiny-a", "messages": [{"role": "user", "content": content}], "max_tokens": 8, "seed": 1}
    return http.post("/v1/chat/completions", json=body | fields)


def with_picture(text: str, content: bytes) -> list[dict[str, Any]]:
    uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": uri}}]


def asgi(context: ApiContext, access: Access) -> httpx.AsyncClient:
    """The API without the page in front of it."""

    async def page(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the request went to the page")

    app = ApiGate(page, api_app(context), access)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
