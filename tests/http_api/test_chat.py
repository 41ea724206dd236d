"""Conversations in OpenAI's format."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from janus_app.server.api.chat import StopFilter
from tests.http_api.client import PROMPT, chat, error_of, events, with_picture


def test_a_streamed_answer_about_a_picture_is_the_whole_answer_in_parts(http: httpx.Client, drawn: bytes) -> None:
    question = with_picture("What is it?", drawn)
    whole = chat(http, question).json()
    answer = chat(http, question, stream=True, stream_options={"include_usage": True})
    chunks = list(events(answer))
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    (choice,) = whole["choices"]
    assert choice["message"]["content"] == text and text
    assert choice["finish_reason"] == chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert whole["usage"] == chunks[-1]["usage"] and whole["usage"]["completion_tokens"] == 8
    assert whole["usage"]["prompt_tokens"] > chat(http).json()["usage"]["prompt_tokens"]
    assert answer.text.rstrip().endswith("data: [DONE]")


def test_a_stop_string_ends_the_answer_before_it(http: httpx.Client) -> None:
    text = chat(http, max_tokens=16).json()["choices"][0]["message"]["content"]
    stop = text[3:6]
    cut = chat(http, max_tokens=16, stop=[stop, "never"]).json()["choices"][0]
    assert cut["message"]["content"] == text[: text.find(stop)] and cut["finish_reason"] == "stop"


def test_stop_strings_are_found_across_parts_and_nothing_else_is_lost() -> None:
    filter = StopFilter(("END", "EX"))
    assert [filter.feed(part) for part in ("a E", "N", "Eb E", "ND c")] == ["a ", "", "ENEb ", ""]
    assert filter.stopped


def test_a_picture_drawn_in_the_chat_is_the_one_of_the_same_seed(http: httpx.Client, drawn: bytes) -> None:
    message = chat(http, f"/draw {PROMPT}", seed=7).json()["choices"][0]["message"]
    (image,) = message["images"]
    found = Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].partition(",")[2])))
    assert found.tobytes() == Image.open(io.BytesIO(drawn)).tobytes()
    edited = chat(http, with_picture("blue", drawn), modalities=["image", "text"], stream=True)
    deltas = [chunk["choices"][0]["delta"] for chunk in events(edited)]
    assert [len(delta["images"]) for delta in deltas if "images" in delta] == [1]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"n": 2}, "api_unsupported"),
        ({"tools": [{"type": "function"}], "tool_choice": "required"}, "api_unsupported"),
        ({"response_format": {"type": "json_object"}}, "api_unsupported"),
        ({"messages": []}, "api_field_wrong"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "question_missing"),
        ({"messages": [{"role": "user", "content": "/draw"}]}, "draw_command_empty"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "api_unsupported"),
        ({"max_tokens": 0}, "api_field_wrong"),
        ({"temperature": 9}, "number_out_of_range"),
        ({"temperature": 1e999}, "api_field_wrong"),
        ({"stop": list("abcde")}, "api_stops_too_many"),
        ({"stop": "a" * 501}, "api_stops_too_many"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}] * 17}]},
            "api_pictures_too_many",
        ),
        (
            {"messages": [{"role": "user", "content": "/draw"}, {"role": "system", "content": "Be brief."}]},
            "draw_command_empty",
        ),
    ],
)
def test_bad_chats_are_refused(http: httpx.Client, fields: dict[str, Any], code: str) -> None:
    body = {"messages": [{"role": "user", "content": "What is it?"}], "model": "tiny-a"} | fields
    content = json.dumps(body)  # unlike httpx, it writes infinity
    assert error_of(http.post("/v1/chat/completions", content=content), 400)["code"] == code


def test_messages_of_known_programs_are_read(http: httpx.Client) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": [{"type": "text", "text": "What can you do?"}]},
    ]
    for fields in (
        {"stream": False, "max_completion_tokens": 4},
        {"tools": [{"type": "function"}], "tool_choice": "auto", "n": 1, "top_p": 0, "max_tokens": 4},
    ):
        assert chat(http, messages=messages, **fields).json()["choices"][0]["message"]["role"] == "assistant"
