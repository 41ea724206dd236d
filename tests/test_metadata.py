"""The metadata in a drawn picture: it is read back as it was written, and malformed metadata is refused."""

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
from PIL import ExifTags, Image, ImageChops, PngImagePlugin

from janus_app.errors import AppError
from janus_app.outputs.metadata import KEY, ImageMetadata, metadata_of, parameters, read_metadata, request_of
from janus_app.outputs.store import output_path, save_picture, save_png
from janus_app.registry.catalog import load_catalog
from janus_app.registry.types import Variant
from janus_app.runtime.session import provenance_of
from janus_app.types import EditRequest, GenerateRequest, Picture

METADATA = ImageMetadata(
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


@pytest.mark.parametrize("kind", ["jpg", "JPEG", "webp"])
def test_other_kinds_of_picture_carry_the_same_metadata(tmp_path: Path, kind: str) -> None:
    """The record in XMP for this app, the text of other programs in EXIF's UserComment."""
    nasty = replace(METADATA, prompt="<a> & </janus_app:record> \0 \udc80 “红” 👩‍🚀 &lt;", negative="]]>")
    file = save_picture(tmp_path / f"a.{kind}", _picture(), nasty)
    assert file == tmp_path / f"a.{kind}" and read_metadata(file) == nasty
    with Image.open(file) as picture:
        assert picture.format == {"jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}[kind.lower()]
        comment = picture.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
        difference = ImageChops.difference(picture.convert("RGB"), _picture())
    assert comment.removeprefix(b"UNICODE\0").decode("utf-16-be") == parameters(nasty)
    assert max(high for _, high in difference.getextrema()) <= (0 if kind == "webp" else 6)
    again = save_picture(file, _picture(), nasty)
    assert again.name == f"a-2.{kind}", "an existing file was replaced"


def test_metadata_too_long_for_a_jpeg_are_kept_in_a_png(tmp_path: Path) -> None:
    long = replace(METADATA, prompt="红" * 8_000, negative="绿" * 8_000)
    file = save_picture(tmp_path / "a.jpg", _picture(), long)
    assert file == tmp_path / "a.png" and read_metadata(file) == long
    assert read_metadata(save_picture(tmp_path / "a.webp", _picture(), long)) == long


@pytest.mark.parametrize(
    "packet", [b"<x/>", b"<janus_app:record>{}", b"<janus_app:record>{</janus_app:record>", b"\xff\xfe"]
)
def test_foreign_xmp_is_no_metadata_of_ours(packet: bytes) -> None:
    buffer = io.BytesIO()
    _picture().save(buffer, "JPEG", xmp=packet)
    with pytest.raises(AppError):
        read_metadata(buffer.getvalue())


def _as_json() -> dict[str, Any]:
    return {"schema": 1, **asdict(METADATA)}


def test_saved_metadata_is_read_back(tmp_path: Path) -> None:
    path = save_png(tmp_path / "new" / "a.png", _picture(), METADATA)
    assert path == tmp_path / "new" / "a.png"
    assert read_metadata(path) == METADATA
    assert read_metadata(path.read_bytes()) == METADATA
    with Image.open(path) as opened:
        assert read_metadata(opened) == METADATA
        assert opened.tobytes() == _picture().tobytes()
        assert opened.text["parameters"] == parameters(METADATA)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_prompt_of_any_characters_is_read_back(tmp_path: Path) -> None:
    odd = replace(METADATA, prompt="tab\t nul\0 escape\x1b[0m surrogate\ud800 <script>", negative="")
    assert read_metadata(save_png(tmp_path / "a.png", _picture(), odd)).prompt == odd.prompt


def test_parameters_text() -> None:
    lines = parameters(METADATA).splitlines()
    assert lines[-2] == "Negative prompt: fog"
    assert "CFG scale: 5.0" in lines[-1] and "Seed: 4294967295" in lines[-1] and "Size: 384x384" in lines[-1]


def test_save_never_replaces_a_file(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=save_png, args=(tmp_path / "a.png", _picture(), replace(METADATA, seed=seed)))
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
    assert output_path(tmp_path, METADATA).name == "2026-11-21_janus-pro-1b_4294967295.png"
    assert output_path(tmp_path, replace(METADATA, model="../../etc/x y")).parent == tmp_path


def test_full_disk_is_an_app_error_and_leaves_no_file(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    program = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from pathlib import Path
from tests.test_metadata import METADATA, _picture
from janus_app.errors import AppError
from janus_app.outputs.store import save_png
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save_png(Path({str(tmp_path / "a.png")!r}), _picture(), METADATA)
except AppError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "no space left" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_created_is_an_app_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AppError, match="cannot be written"):
        save_png(tmp_path / "file" / "a.png", _picture(), METADATA)


def test_pictures_without_metadata_are_refused(tmp_path: Path) -> None:
    for data in (_png("prompt", key="parameters"), _png("x", key="workflow")):
        with pytest.raises(AppError, match="no metadata of this app"):
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
    "path as model": {**_as_json(), "model": "../secret"},
    "absolute model": {**_as_json(), "model": "/etc"},
    "home model": {**_as_json(), "model": "~root"},
    "verb": {**_as_json(), "verb": "__class__"},
    "precision": {**_as_json(), "precision": "int1"},
    "escape": {**_as_json(), "revision": "\x1b[2J"},
    "true seed": {**_as_json(), "seed": True},
    "float seed": {**_as_json(), "seed": 1.5},
    "negative seed": {**_as_json(), "seed": -1},
    "text token": {**_as_json(), "image_tokens": ["1"]},
    "negative token": {**_as_json(), "image_tokens": [-1]},
    "huge token": {**_as_json(), "image_tokens": [2**40]},
    "many tokens": {**_as_json(), "image_tokens": [1] * 70_000},
    "tokens as text": {**_as_json(), "image_tokens": "123"},
    "size": {**_as_json(), "size": [384]},
    "date": {**_as_json(), "created": "../../x"},
    "settings list": {**_as_json(), "settings": [1]},
    "settings nested": {**_as_json(), "settings": {"guidance": [1]}},
    "settings name": {**_as_json(), "settings": {"a b": 1}},
    "settings infinite": {**_as_json(), "settings": {"guidance": 1e999}},
    "long prompt": {**_as_json(), "prompt": "x" * 200_000},
    "long source prompt": {**_as_json(), "source_prompt": "x" * 200_000},
    "source prompt": {**_as_json(), "source_prompt": 5},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_malformed_metadata_is_refused(kind: str) -> None:
    with pytest.raises(AppError, match="metadata of the picture cannot be used"):
        read_metadata(_png(HOSTILE[kind]))


def test_decompression_bomb_in_a_text_chunk_is_refused() -> None:
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


def recorded_settings(request: GenerateRequest | EditRequest, picture: Picture) -> dict[str, Any]:
    return dict(metadata(picture, request, VARIANT if picture.image_tokens else FLOW).settings)


def test_settings_of_a_generated_picture_are_those_its_model_read() -> None:
    asked = GenerateRequest("a cat", guidance=2, temperature=0.7, steps=12, solver="heun")
    assert recorded_settings(asked, TOKENS) == {"guidance": 2, "temperature": 0.7}
    assert recorded_settings(asked, LATENT) == {"guidance": 2, "steps": 12, "solver": "heun"}


def test_turbo_is_recorded_and_requested_again_for_token_models_only() -> None:
    asked = GenerateRequest("a cat", turbo=True)
    assert recorded_settings(asked, TOKENS)["turbo"] is True and "turbo" not in recorded_settings(asked, LATENT)
    assert "turbo" not in recorded_settings(replace(asked, turbo=False), TOKENS)
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
def test_settings_of_an_edited_picture_are_those_its_method_read(method: str, expected: dict[str, Any]) -> None:
    picture = TOKENS if "temperature" in expected else LATENT
    assert recorded_settings(replace(EDIT, method=method), picture) == {"method": method, "guidance": 2} | expected


def test_request_of_a_flow_picture_equals_the_original(tmp_path: Path) -> None:
    asked = GenerateRequest(
        "a cat", "fog", guidance=3, seed=11, steps=7, solver="ab2", guidance_interval=(0.1, 0.6), temperature=1.0
    )
    file = save_png(tmp_path / "a.png", LATENT.image, metadata(LATENT, asked, FLOW))
    assert request_of(read_metadata(file)) == asked
    whole = replace(asked, guidance_interval=(0.0, 1.0))
    file = save_png(tmp_path / "b.png", LATENT.image, metadata(LATENT, whole, FLOW))
    assert request_of(read_metadata(file)) == whole


def test_source_prompt_is_read_back_and_optional(tmp_path: Path) -> None:
    picture = replace(LATENT, source_prompt="a red\ncat")
    record = metadata(picture, replace(EDIT, method="flowedit"), FLOW)
    file = save_png(tmp_path / "a.png", picture.image, record)
    assert read_metadata(file).source_prompt == "a red\ncat"
    assert "Source prompt: a red" in parameters(record)
    older = _as_json()
    del older["source_prompt"]
    assert read_metadata(_png(older)) == METADATA


@pytest.mark.parametrize(
    "wrong", [{"solver": "rk4"}, {"steps": 10_000}, {"guidance_start": 0.9, "guidance_end": 0.1}, {"solver": 3}]
)
def test_request_with_settings_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(AppError):
        request_of(replace(METADATA, settings=wrong))


def test_settings_of_an_instruction_are_those_its_model_has() -> None:
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
