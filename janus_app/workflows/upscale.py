"""A larger copy of a picture, by resampling alone: no detail is invented."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

from PIL import Image

from janus_app.errors import AppError
from janus_app.outputs.image_io import MAX_PIXELS, open_picture
from janus_app.outputs.metadata import ImageMetadata, Value, read_metadata
from janus_app.outputs.store import OutputStore, StoredImage

FACTORS = (2, 4)


def upscale(source: Path, factor: int, store: OutputStore) -> StoredImage:
    """Save an `enlarged` copy of this app's picture `source`. Raises AppError, also where it cannot be written."""
    return store.save_image(*enlarged(source, factor), f"_x{factor}")


def enlarged(source: Path, factor: int) -> tuple[Image.Image, ImageMetadata]:
    """A copy of this app's picture `source`, `factor` times as wide and high (Lanczos; Duchon 1979).

    Its metadata gain `upscaled` and `upscaled_from`. Raises AppError for a picture without metadata or that is such a
    copy itself, and for a copy that would be too large.
    """
    if factor not in FACTORS:
        raise AppError("upscale_factor_unknown", given=factor)
    record = read_metadata(source)
    if "upscaled" in record.settings:
        raise AppError("upscaled_already")
    picture = open_picture(source)
    size = (picture.width * factor, picture.height * factor)
    if size[0] * size[1] > MAX_PIXELS:
        raise AppError("upscale_too_large", width=size[0], height=size[1])
    origin: dict[str, Value] = {
        "upscaled": factor,
        "upscaled_from": "".join(c for c in source.name if c.isprintable())[:200],
    }
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    copy = replace(record, size=size, created=now, settings={**record.settings, **origin})
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS), copy
