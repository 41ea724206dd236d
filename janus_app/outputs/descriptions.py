"""What a model said of a drawn picture, kept beside it for people who cannot see it.

    outputs/2026-11-21_janus-pro-1b_42.png                  a picture
    outputs/.descriptions/2026-11-21_janus-pro-1b_42.txt    what a model saw in it

The picture itself stays as it is, byte for byte.
"""

from __future__ import annotations

from pathlib import Path

from janus_app.files import os_errors_as_app_errors, write_atomically

FOLDER = ".descriptions"
LONGEST = 2_000  # characters; a screen reader reads all of it aloud


def description(picture: Path) -> str:
    """The kept description of a picture file, "" where there is none."""
    try:
        with open(_place(picture), encoding="utf-8", errors="replace") as file:
            return file.read(LONGEST).strip()
    except OSError:
        return ""


def describe(picture: Path, text: str) -> None:
    """Keep `text` as the description of a picture file. Raises AppError where the folder cannot be written."""
    place = _place(picture)
    with os_errors_as_app_errors("The description was not kept", picture.parent):
        place.parent.mkdir(exist_ok=True)
        write_atomically(place, text[:LONGEST].encode("utf-8", "replace"))


def forget(picture: Path) -> None:
    """Drop the description of a picture file. Raises OSError."""
    _place(picture).unlink(missing_ok=True)


def _place(picture: Path) -> Path:
    return picture.parent / FOLDER / f"{picture.stem}.txt"
