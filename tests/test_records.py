"""The record in a drawn PNG: what is written is read, what is foreign or hostile is refused in a sentence."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from janus_app.errors import AppError
from janus_app.outputs.metadata import KEY, ImageMetadata, metadata_of, parameters, read_metadata, request_of
from janus_app.outputs.store import output_path, save_png
from janus_app.registry.catalog import load_catalog
from janus_app.registry.types import Variant
from janus_app.runtime.session import provenance_of
from janus_app.types import EditRequest, GenerateRequest, Picture

RECORD = ImageMetadata(
    app="0.1.0",
    model="janus-pro-1b",
    title="Janus-Pro-1B",
    repo="deepseek-ai/Janus-Pro-1B",
    revision="960ab33191f61342a4c60ae74d8dc356a39fafcb",
    family="janus",
    precision="bf16",
    device="cuda",
    verb="generate",
    prompt="A fox, “quoted”\n第二行 👩‍🚀",
    negative="fog",
    seed=4_294_967_295,
    size=(384, 384),
    created="2026-11-21T05:00:00+00:00",
    settings={"guidance": 5.0, "temperature": 1, "method": "region"},
    versions={"torch": "2.13.0", "pillow": "12.3.0"},
    image_tokens=tuple(range(0, 16384, 29)),
)


def _picture() -> Image.Image:
    return Image.linear_gradient("L").resize((48, 48)).convert("RGB")


def _png(text: Any, key: str = KEY, **how: Any) -> bytes:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(key, text if isinstance(text, str) else json.dumps(text), **how)
    buffer = io.BytesIO()
    _picture().save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def _plain() -> dict[str, Any]:
    return {"schema": 1, **asdict(RECORD)}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = save_png(tmp_path / "new" / "a.png", _picture(), RECORD)
    assert path == tmp_path / "new" / "a.png"
    assert read_metadata(path) == RECORD
    assert read_metadata(path.read_bytes()) == RECORD
    with Image.open(path) as opened:
        assert read_metadata(opened) == RECORD
        assert opened.tobytes() == _picture().tobytes()
        assert opened.text["parameters"] == parameters(RECORD)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_any_typed_text_survives(tmp_path: Path) -> None:
    odd = replace(RECORD, prompt="tab\t nul\0 escape\x1b[0m surrogate\ud800 <script>", negative="")
    assert read_metadata(save_png(tmp_path / "a.png", _picture(), odd)).prompt == odd.prompt


def test_parameters_line() -> None:
    lines = parameters(RECORD).splitlines()
    assert lines[-2] == "Negative prompt: fog"
    assert "CFG scale: 5.0" in lines[-1] and "Seed: 4294967295" in lines[-1] and "Size: 384x384" in lines[-1]


def test_nothing_is_ever_replaced(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=save_png, args=(tmp_path / "a.png", _picture(), replace(RECORD, seed=seed)))
        for seed in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == ["a-2.png", "a-3.png", "a-4.png", "a-5.png", "a-6.png", "a.png"]
    assert {read_metadata(tmp_path / name).seed for name in files} == set(range(6))


def test_output_path_stays_in_its_folder(tmp_path: Path) -> None:
    assert output_path(tmp_path, RECORD).name == "2026-11-21_janus-pro-1b_4294967295.png"
    assert output_path(tmp_path, replace(RECORD, model="../../etc/x y")).parent == tmp_path


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    program = f"""
import resource, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parent.parent)!r}]
from pathlib import Path
from test_records import RECORD, _picture
from janus_app.errors import AppError
from janus_app.outputs.store import save_png
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save_png(Path({str(tmp_path / "a.png")!r}), _picture(), RECORD)
except AppError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "no space left" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AppError, match="cannot be written"):
        save_png(tmp_path / "file" / "a.png", _picture(), RECORD)


def test_foreign_pictures(tmp_path: Path) -> None:
    for data in (_png("prompt", key="parameters"), _png("x", key="workflow")):
        with pytest.raises(AppError, match="no record of this app"):
            read_metadata(data)
    with pytest.raises(AppError, match="not a picture"):
        read_metadata(b"GIF89a nothing")
    with pytest.raises(AppError, match="no file"):
        read_metadata(tmp_path / "none.png")


HOSTILE = {
    "not json": "{",
    "a list": [],
    "deep": "[" * 100_000,
    "a huge number": json.dumps({"schema": 1})[:-1] + ', "seed": ' + "9" * 5_000 + "}",
    "nan": '{"schema": 1, "seed": NaN}',
    "other schema": {"schema": 2},
    "long": "x" * 600_000,
    "no field": {"schema": 1, "model": "a"},
    "path as model": {**_plain(), "model": "../secret"},
    "absolute model": {**_plain(), "model": "/etc"},
    "home model": {**_plain(), "model": "~root"},
    "verb": {**_plain(), "verb": "__class__"},
    "precision": {**_plain(), "precision": "int1"},
    "escape": {**_plain(), "revision": "\x1b[2J"},
    "true seed": {**_plain(), "seed": True},
    "float seed": {**_plain(), "seed": 1.5},
    "negative seed": {**_plain(), "seed": -1},
    "text token": {**_plain(), "image_tokens": ["1"]},
    "negative token": {**_plain(), "image_tokens": [-1]},
    "huge token": {**_plain(), "image_tokens": [2**40]},
    "many tokens": {**_plain(), "image_tokens": [1] * 70_000},
    "tokens as text": {**_plain(), "image_tokens": "123"},
    "size": {**_plain(), "size": [384]},
    "date": {**_plain(), "created": "../../x"},
    "settings list": {**_plain(), "settings": [1]},
    "settings nested": {**_plain(), "settings": {"guidance": [1]}},
    "settings name": {**_plain(), "settings": {"a b": 1}},
    "settings infinite": {**_plain(), "settings": {"guidance": 1e999}},
    "long prompt": {**_plain(), "prompt": "x" * 200_000},
    "long source prompt": {**_plain(), "source_prompt": "x" * 200_000},
    "source prompt": {**_plain(), "source_prompt": 5},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_records_are_refused_in_a_sentence(kind: str) -> None:
    with pytest.raises(AppError, match="record in the picture cannot be used"):
        read_metadata(_png(HOSTILE[kind]))


def test_a_text_bomb_is_refused() -> None:
    bomb = _png("x" * 50_000_000, zip=True)
    assert len(bomb) < 100_000
    with pytest.raises(AppError):
        read_metadata(bomb)


# ---- which settings a record holds

LATENT = Picture(_picture(), 11)
TOKENS = Picture(_picture(), 11, (1, 2, 3))
VARIANT = load_catalog().default()
FLOW = load_catalog()["janusflow-1.3b"]


def metadata(picture: Picture, request: GenerateRequest | EditRequest, variant: Variant) -> ImageMetadata:
    return metadata_of(picture, provenance_of(variant, "fp32", "cpu:0", request))


EDIT = EditRequest(
    "a blue cat",
    _picture(),
    Image.new("L", (48, 48), 255),
    strength=0.4,
    temperature=0.3,
    steps=12,
    solver="ab2",
    guidance=2,
    image_guidance=1.25,
    guidance_interval=(0.25, 0.75),
)


def settings_of(request: GenerateRequest | EditRequest, picture: Picture) -> dict[str, Any]:
    return dict(metadata(picture, request, VARIANT if picture.image_tokens else FLOW).settings)


def test_a_drawing_records_what_its_model_read() -> None:
    asked = GenerateRequest("a cat", guidance=2, temperature=0.7, steps=12, solver="heun")
    assert settings_of(asked, TOKENS) == {"guidance": 2, "temperature": 0.7}
    assert settings_of(asked, LATENT) == {"guidance": 2, "steps": 12, "solver": "heun"}


def test_turbo_is_recorded_where_tokens_were_drawn_and_asked_for_again() -> None:
    asked = GenerateRequest("a cat", turbo=True)
    assert settings_of(asked, TOKENS)["turbo"] is True and "turbo" not in settings_of(asked, LATENT)
    assert "turbo" not in settings_of(replace(asked, turbo=False), TOKENS)
    for request, picture, again in ((asked, TOKENS, True), (replace(asked, turbo=False), TOKENS, False)):
        assert request_of(metadata(picture, request, VARIANT)).turbo is again


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("region", {"temperature": 0.3}),
        ("variation", {"temperature": 0.3, "strength": 0.4}),
        ("masked", {"steps": 12, "solver": "ab2", "guidance_start": 0.25, "guidance_end": 0.75}),
        (
            "image to image",
            {"strength": 0.4, "steps": 12, "solver": "ab2", "guidance_start": 0.25, "guidance_end": 0.75},
        ),
        (
            "flowedit",
            {"strength": 0.4, "image_guidance": 1.25, "steps": 12, "guidance_start": 0.25, "guidance_end": 0.75},
        ),
    ],
)
def test_an_edit_records_what_its_method_read(method: str, expected: dict[str, Any]) -> None:
    picture = TOKENS if "temperature" in expected else LATENT
    assert settings_of(replace(EDIT, method=method), picture) == {"method": method, "guidance": 2} | expected


def test_a_flow_drawing_is_asked_for_again_as_it_was(tmp_path: Path) -> None:
    asked = GenerateRequest(
        "a cat", "fog", guidance=3, seed=11, steps=7, solver="ab2", guidance_interval=(0.1, 0.6), temperature=1.0
    )
    file = save_png(tmp_path / "a.png", LATENT.image, metadata(LATENT, asked, FLOW))
    assert request_of(read_metadata(file)) == asked
    whole = replace(asked, guidance_interval=(0.0, 1.0))
    file = save_png(tmp_path / "b.png", LATENT.image, metadata(LATENT, whole, FLOW))
    assert request_of(read_metadata(file)) == whole


def test_the_source_prompt_is_kept_and_older_records_do_without(tmp_path: Path) -> None:
    picture = replace(LATENT, source_prompt="a red\ncat")
    record = metadata(picture, replace(EDIT, method="flowedit"), FLOW)
    file = save_png(tmp_path / "a.png", picture.image, record)
    assert read_metadata(file).source_prompt == "a red\ncat"
    assert "Source prompt: a red" in parameters(record)
    older = _plain()
    del older["source_prompt"]
    assert read_metadata(_png(older)) == RECORD


@pytest.mark.parametrize(
    "wrong", [{"solver": "rk4"}, {"steps": 10_000}, {"guidance_start": 0.9, "guidance_end": 0.1}, {"solver": 3}]
)
def test_absurd_flow_settings_of_a_record_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(AppError):
        request_of(replace(RECORD, settings=wrong))


def test_an_instruction_records_what_its_model_has() -> None:
    """The same way of editing is read by models that draw tokens and by MetaQuery, whose solver is its own."""
    metaquery = load_catalog()["metaquery-b"]
    asked = replace(EDIT, method="instruct", guidance=4)
    mine = metadata(LATENT, asked, metaquery).settings
    assert mine == {"method": "instruct", "guidance": 4, "image_guidance": 1.25, "steps": 12}
    drawn = metadata(LATENT, GenerateRequest("a cat", guidance=4, steps=12), metaquery).settings
    assert drawn == {"guidance": 4, "steps": 12}
    assert metadata(TOKENS, asked, VARIANT).settings == {
        "method": "instruct",
        "guidance": 4,
        "image_guidance": 1.25,
        "temperature": 0.3,
    }
