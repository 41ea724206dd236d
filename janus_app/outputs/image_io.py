"""Opens pictures that a person gives: limited in size, upright, and always 8-bit RGB."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from janus_app.errors import AppError, Message

MAX_BYTES = 40_000_000
MAX_PIXELS = 64_000_000

# No others: Pillow can also start other programs (EPS) and parse rare formats that are hardly maintained.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "ICO")

Source = str | Path | bytes | Image.Image


def open_picture(source: Source) -> Image.Image:
    """The picture at a path, in bytes or already open, as an upright RGB picture of the same size.

    Alpha is dropped, not blended (the models were trained on pictures read that way); of an animation the first
    frame is taken; 16-bit pictures are scaled, not clipped. Raises AppError where the source is missing, is larger
    than 40 MB or 64 megapixels, is cut short, or is not a picture.
    """
    name = _name(source)
    return _converted(_decoded(source, name), "RGB", name)


def open_mask(source: Source, size: tuple[int, int]) -> Image.Image:
    """A mask as an "L" picture of 0 (keep) and 255 (redraw); transparent parts are kept.

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
    if not painted.any():
        raise AppError("mask_file_empty", name=name)
    return Image.fromarray(np.where(painted, 255, 0).astype(np.uint8))


def _name(source: Source) -> str | Message:
    """The name of the source in a sentence: that of its file, without characters that control a terminal."""
    text = ""
    if isinstance(source, (str, Path)):
        text = Path(source).name
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
    Image.init()
    formats = [known for known in FORMATS if known in Image.OPEN]  # AVIF is not in every Pillow
    try:
        # Pillow warns from 89 megapixels on; our own limit is lower and checked before decoding.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError:
        raise _too_many_pixels(name) from None
    except Exception:  # decoders raise any exception for hostile bytes
        raise AppError("picture_not_openable", name=name) from None
    return picture


def read_bounded(path: str | Path, limit: int) -> bytes:
    """The bytes of a regular file. Raises AppError where it is missing, unreadable, or has more than `limit` bytes."""
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
