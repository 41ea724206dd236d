"""Finished pictures: saved as PNG files of the user's with the record of how they were made, shown from copies.

The page serves copies from its own temporary folder, byte for byte, so no folder of the user is opened to the browser.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from PIL import ImageOps
from PIL.Image import Image
from PIL.Image import new as new_picture

from janus_app.errors import AppError
from janus_app.outputs.image_io import open_picture
from janus_app.outputs.metadata import ImageMetadata
from janus_app.outputs.store import OutputStore, StoredImage
from janus_app.types import Picture, Provenance

THUMB = 256  # pixels of a thumbnail's longer side


@dataclass(frozen=True)
class SavedImage:
    """A saved picture: the user's file, the copy the page shows, its record, and its score where it was ranked."""

    file: Path
    shown: str
    record: ImageMetadata
    score: float | None = None


@dataclass(frozen=True)
class SavedImages:
    """`outputs` is where the user's files go, `serving` the page's temporary folder."""

    outputs: Path
    serving: Path
    copies: dict[tuple[str, str, int], str] = field(default_factory=dict, hash=False)  # made so far

    @property
    def store(self) -> OutputStore:
        return OutputStore(self.outputs)

    def keep(self, picture: Picture, provenance: Provenance) -> SavedImage:
        """Save a finished picture and make it showable. Raises AppError where the folder cannot be written."""
        return self.show(self.store.save_picture(picture, provenance))

    def show(self, stored: StoredImage) -> SavedImage:
        """Make a saved picture showable."""
        return SavedImage(stored.file, self.serve(stored.file), stored.metadata)

    def serve(self, file: Path) -> str:
        """A copy of `file` under a name nobody can guess, in the folder the page may serve."""
        folder = self.place()
        folder.mkdir(parents=True)
        return str(shutil.copyfile(file, folder / file.name))

    def serve_again(self, file: Path) -> str:
        """Like `serve`, with one copy for all calls while the file stays as it is: for what is opened again and again.

        Raises OSError where the file is gone.
        """
        key = (str(file), "copy", file.stat().st_mtime_ns)
        if key not in self.copies:
            self.copies[key] = self.serve(file)
        return self.copies[key]

    def thumbnail(self, file: Path) -> str:
        """A small JPEG of a picture, made once; a grey sheet where the picture cannot be read."""
        try:
            key = (str(file), "thumbnail", file.stat().st_mtime_ns)
            if key not in self.copies:
                self.copies[key] = self._thumbnail(open_picture(file))
        except (OSError, AppError):
            key = ("", "thumbnail", 0)
            if key not in self.copies:
                self.copies[key] = self._thumbnail(new_picture("RGB", (THUMB, THUMB), "#b8b4ae"))
        return self.copies[key]

    def _thumbnail(self, picture: Image) -> str:
        folder = self.place()
        folder.mkdir(parents=True)
        small = picture if max(picture.size) <= THUMB else ImageOps.contain(picture, (THUMB, THUMB))
        small.save(folder / "small.jpg", quality=85)
        return str(folder / "small.jpg")

    def place(self) -> Path:
        """A new folder the page may serve from, under a name nobody can guess."""
        return self.serving / uuid4().hex

    def serve_picture(self, picture: Image) -> str:
        """A picture that is nobody's file yet, as a PNG in the folder the page may serve."""
        folder = self.place()
        folder.mkdir(parents=True)
        picture.save(folder / "picture.png")
        return str(folder / "picture.png")
