"""Opening picture files of every kind that a person may give, sound and damaged."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus_app.errors import AppError
from janus_app.outputs.image_io import MAX_BYTES, open_mask, open_picture
from tests.conftest import GOLDEN
from tests.samples import png_claiming

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "assets" / "examples" / "beach.png"


def _bytes(picture: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def _gradient(mode: str = "RGB") -> Image.Image:
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    colours = np.stack([ramp, ramp[:, ::-1], np.full_like(ramp, 90)], -1)
    return Image.fromarray(colours).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_of_every_mode_becomes_rgb(mode: str) -> None:
    source = _gradient(mode)
    opened = open_picture(_bytes(source))
    assert opened.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(opened), np.asarray(source.convert("RGB")))


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF", "JPEG2000", "BMP", "TIFF", "PPM", "GIF", "ICO"])
def test_every_format_opens(format: str) -> None:
    opened = open_picture(_bytes(_gradient(), format))
    assert opened.mode == "RGB"
    assert abs(np.asarray(opened, dtype=float).mean() - np.asarray(_gradient()).mean()) < 20


def test_cmyk_keeps_its_colours() -> None:
    opened = open_picture(_bytes(_gradient("CMYK"), "JPEG", quality=95))
    assert np.abs(np.asarray(opened, dtype=int) - np.asarray(_gradient())).mean() < 6


def _cut_out() -> Image.Image:
    """A black shape on nothing: black is also stored under the transparent part."""
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (2, 2, 6, 6))
    picture.putpixel((0, 7), (0, 0, 0, 51))
    return picture


def _palette_cut_out() -> Image.Image:
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([0, 0, 0, 0, 0, 0])
    picture.paste(1, (2, 2, 6, 6))
    picture.info["transparency"] = 0
    return picture


@pytest.mark.parametrize(
    ("picture", "format"),
    [
        (_cut_out(), "PNG"),
        (_cut_out(), "WEBP"),
        (_cut_out(), "TIFF"),
        (_cut_out().convert("LA"), "PNG"),
        (_palette_cut_out(), "PNG"),
        (_palette_cut_out(), "GIF"),
    ],
)
def test_transparent_picture_is_put_on_white(picture: Image.Image, format: str) -> None:
    extra = {"lossless": True} if format == "WEBP" else {}
    opened = open_picture(_bytes(picture, format, **extra))
    assert (opened.mode, opened.getpixel((0, 0)), opened.getpixel((3, 3))) == ("RGB", (255, 255, 255), (0, 0, 0))
    if picture.mode != "P":
        assert opened.getpixel((0, 7)) == (204, 204, 204), "a fifth of black on white"


def test_colours_under_transparent_parts_are_taken_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = _bytes(Image.new("RGBA", (4, 4), (200, 10, 60, 0)))
    assert open_picture(hidden, "drop").getpixel((0, 0)) == (200, 10, 60)
    monkeypatch.setenv("JANUS_APP_TRANSPARENCY", "drop")
    assert open_picture(hidden).getpixel((0, 0)) == (200, 10, 60)
    assert open_picture(hidden, "white").getpixel((0, 0)) == (255, 255, 255)
    monkeypatch.setenv("JANUS_APP_TRANSPARENCY", "checkerboard")
    with pytest.raises(AppError, match=r"checkerboard.*white, drop"):
        open_picture(hidden)


@pytest.mark.parametrize("file", sorted((GOLDEN / "images").iterdir()), ids=lambda file: file.stem)
def test_golden_pictures_open_as_the_reference_opens_them(file: Path) -> None:
    reference = Image.open(file).convert("RGB")
    assert open_picture(file, "drop").tobytes() == reference.tobytes()
    usual = open_picture(file)
    assert (usual.tobytes() == reference.tobytes()) == (file.stem != "rgba"), "white changes transparent pictures alone"


def test_sixteen_bit_colour_is_scaled() -> None:
    opened = open_picture(_colour_tiff(np.full((2, 3, 3), (65535, 257 * 100, 0), dtype="<u2")))
    assert opened.size == (3, 2) and opened.getpixel((2, 1)) == (255, 100, 0)


def _colour_tiff(pixels: np.ndarray) -> bytes:
    """An uncompressed TIFF of 16 bits a channel, which Pillow itself cannot write."""
    height, width = pixels.shape[:2]
    data, entries = pixels.tobytes(), 9
    bits = 8 + 2 + 12 * entries + 4
    tags = [(256, 1, width), (257, 1, height), (258, 3, bits), (259, 1, 1), (262, 1, 2), (273, 1, bits + 6)]
    tags += [(277, 1, 3), (278, 1, height), (279, 1, len(data))]
    table = b"".join(struct.pack("<HHII", tag, 4 if tag != 258 else 3, count, value) for tag, count, value in tags)
    start = b"II*\0" + struct.pack("<IH", 8, entries)
    return start + table + bytes(4) + struct.pack("<HHH", 16, 16, 16) + data


def test_file_is_known_by_its_content_not_its_name(tmp_path: Path) -> None:
    for name in ("noext", "photo.png", "photo.txt"):
        (tmp_path / name).write_bytes(_bytes(_gradient(), "JPEG"))
        assert open_picture(tmp_path / name).size == (64, 48)


def test_first_picture_of_a_stereo_photo_is_taken() -> None:
    data = _bytes(Image.new("RGB", (8, 8), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert open_picture(data).getpixel((4, 4))[0] > 240


HEIC_HEADER = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_heic_photo_opens_upright_with_pillow_heif() -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    opened = open_picture(_bytes(_gradient(), "HEIF", quality=90, exif=exif.tobytes()))
    assert opened.size == (48, 64)
    assert opened.getpixel((24, 2))[0] < 40 < 200 < opened.getpixel((24, 61))[0]
    with pytest.raises(AppError, match="damaged or incomplete"):
        open_picture(HEIC_HEADER + bytes(300))


def test_heic_photo_without_pillow_heif_is_refused_with_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    with pytest.raises(AppError, match=r"HEIC.*pip install pillow-heif.*JPEG"):
        open_picture(HEIC_HEADER + bytes(300))


def test_heif_decoder_is_not_imported_for_other_pictures() -> None:
    code = f"import sys, janus_app; janus_app.open_picture({str(EXAMPLE)!r}); print('pillow_heif' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(format: str) -> None:
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    opened = np.asarray(open_picture(_bytes(Image.fromarray(ramp), format)))
    np.testing.assert_array_equal(opened[..., 0].ravel(), np.arange(256))


def test_big_endian_sixteen_bit_grey_is_scaled() -> None:
    pixels = np.array([[0, 256 * 100, 65535]], dtype=">u2").tobytes()
    opened = open_picture(b"P5 3 1 65535\n" + pixels)
    assert [opened.getpixel((x, 0))[0] for x in range(3)] == [0, 100, 255]


def test_float_picture_is_scaled_from_unit_range() -> None:
    picture = Image.fromarray(np.array([[0.0, 0.5, 1.0, np.nan]], dtype=np.float32))
    opened = open_picture(_bytes(picture, "TIFF"))
    assert [opened.getpixel((x, 0))[0] for x in range(4)] == [0, 127, 255, 0]


@pytest.mark.parametrize(("format", "orientation"), [("JPEG", 6), ("PNG", 6), ("WEBP", 6)])
def test_camera_rotation_is_applied(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_picture(_bytes(_gradient(), format, exif=exif.tobytes()))
    assert opened.size == (48, 64)
    assert opened.getpixel((24, 2))[0] < 40 < 200 < opened.getpixel((24, 61))[0]


def test_picture_with_damaged_exif_opens() -> None:
    opened = open_picture(_bytes(_gradient(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"))
    assert opened.size == (64, 48)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_first_frame_of_an_animation_is_taken(format: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    extra = {"lossless": True} if format == "WEBP" else {}
    data = _bytes(frames[0], format, save_all=True, append_images=frames[1:], duration=50, **extra)
    assert open_picture(data).getpixel((10, 10)) == (255, 0, 0)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF"])
def test_error_names_a_truncated_file(format: str, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = _bytes(noise, format)
    path = tmp_path / f"cut.{format.lower()}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(AppError, match=r"cut\."):
        open_picture(path)


def test_error_names_a_file_that_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "letter.png"
    path.write_text("Dear sir,")
    with pytest.raises(AppError, match=r"letter\.png.*not a picture"):
        open_picture(path)
    with pytest.raises(AppError, match="is empty"):
        open_picture(b"")


def test_postscript_is_refused() -> None:
    with pytest.raises(AppError, match="not a picture"):
        open_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_bomb_is_refused_from_itspng_claiming(side: int, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(AppError, match="64 megapixels"):
        open_picture(png_claiming(side, side))
    assert not recwarn.list


def test_open_picture_with_too_many_pixels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # a page started earlier in this process lowers it
    with Image.open(io.BytesIO(png_claiming(8_100, 8_000))) as lazy, pytest.raises(AppError, match="megapixels"):
        open_picture(lazy)


def test_file_of_too_many_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with open(path, "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(AppError, match="larger than 40 MB"):
        open_picture(path)
    with pytest.raises(AppError, match="larger than 40 MB"):
        open_picture(bytes(MAX_BYTES + 1))


def test_paths_that_are_not_regular_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="is a folder"):
        open_picture(tmp_path)
    with pytest.raises(AppError, match="no file"):
        open_picture(tmp_path / "none.png")
    with pytest.raises(AppError):
        open_picture("a\0b")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(AppError, match="no file"):
            open_picture(tmp_path / "pipe")


def test_error_leaves_out_control_characters_of_a_file_name(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2Jb.png"
    path.write_text("no")
    with pytest.raises(AppError) as error:
        open_picture(path)
    assert "\x1b" not in str(error.value)


def test_open_picture_is_not_modified() -> None:
    source = _gradient("RGBA")
    opened = open_picture(source)
    assert opened.mode == "RGB" and source.mode == "RGBA"


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "RGBA"])
def test_mask_of_every_mode_opens(mode: str) -> None:
    mask = Image.new("L", (8, 6), 0)
    mask.paste(255, (2, 1, 5, 4))
    opened = open_mask(_bytes(mask.convert(mode)), (8, 6))
    assert opened.mode == "L"
    np.testing.assert_array_equal(np.asarray(opened), np.asarray(mask))


def test_transparent_white_is_not_painted() -> None:
    mask = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (0, 0, 2, 8))
    assert np.asarray(open_mask(mask, (8, 8))).mean(axis=0).tolist() == [255, 255, 0, 0, 0, 0, 0, 0]


def test_mask_of_another_size_or_without_white_is_refused() -> None:
    with pytest.raises(AppError, match=r"4 x 4 pixels but the picture is 8 x 6"):
        open_mask(Image.new("L", (4, 4), 255), (8, 6))
    with pytest.raises(AppError, match="Paint the part"):
        open_mask(Image.new("L", (8, 6), 0), (8, 6))
