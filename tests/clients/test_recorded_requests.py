"""Requests as other programs send them, byte for byte but for the address.

open-webui-*.http were sent by Open WebUI 0.12.4 itself and litellm-*.http by LiteLLM 1.110.2; the others are the calls
in the sources of LibreChat and SillyTavern, made with the libraries that these import (openai, axios, form-data and
node-fetch for JavaScript).
"""

from __future__ import annotations

import base64
import io
import json
import re
from http.client import HTTPResponse
from pathlib import Path
from socket import create_connection
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.clients.conftest import ROOT

REQUESTS = sorted((ROOT / "tests" / "fixtures" / "clients").glob("*.http"))


def replayed(url: str, file: Path) -> tuple[int, bytes]:
    """Send a recorded request; returns the status and the body of the answer."""
    address = urlsplit(url)
    assert address.hostname and address.port
    head, _, body = file.read_bytes().partition(b"\r\n\r\n")
    head = re.sub(rb"(?im)^(host: )[^\r]*", rb"\g<1>" + address.netloc.encode(), head)
    with create_connection((address.hostname, address.port), timeout=120) as connection:
        connection.sendall(head + b"\r\n\r\n" + body)
        answer = HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.read()


def first_picture(answer: dict[str, Any]) -> str:
    if "images" in answer:  # AUTOMATIC1111's format
        assert json.loads(answer["info"])["infotexts"]
        return answer["images"][0]
    return answer["data"][0]["b64_json"]


@pytest.mark.parametrize("file", REQUESTS, ids=lambda file: file.stem)
def test_recorded_requests_get_what_the_program_reads(url: str, file: Path) -> None:
    status, body = replayed(url, file)
    assert status == 200, body
    if "-chat" in file.stem:
        lines = body.decode().split("\n\n")
        assert lines[-2] == "data: [DONE]" and all(json.loads(line[6:]) for line in lines[:-2] if line[:6] == "data: ")
        return
    answer = json.loads(body)
    if "-models" in file.stem:
        assert "tiny-a" in [row["id"] for row in answer["data"]]
        return
    assert Image.open(io.BytesIO(base64.b64decode(first_picture(answer)))).size == (96, 96)
