"""Finished pictures: saved as PNG files of the user's with the record of how they were made, shown from copies.

The page serves copies from its own temporary folder, byte for byte, so no folder of the user is opened to the browser.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from PIL.Image import Image

from janus_app.catalog import Variant
from janus_app.models.base import EditRequest, GenerateRequest, Picture
from janus_app.records import Record, output_path, record_of, save_png
from janus_app.studio import StudioState


@dataclass(frozen=True)
class Print:
    """A saved picture: the user's file, the copy the page shows, and its record."""

    file: Path
    shown: str
    record: Record


@dataclass(frozen=True)
class Prints:
    """`outputs` is where the user's files go, `serving` the page's temporary folder."""

    outputs: Path
    serving: Path

    def keep(
        self, picture: Picture, request: GenerateRequest | EditRequest, variant: Variant, state: StudioState
    ) -> Print:
        """Save a finished picture and make it showable. Raises AppError where the folder cannot be written."""
        record = record_of(picture, request, variant, state)
        file = save_png(output_path(self.outputs, record), picture.image, record)
        return Print(file, self.serve(file), record)

    def serve(self, file: Path) -> str:
        """A copy of `file` under a name nobody can guess, in the folder the page may serve."""
        folder = self.serving / uuid4().hex
        folder.mkdir(parents=True)
        return str(shutil.copyfile(file, folder / file.name))

    def serve_picture(self, picture: Image) -> str:
        """A picture that is nobody's file yet, as a PNG in the folder the page may serve."""
        folder = self.serving / uuid4().hex
        folder.mkdir(parents=True)
        picture.save(folder / "picture.png")
        return str(folder / "picture.png")
