"""A larger copy of a picture, for where a few hundred pixels are too few. It invents no detail."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

from PIL import Image

from janus_app.errors import AppError
from janus_app.outputs.image_io import MAX_PIXELS, open_picture
from janus_app.outputs.metadata import Value, read_metadata
from janus_app.outputs.store import OutputStore, StoredImage

FACTORS = (2, 4)


def upscale(source: Path, factor: int, store: OutputStore) -> StoredImage:
    """Save a copy of the PNG `source` of this app, `factor` times as wide and high, in `store`; the file stays.

    Lanczos resampling (Duchon 1979, as in Pillow): smooth edges, nothing that was not there. The record of the copy
    says `upscaled` and `upscaled_from`. Raises AppError for a picture without a record, one that is a copy already,
    one that would grow too large, and a folder that cannot be written.
    """
    if factor not in FACTORS:
        raise AppError(f"A picture can be made 2 or 4 times as large, not {factor!r} times.")
    record = read_metadata(source)
    if "upscaled" in record.settings:
        raise AppError("This is an enlarged copy already. Take the picture it was made from.")
    picture = open_picture(source)
    size = (picture.width * factor, picture.height * factor)
    if size[0] * size[1] > MAX_PIXELS:
        raise AppError(f"The copy would have {size[0]} x {size[1]} pixels, which is too large. Take a smaller factor.")
    said: dict[str, Value] = {
        "upscaled": factor,
        "upscaled_from": "".join(c for c in source.name if c.isprintable())[:200],
    }
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    copy = replace(record, size=size, created=now, settings={**record.settings, **said})
    larger = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return store.save_image(larger, copy, f"_x{factor}")
