"""Finished pictures: PNG files in the user's outputs folder, and the copies of them that the page shows.

The page serves copies from its own temporary folder, byte for byte, so no folder of the user is open to the browser.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from PIL import ImageOps
from PIL.Image import Image
from PIL.Image import new as new_picture

from janus_app.errors import AppError, Message
from janus_app.files import os_errors_as_app_errors
from janus_app.outputs.image_io import open_picture
from janus_app.outputs.metadata import ImageMetadata
from janus_app.outputs.store import OutputStore, StoredImage
from janus_app.types import Picture, Provenance

THUMBNAIL_SIDE = 256  # pixels of a thumbnail's longer side
UNREADABLE = "#b8b4ae"  # the colour of the thumbnail of a picture that cannot be read


@dataclass(frozen=True)
class SavedImage:
    """A saved picture: the user's file, the copy the page shows, its metadata, and its score where it was ranked.

    An `example` was drawn for the page; it is no file of the user.
    """

    file: Path
    shown: str
    metadata: ImageMetadata
    score: float | None = None
    example: bool = False


@dataclass(frozen=True)
class SavedImages:
    """`outputs` is the user's folder of pictures, `serving` the page's temporary folder."""

    outputs: Path
    serving: Path
    copies: dict[tuple[str, str, int], str] = field(default_factory=dict, hash=False)  # by file, kind and change time

    @property
    def store(self) -> OutputStore:
        return OutputStore(self.outputs)

    def keep(self, picture: Picture, provenance: Provenance) -> SavedImage:
        """Save a finished picture and copy it for the page. Raises AppError where a folder cannot be written."""
        return self.show(self.store.save_picture(picture, provenance))

    def show(self, stored: StoredImage) -> SavedImage:
        """Copy a saved picture for the page. Raises AppError."""
        return SavedImage(stored.file, self.serve(stored.file), stored.metadata)

    def serve(self, file: Path) -> str:
        """Copy `file` into the folder the page serves, under a name that cannot be guessed. Raises AppError."""
        folder = self.new_folder()
        with os_errors_as_app_errors(Message("copy_not_made"), folder):
            folder.mkdir(parents=True)
            return str(shutil.copyfile(file, folder / file.name))

    def serve_again(self, file: Path) -> str:
        """Like `serve`, but with one copy for all calls while the file does not change.

        Raises OSError where the file is gone.
        """
        key = (str(file), "copy", file.stat().st_mtime_ns)
        if key not in self.copies:
            self.copies[key] = self.serve(file)
        return self.copies[key]

    def thumbnail(self, file: Path) -> str:
        """A small JPEG of a picture, made once; a plain grey one where the picture cannot be read."""
        try:
            key = (str(file), "thumbnail", file.stat().st_mtime_ns)
            if key not in self.copies:
                self.copies[key] = self._save_thumbnail(open_picture(file))
        except (OSError, AppError):
            key = ("", "thumbnail", 0)
            if key not in self.copies:
                side = THUMBNAIL_SIDE
                self.copies[key] = self._save_thumbnail(new_picture("RGB", (side, side), UNREADABLE))
        return self.copies[key]

    def _save_thumbnail(self, picture: Image) -> str:
        folder = self.new_folder()
        folder.mkdir(parents=True)
        side = THUMBNAIL_SIDE
        small = picture if max(picture.size) <= side else ImageOps.contain(picture, (side, side))
        small.save(folder / "small.jpg", quality=85)
        return str(folder / "small.jpg")

    def new_folder(self) -> Path:
        """The path of a new folder for the page to serve, with a name that cannot be guessed. It does not exist yet."""
        return self.serving / uuid4().hex

    def serve_picture(self, picture: Image) -> str:
        """Save a picture that has no file yet as a PNG in the folder the page serves."""
        folder = self.new_folder()
        folder.mkdir(parents=True)
        picture.save(folder / "picture.png")
        return str(folder / "picture.png")
