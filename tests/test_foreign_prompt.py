"""Prompt and seed from pictures as other programs save them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from janus_app.errors import AppError
from janus_app.outputs import foreign_prompt
from janus_app.outputs.foreign_prompt import COMFY_UI, WEB_UI, ForeignPrompt, read_foreign

SETTINGS = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 512x512, Model: v1-5, Version: v1.9.4"
WORDS = f"two green frogs,\na pond\nNegative prompt: blur,\nugly\n{SETTINGS}"
FROGS = ForeignPrompt(WEB_UI, "two green frogs,\na pond", "blur,\nugly", 42)


def png(**texts: str) -> bytes:
    chunks = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        chunks.add_itxt(key, text, zip=True)
    return saved("PNG", pnginfo=chunks)


def saved(format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format, **options)
    return buffer.getvalue()


def exif(tags: dict[int, Any]) -> bytes:
    data = Image.Exif()
    for tag, value in tags.items():
        if tag == 0x9286:
            data.get_ifd(0x8769)[tag] = value
        else:
            data[tag] = value
    return data.tobytes()


def graph(**nodes: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A graph of ComfyUI as it ran; node "n3" has the id "3"."""
    return {name[1:]: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


USUAL = graph(
    n3=("KSampler", {"seed": 7, "steps": 20, "positive": ["6", 0], "negative": ["7", 0], "model": ["4", 0]}),
    n4=("CheckpointLoaderSimple", {"ckpt_name": "sd.safetensors"}),
    n6=("CLIPTextEncode", {"text": "two green frogs", "clip": ["4", 1]}),
    n7=("CLIPTextEncode", {"text": "blur", "clip": ["4", 1]}),
)
FLUX = graph(
    n5=("SamplerCustomAdvanced", {"noise": ["25", 0], "guider": ["22", 0], "sampler": ["16", 0]}),
    n6=("CLIPTextEncode", {"text": ["9", 0], "clip": ["11", 0]}),
    n9=("PrimitiveString", {"value": "two green frogs"}),
    n22=("BasicGuider", {"model": ["30", 0], "conditioning": ["26", 0]}),
    n25=("RandomNoise", {"noise_seed": 8}),
    n26=("FluxGuidance", {"guidance": 3.5, "conditioning": ["6", 0]}),
)
CONTROLLED = graph(
    n1=("CLIPTextEncode", {"text": "two green frogs"}),
    n2=("CLIPTextEncode", {"text": "blur"}),
    n3=("ControlNetApplyAdvanced", {"strength": 1, "positive": ["1", 0], "negative": ["2", 0]}),
    n4=("KSamplerAdvanced", {"noise_seed": ["5", 0], "positive": ["3", 0], "negative": ["3", 1]}),
    n5=("PrimitiveInt", {"value": 9}),
)
ONE_NODE = graph(n3=("JanusImageGeneration", {"prompt": "two green frogs", "seed": 666666666666666, "top_p": 0.95}))
SCREEN = {
    "nodes": [
        {"id": 3, "type": "KSampler", "widgets_values": [10, "randomize", 20, 8, "euler"],
         "inputs": [{"name": "positive", "link": 1}, {"name": "negative", "link": 2}, {"name": "model", "link": None}]},
        {"id": 6, "type": "CLIPTextEncode", "widgets_values": ["two green frogs"], "inputs": []},
        {"id": 7, "type": "CLIPTextEncode", "widgets_values": ["blur"]},
        {"id": 8, "type": "Note", "widgets_values": ["Read me"]},
    ],
    "links": [[1, 6, 0, 3, 0, "CONDITIONING"], [2, 7, 0, 3, 1, "CONDITIONING"]],
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le"])
@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_prompt_of_the_web_ui_is_read_from_a_comment(format: str, encoding: str) -> None:
    comment = b"UNICODE\0" + WORDS.encode(encoding)
    assert read_foreign(saved(format, exif=exif({0x9286: comment}))) == FROGS
    chinese = f"两只青蛙\n{SETTINGS}"
    comment = b"UNICODE\0" + chinese.encode(encoding)
    assert read_foreign(saved(format, exif=exif({0x9286: comment}))).prompt == "两只青蛙"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (WORDS, FROGS),
        (f"two frogs\n{SETTINGS}", ForeignPrompt(WEB_UI, "two frogs", "", 42)),
        ("two frogs", ForeignPrompt(WEB_UI, "two frogs", "", None)),
        (f"two frogs\r\n{SETTINGS}\nTemplate: frogs", ForeignPrompt(WEB_UI, "two frogs", "", 42)),
        ("two frogs\nSteps: 20, Seed: 99999999999999999999999", ForeignPrompt(WEB_UI, "two frogs", "", None)),
    ],
)
def test_prompt_of_the_web_ui_is_read_from_a_png(text: str, expected: ForeignPrompt) -> None:
    assert read_foreign(png(parameters=text)) == expected


@pytest.mark.parametrize(
    ("nodes", "negative", "seed"),
    [(USUAL, "blur", 7), (FLUX, "", 8), (CONTROLLED, "blur", 9), (ONE_NODE, "", 666666666666666)],
)
def test_prompt_of_comfy_ui_is_found_through_its_graph(nodes: dict[str, Any], negative: str, seed: int) -> None:
    expected = ForeignPrompt(COMFY_UI, "two green frogs", negative, seed)
    assert read_foreign(png(prompt=json.dumps(nodes), workflow="{}")) == expected
    in_make = exif({0x010F: "workflow:{}", 0x0110: "prompt:" + json.dumps(nodes)})
    assert read_foreign(saved("WEBP", exif=in_make)) == expected


def test_prompt_of_comfy_ui_is_found_on_its_screen_where_nothing_ran() -> None:
    assert read_foreign(png(workflow=json.dumps(SCREEN))) == ForeignPrompt(COMFY_UI, "two green frogs", "blur", 10)


def test_graph_of_many_samplers_and_long_chains_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    size, looked = 3000, 0
    nodes = {f"s{i}": {"inputs": {"seed": 1, "positive": ["0", 0], "negative": ["0", 0]}} for i in range(size)}
    nodes |= {str(i): {"inputs": {"text": [str(i + 1), 0]}} for i in range(size)}
    first = foreign_prompt._first

    def counted(inputs: Any, keys: tuple[str, ...]) -> Any:
        nonlocal looked
        looked += 1
        assert looked < 400_000
        return first(inputs, keys)

    monkeypatch.setattr(foreign_prompt, "_first", counted)
    with pytest.raises(AppError) as refused:
        read_foreign(png(prompt=json.dumps(nodes)))
    assert refused.value.code == "record_missing"


ENDLESS = graph(
    n1=("KSampler", {"seed": ["1", 0], "positive": ["2", 0]}), n2=("Loop", {"text": ["2", 0], "positive": ["1", 0]})
)


@pytest.mark.parametrize(
    "picture",
    [
        saved("PNG"),
        saved("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
        saved("JPEG", exif=exif({0x010F: "Canon", 0x9286: b"ASCII\0\0\0At the beach"})),
        png(parameters=""),
        png(prompt="[" * 50_000),
        png(prompt='{"3": 5, "4": {"inputs": 1}}'),
        png(prompt=json.dumps(ENDLESS)),
        png(workflow='{"nodes": [7, {"id": 1}], "links": [3]}'),
        png(prompt="[]", workflow='"text"'),
    ],
)
def test_picture_without_a_prompt_is_refused(picture: bytes) -> None:
    with pytest.raises(AppError) as refused:
        read_foreign(picture)
    assert refused.value.code == "record_missing"
