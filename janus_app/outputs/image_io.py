"""Opening pictures a person gives us: bounded, upright, and always 8-bit RGB."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from janus_app.errors import AppError

MAX_BYTES = 40_000_000
MAX_PIXELS = 64_000_000

# A closed list: Pillow can also start other programs (EPS) and parse rare formats nobody looks after.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "ICO")

Source = str | Path | bytes | Image.Image


def open_picture(source: Source) -> Image.Image:
    """The picture at a path, in bytes or already open, as an upright RGB picture of its own size.

    Alpha is dropped, not blended (the models were trained on pictures read that way); of an animation the first
    frame is taken; 16-bit pictures are scaled, not clipped. Raises AppError when the source is missing, is larger
    than 40 MB or 64 megapixels, is cut short, or is no picture.
    """
    name = _name(source)
    return _converted(_decoded(source, name), "RGB", name)


def open_mask(source: Source, size: tuple[int, int]) -> Image.Image:
    """A mask as an "L" picture of 0 (keep) and 255 (draw anew); see-through parts are kept.

    `size` is the (width, height) of the upright picture it belongs to. Raises AppError like `open_picture`, and
    when the sizes differ or nothing is painted.
    """
    name = _name(source)
    mask = _converted(_decoded(source, name), "LA", name)
    if mask.size != size:
        raise AppError(
            f"The mask {name} is {mask.width} x {mask.height} pixels but the picture is "
            f"{size[0]} x {size[1]}. Give a mask of the picture's size."
        )
    light, alpha = (np.asarray(mask.getchannel(channel), dtype=np.uint16) for channel in ("L", "A"))
    painted = light * alpha >= 128 * 255
    if not painted.any():
        raise AppError(f"Nothing in the mask {name} is white. Paint the part to draw anew white.")
    return Image.fromarray(np.where(painted, 255, 0).astype(np.uint8))


def _name(source: Source) -> str:
    """What to call the source in a sentence: its file name, without characters that act on a terminal."""
    text = ""
    if isinstance(source, (str, Path)):
        text = Path(source).name
    elif isinstance(source, Image.Image):
        text = Path(getattr(source, "filename", "") or "").name
    text = "".join(c for c in text if c.isprintable())
    return f"“{text[:120]}”" if text else "you gave"


def _decoded(source: Source, name: str) -> Image.Image:
    if isinstance(source, Image.Image):
        return _upright(source, name)
    data = source if isinstance(source, bytes) else read_bounded(source, MAX_BYTES)
    return _upright(open_bytes(data, name), name)


def open_bytes(data: bytes, name: str = "you gave") -> Image.Image:
    """A picture whose header is read and whose pixels are not yet, so nothing is large. Raises AppError."""
    if len(data) > MAX_BYTES:
        raise AppError(f"The picture {name} is larger than {MAX_BYTES // 10**6} MB. Save a smaller copy and use that.")
    Image.init()
    formats = [known for known in FORMATS if known in Image.OPEN]  # AVIF is not in every Pillow
    try:
        # Pillow warns from 89 megapixels on; our own, lower bound speaks when it is decoded.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError:
        raise AppError(_too_many_pixels(name)) from None
    except Exception:  # decoders meet hostile bytes here and raise whatever they like
        raise AppError(
            f"The file {name} is not a picture that can be opened. Give a PNG, JPEG, WebP, GIF, BMP or TIFF file."
        ) from None
    return picture


def read_bounded(path: str | Path, limit: int) -> bytes:
    """The bytes of a regular file. AppError when it is missing, unreadable, or has more than `limit`."""
    name = "".join(c for c in str(path) if c.isprintable())
    try:
        if Path(path).is_dir():
            raise AppError(f"“{name}” is a folder, not a picture. Give the path of a picture file.")
        if not Path(path).is_file():  # also keeps out pipes and devices, which may never end
            raise AppError(f"There is no file “{name}”. Check the path and try again.")
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or "the path is not a valid one"
        raise AppError(f"The file “{name}” cannot be read ({reason}). Check the path and its permissions.") from None
    if len(data) > limit:
        raise AppError(f"The file “{name}” is larger than {limit // 10**6} MB. Save a smaller copy and use that.")
    return data


def _too_many_pixels(name: str) -> str:
    return f"The picture {name} has over {MAX_PIXELS // 10**6} megapixels. Save a smaller copy and use that."


def _upright(picture: Image.Image, name: str) -> Image.Image:
    """Decode, once the size in the header is known to be bearable, and turn as the camera asked."""
    if picture.width * picture.height > MAX_PIXELS:
        raise AppError(_too_many_pixels(name))
    try:
        picture.load()
    except Exception:
        raise AppError(
            f"The picture {name} is damaged or cut short. Copy or download it again, or save it anew."
        ) from None
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # a broken camera note must not cost the person their picture
        return picture


def _converted(picture: Image.Image, mode: str, name: str) -> Image.Image:
    try:
        if picture.mode.startswith(("I", "F")):
            picture = _eight_bit(picture)
        if mode == "LA" and "transparency" in picture.info:
            picture = picture.convert("RGBA")  # a see-through colour of the palette becomes alpha
        # RGB straight from RGBA takes the colours and drops alpha, as the parity data asks.
        return picture.convert(mode)
    except Exception:
        raise AppError(f"The colours of the picture {name} cannot be read. Save it as an RGB PNG or JPEG.") from None


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits or floats as 8-bit grey. Pillow itself would clip all above 255 to white."""
    values: Any = np.nan_to_num(np.asarray(picture, dtype=np.float32))
    peak = values.max()
    if picture.mode.startswith("I;16") or 255 < peak < 65536:
        values = values / 256
    elif peak >= 65536:
        values = values / peak * 255
    elif picture.mode == "F" and peak <= 1:
        values = values * 255
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
