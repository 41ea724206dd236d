"""The one way a drawn picture reaches the disk: as a file that carries the metadata of how it was made.

PNG is the usual kind; JPEG and WebP are written where a file name asks for them.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

from PIL.ExifTags import IFD, Base
from PIL.Image import Exif, Image
from PIL.PngImagePlugin import PngInfo

from janus_app.errors import Message
from janus_app.files import os_errors_as_app_errors, write_atomically
from janus_app.outputs.metadata import KEY, PICTURE_SUFFIXES, ImageMetadata, as_xmp, metadata_of, parameters, record_of
from janus_app.types import Finished, Picture, Provenance

JPEG_SEGMENT = 65_000  # bytes of one piece of metadata in a JPEG


@dataclass(frozen=True)
class StoredImage:
    """A picture, its metadata, and the file that contains both."""

    file: Path
    image: Image
    metadata: ImageMetadata


class OutputStore:
    """Saves pictures in a folder under names made of date, model and seed, or as the one picture file `path` names.

    No file is ever replaced: "name-2.png" is written where "name.png" exists, and for the second of several pictures.
    Every method raises AppError where the folder cannot be written or the disk is full.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def save(self, finished: Finished) -> tuple[StoredImage, ...]:
        """Save every picture of a job that a session ran, in order."""
        if not finished.pictures:
            return ()
        assert finished.provenance is not None, "the pictures of a model without a session have no provenance"
        return tuple(self.save_picture(picture, finished.provenance) for picture in finished.pictures)

    def save_picture(self, picture: Picture, provenance: Provenance) -> StoredImage:
        """Save one picture of a job."""
        return self.save_image(picture.image, metadata_of(picture, provenance))

    def save_image(self, image: Image, metadata: ImageMetadata, suffix: str = "") -> StoredImage:
        """Save an image under existing metadata, as a copy of another size has; `suffix` ends the name of its file."""
        return StoredImage(save_picture(self._file(metadata, suffix), image, metadata), image, metadata)

    def save_sheet(self, image: Image, metadata: ImageMetadata, chunk: str, facts: str) -> Path:
        """Save a collage beside the pictures that `metadata` belongs to; its text chunk `chunk` contains `facts`."""
        chunks = PngInfo()
        chunks.add_itxt(chunk, facts)
        return write_png(self._file(metadata, "_grid"), image, chunks)

    def _file(self, metadata: ImageMetadata, suffix: str) -> Path:
        if is_picture_name(self.path) and not self.path.is_dir():
            return self.path
        name = output_path(self.path, metadata)
        return name.with_name(f"{name.stem}{suffix}.png")


def output_path(folder: Path, metadata: ImageMetadata) -> Path:
    """The path of a picture, as folder/2026-11-21_janus-pro-1b_42.png; `save_png` finds a free name from there."""
    model = re.sub(r"[^a-z0-9.]+", "-", metadata.model.lower()).strip("-.")[:60] or "model"
    return folder / f"{metadata.created[:10]}_{model}_{metadata.seed}.png"


def is_picture_name(path: Path) -> bool:
    """Whether the name is that of a kind of picture that this app writes."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def save_picture(path: Path, image: Image, metadata: ImageMetadata) -> Path:
    """Write an image with its metadata as the kind that the name of `path` says; otherwise like `save_png`.

    JPEG is of high quality, WebP lossless. Metadata beyond the 64 kB that fit into a JPEG are written as a PNG.
    """
    kind = PICTURE_SUFFIXES[path.suffix.lower()]
    if kind == "PNG":
        return save_png(path, image, metadata)
    xmp, comment = as_xmp(metadata), b"UNICODE\0" + parameters(metadata).encode("utf-16-be")
    exif = Exif()
    exif.get_ifd(IFD.Exif)[Base.UserComment] = comment  # the text other programs read
    content = io.BytesIO()
    if kind == "WEBP":
        image.convert("RGB").save(content, kind, lossless=True, exif=exif, xmp=xmp)
    elif max(len(xmp), len(comment)) > JPEG_SEGMENT:
        return save_png(path.with_suffix(".png"), image, metadata)
    else:
        image.convert("RGB").save(content, kind, quality=95, subsampling=0, exif=exif, xmp=xmp)
    return _write(path, content.getvalue())


def save_png(path: Path, image: Image, metadata: ImageMetadata) -> Path:
    """Write an image with its metadata by `write_png`."""
    chunks = PngInfo()
    # json.dumps keeps to ASCII, so even a lone surrogate in a prompt survives.
    chunks.add_itxt(KEY, json.dumps(record_of(metadata)))
    chunks.add_itxt("parameters", parameters(metadata))  # the text other programs read
    return write_png(path, image, chunks)


def write_png(path: Path, image: Image, chunks: PngInfo) -> Path:
    """Write an RGB PNG to `path`, or beside it as "name-2.png" where that exists; returns the path written.

    The file appears complete or not at all. Raises AppError where the folder cannot be written or the disk is full.
    """
    content = io.BytesIO()
    image.convert("RGB").save(content, "PNG", pnginfo=chunks)
    return _write(path, content.getvalue())


def _write(path: Path, content: bytes) -> Path:
    with os_errors_as_app_errors(Message("picture_not_saved"), path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_atomically(path, content, keep_existing=True)
