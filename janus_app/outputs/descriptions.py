"""Descriptions of drawn pictures by a model, stored beside them for people who cannot see them.

    outputs/2026-11-21_janus-pro-1b_42.png                  a picture
    outputs/.descriptions/2026-11-21_janus-pro-1b_42.txt    its description

The picture file itself does not change.
"""

from __future__ import annotations

from pathlib import Path

from janus_app.errors import Message
from janus_app.files import os_errors_as_app_errors, write_atomically

FOLDER = ".descriptions"
MAX_CHARACTERS = 2_000  # a screen reader reads all of it aloud


def description(picture: Path) -> str:
    """The description of a picture file, "" where there is none."""
    try:
        with open(_text_file(picture), encoding="utf-8", errors="replace") as file:
            return file.read(MAX_CHARACTERS).strip()
    except OSError:
        return ""


def describe(picture: Path, text: str) -> None:
    """Store `text` as the description of a picture file. Raises AppError where the folder cannot be written."""
    file = _text_file(picture)
    with os_errors_as_app_errors(Message("description_not_kept"), picture.parent):
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, text[:MAX_CHARACTERS].encode("utf-8", "replace"))


def delete_description(picture: Path) -> None:
    """Remove the description of a picture file. Raises OSError."""
    _text_file(picture).unlink(missing_ok=True)


def _text_file(picture: Path) -> Path:
    return picture.parent / FOLDER / f"{picture.stem}.txt"
