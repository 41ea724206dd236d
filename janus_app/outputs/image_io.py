"""Opens pictures that a person gives: limited in size, upright, and always 8-bit RGB.

The page, the command line and the API open every picture here.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from janus_app.errors import AppError, Message
from janus_app.files import typed_path
from janus_app.types import TRANSPARENCY, TRANSPARENCY_VARIABLE, Transparency

MAX_BYTES = 40_000_000
MAX_PIXELS = 64_000_000

# No others: Pillow can also start other programs (EPS) and parse rare formats that are hardly maintained.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "ICO", "HEIF")
# Brands in the first box of a HEIF file (ISO/IEC 23008-12), as phones write it. AVIF has brands of its own.
HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
HEIF_PACKAGE = "pillow-heif"  # requirements-heif.txt

Source = str | Path | bytes | Image.Image


def open_picture(source: Source, transparency: Transparency | None = None) -> Image.Image:
    """The picture at a path, in bytes or already open, as an upright RGB picture of the same size.

    Of an animation the first frame is taken; 16-bit pictures are scaled, not clipped. `transparency` "white" puts
    transparent parts on white, as they look on a page; "drop" takes the colours stored under them, often black, as the
    models' published code does; None asks the variable JANUS_APP_TRANSPARENCY, else it is "white".

    Raises AppError where the source is missing, is larger than 40 MB or 64 megapixels, is empty or cut short, is no
    picture, or is a HEIC photo while pillow-heif is not installed.
    """
    name, transparency = _name(source), transparency or _usual_transparency()
    picture = _decoded(source, name)
    if transparency == "white" and picture.has_transparency_data:
        return _on_white(picture, name)
    return _converted(picture, "RGB", name)


def open_mask(source: Source, size: tuple[int, int], transparent: Literal["keep", "redraw"] = "keep") -> Image.Image:
    """A mask as an "L" picture of 0 (keep) and 255 (redraw).

    Transparent parts are kept. With `transparent` "redraw", as in OpenAI's API, they alone are redrawn where there are
    any.
    `size` is the (width, height) of the upright picture it belongs to. Raises AppError like `open_picture`, and
    where the sizes differ or nothing is painted.
    """
    name = _name(source)
    mask = _converted(_decoded(source, name), "LA", name)
    if mask.size != size:
        raise AppError(
            "mask_file_size_differs",
            name=name,
            mask_width=mask.width,
            mask_height=mask.height,
            width=size[0],
            height=size[1],
        )
    light, alpha = (np.asarray(mask.getchannel(channel), dtype=np.uint16) for channel in ("L", "A"))
    painted = light * alpha >= 128 * 255
    if transparent == "redraw" and (alpha < 128).any():
        painted = alpha < 128
    if not painted.any():
        raise AppError("mask_file_empty", name=name)
    return Image.fromarray(np.where(painted, 255, 0).astype(np.uint8))


def _name(source: Source) -> str | Message:
    """The name of the source in a sentence: that of its file, without characters that control a terminal."""
    text = ""
    if isinstance(source, (str, Path)):
        text = typed_path(source).name
    elif isinstance(source, Image.Image):
        text = Path(getattr(source, "filename", "") or "").name
    text = "".join(c for c in text if c.isprintable())
    return f"“{text[:120]}”" if text else Message("given_picture")


def _decoded(source: Source, name: str | Message) -> Image.Image:
    if isinstance(source, Image.Image):
        return _upright(source, name)
    data = source if isinstance(source, bytes) else read_bounded(source, MAX_BYTES)
    return _upright(open_bytes(data, name), name)


def open_bytes(data: bytes, name: str | Message | None = None) -> Image.Image:
    """A picture of which only the header has been read, so its memory is small. Raises AppError."""
    name = name or Message("given_picture")
    if len(data) > MAX_BYTES:
        raise AppError("picture_too_many_bytes", name=name, megabytes=MAX_BYTES // 10**6)
    if not data:
        raise AppError("picture_empty", name=name)
    heif = data[4:8] == b"ftyp" and _heif_brands(data) & HEIF_BRANDS
    if heif:
        _add_heif(name)
    Image.init()
    formats = [known for known in FORMATS if known in Image.OPEN]  # not every Pillow has AVIF, and none HEIF
    try:
        # Pillow warns from 89 megapixels on; our own limit is lower and checked before decoding.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError:
        raise _too_many_pixels(name) from None
    except Exception:  # decoders raise any exception for hostile bytes
        raise AppError("picture_damaged" if heif else "picture_not_openable", name=name) from None
    return picture


def _heif_brands(data: bytes) -> set[bytes]:
    """The brands of an ISO base media file: the major one and the compatible ones."""
    end = min(int.from_bytes(data[:4]), 256)
    return {data[place : place + 4] for place in (8, *range(16, end, 4))}


def _add_heif(name: str | Message) -> None:
    """Let Pillow read HEIF, with a package that is imported when the first such picture comes."""
    try:
        import pillow_heif
    except ImportError:
        raise AppError("picture_heif_unsupported", name=name, package=HEIF_PACKAGE) from None
    pillow_heif.register_heif_opener()


def _usual_transparency() -> Transparency:
    given = os.environ.get(TRANSPARENCY_VARIABLE, "").strip().lower() or "white"
    if given not in TRANSPARENCY:
        known = ", ".join(TRANSPARENCY)
        raise AppError("transparency_unknown", given=given, variable=TRANSPARENCY_VARIABLE, known=known)
    return given


def _on_white(picture: Image.Image, name: str | Message) -> Image.Image:
    """A transparent picture as it looks on white paper."""
    layer = _converted(picture, "RGBA", name)
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def read_bounded(path: str | Path, limit: int) -> bytes:
    """The bytes of a regular file. Raises AppError where it is missing, unreadable, or has more than `limit` bytes."""
    path = typed_path(path)
    name = "".join(c for c in str(path) if c.isprintable())
    try:
        if Path(path).is_dir():
            raise AppError("path_is_folder", name=name)
        if not Path(path).is_file():  # also excludes pipes and devices, which may never end
            raise AppError("file_missing", name=name)
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or Message("path_invalid")
        raise AppError("file_unreadable", name=name, reason=reason) from None
    if len(data) > limit:
        raise AppError("file_too_large", name=name, megabytes=limit // 10**6)
    return data


def _too_many_pixels(name: str | Message) -> AppError:
    return AppError("picture_too_many_pixels", name=name, megapixels=MAX_PIXELS // 10**6)


def _upright(picture: Image.Image, name: str | Message) -> Image.Image:
    """Decode the picture, unless its header says that it is too large, and apply the camera's rotation."""
    if picture.width * picture.height > MAX_PIXELS:
        raise _too_many_pixels(name)
    try:
        picture.load()
    except Exception:
        raise AppError("picture_damaged", name=name) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ImageOps.exif_transpose(picture)
    except Exception:  # the picture can be used without its damaged EXIF data
        return picture


def _converted(picture: Image.Image, mode: str, name: str | Message) -> Image.Image:
    try:
        if picture.mode.startswith(("I", "F")):
            picture = _eight_bit(picture)
        if mode == "LA" and "transparency" in picture.info:
            picture = picture.convert("RGBA")  # the palette's transparent colour becomes alpha
        # From RGBA to RGB, Pillow takes the colours and drops alpha, as the published code does.
        return picture.convert(mode)
    except Exception:
        raise AppError("picture_colours_unreadable", name=name) from None


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits or floats as 8-bit grey. Pillow itself would clip values above 255 to white."""
    values: Any = np.nan_to_num(np.asarray(picture, dtype=np.float32))
    peak = values.max()
    if picture.mode.startswith("I;16") or 255 < peak < 65536:
        values = values / 256
    elif peak >= 65536:
        values = values / peak * 255
    elif picture.mode == "F" and peak <= 1:
        values = values * 255
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
