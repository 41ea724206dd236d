"""The openai package against the app, as its users write it."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import ImagesResponse
from PIL import Image

from tests.clients.conftest import App

PROMPT = "a red circle"
QUESTION: list[Any] = [{"role": "user", "content": "What is it?"}]


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)


def pixels(picture: Any) -> bytes:
    return Image.open(io.BytesIO(base64.b64decode(picture.b64_json))).tobytes()


def test_models_and_pictures_are_what_the_package_expects(client: openai.OpenAI) -> None:
    assert "tiny-a" in [model.id for model in client.models.list()]
    answer = client.images.generate(model="tiny-a", prompt=PROMPT, n=2, size="1024x1024", extra_body={"seed": 7})
    assert ImagesResponse.model_validate(answer.model_dump()).data and len(answer.data) == 2
    assert answer.data[1].janus_app["seed"] == 8


def test_a_stream_of_partial_pictures_ends_with_the_picture(client: openai.OpenAI) -> None:
    kinds = []
    with client.images.generate(
        model="tiny-a", prompt=PROMPT, stream=True, partial_images=3, extra_body={"seed": 7}
    ) as stream:
        for event in stream:
            kinds.append(event.type)
    assert kinds[-1] == "image_generation.completed"
    whole = client.images.generate(model="tiny-a", prompt=PROMPT, extra_body={"seed": 7})
    assert pixels(event) == pixels(whole.data[0])


def test_edits_with_a_mask_and_variations(client: openai.OpenAI) -> None:
    drawn = base64.b64decode(client.images.generate(model="tiny-a", prompt=PROMPT).data[0].b64_json)
    mask, content = Image.new("RGBA", (96, 96), (0, 0, 0, 0)), io.BytesIO()
    mask.save(content, "PNG")
    edited = client.images.edit(model="tiny-a", image=io.BytesIO(drawn), mask=content.getvalue(), prompt="blue")
    assert pixels(edited.data[0])
    assert client.images.edit(model="tiny-a", image=[("a.png", drawn, "image/png")], prompt="blue").data
    with pytest.raises(openai.BadRequestError, match="one picture at a time"):
        client.images.edit(model="tiny-a", image=[drawn, drawn], prompt="blue")


def test_chat_whole_and_streamed_and_about_a_picture(client: openai.OpenAI) -> None:
    drawn = client.images.generate(model="tiny-a", prompt=PROMPT).data[0].b64_json
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{drawn}"}}
    asked: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}]
    settings: dict[str, Any] = {"model": "tiny-a", "messages": asked, "seed": 1, "max_completion_tokens": 8}
    whole = client.chat.completions.create(**settings)
    chunks = list(client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert whole.choices[0].message.content == text and whole.usage == chunks[-1].usage


def test_failures_are_the_packages_own_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(model="dall-e-3", prompt=PROMPT)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError):
        client.images.generate(model="tiny-a", prompt=PROMPT, n=99)
    with pytest.raises(openai.ConflictError, match="download"):
        client.with_options(max_retries=2).images.generate(model="janus-pro-7b", prompt=PROMPT)


def test_a_time_out_frees_the_model(client: openai.OpenAI, app: App, check_closed: Callable[[], None]) -> None:
    for seconds in (1, 10, 60):  # on a busy machine a job does not begin within the first ones
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=seconds).images.generate(model="tiny-a", prompt=PROMPT, n=16)
        if (app.folder / "begun").exists():
            break
    check_closed()


def test_async_clients_share_one_line(url: str) -> None:
    async def both() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
            draw = client.images.generate(model="tiny-a", prompt=PROMPT, extra_body={"seed": 7})
            talk = client.chat.completions.create(model="tiny-b", messages=QUESTION, max_tokens=4)
            again = client.images.generate(model="tiny-a", prompt=PROMPT, extra_body={"seed": 7})
            return list(await asyncio.gather(draw, talk, again))

    first, answer, again = asyncio.run(both())
    assert pixels(first.data[0]) == pixels(again.data[0]) and answer.model == "tiny-b"


def test_the_example_of_the_docs_draws_two_pictures(url: str) -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "api.md"
    example, _ = re.findall(r"```py\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example.replace("http://localhost:7860", url), page.name, "exec"), names)
    assert len(names["answer"].data) == 2
