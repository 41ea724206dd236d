"""The drawn pictures of all sessions: the PNG files in the outputs folder, found by their metadata.

    outputs/2026-11-21_janus-pro-1b_42.png       a picture with its metadata
    outputs/.favourites/2026-11-21_..._42.png    an empty file: the picture of that name is a favourite

As a mark is one empty file, two programs can set and clear marks without a lock, and no list can be damaged.
"""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from PIL import Image

from janus_app.errors import AppError, Message
from janus_app.files import os_errors_as_app_errors
from janus_app.outputs.descriptions import delete_description
from janus_app.outputs.metadata import PICTURE_SUFFIXES, ImageMetadata, read_metadata
from janus_app.outputs.store import is_picture_name

MARKS = ".favourites"
MAX_ZIP_BYTES = 2_000_000_000  # of one download; the temporary folder must hold it
KINDS = tuple(set(PICTURE_SUFFIXES.values()))


@dataclass(frozen=True)
class GalleryItem:
    """A picture in the folder. `metadata` has no image tokens, because thousands of items stay in memory."""

    name: str
    metadata: ImageMetadata
    moment: float
    favourite: bool = False


@dataclass(frozen=True)
class GalleryQuery:
    """What to find. Every word must occur in the prompt, negative prompt, model, seed or file name, in any case.

    `model` is a variant's id and `verb` generate or edit, "" for any; `since` is a time in seconds since 1970.
    """

    words: str = ""
    model: str = ""
    verb: str = ""
    favourites: bool = False
    since: float = 0.0


class Gallery:
    """The pictures in one folder. Safe for several threads and processes; other files are not touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[tuple[int, ...], GalleryItem | None]] = {}
        self._guard = threading.Lock()

    def find(self, query: GalleryQuery | None = None) -> list[GalleryItem]:
        """The pictures that fit `query`, newest first. Files without readable metadata are left out."""
        marks = self._marks()
        query = query or GalleryQuery()
        words = query.words.casefold().split()
        found = []
        for entry in self._entries():
            entry = replace(entry, favourite=entry.name in marks)
            if _fits(entry, query, words):
                found.append(entry)
        found.sort(key=lambda entry: (entry.moment, entry.name), reverse=True)
        return found

    def models(self) -> dict[str, str]:
        """Id and title of every model that drew one of the pictures, sorted by id."""
        return dict(sorted({entry.metadata.model: entry.metadata.title for entry in self._entries()}.items()))

    def path(self, name: str) -> Path:
        """The file of a picture. Raises AppError where it is gone."""
        file = self.folder / name
        if Path(name).name != name or not file.is_file():
            raise AppError("picture_gone")
        return file

    def is_favourite(self, name: str) -> bool:
        return name in self._marks()

    def set_favourite(self, name: str, on: bool) -> None:
        """Mark or unmark a picture. Raises AppError where the folder cannot be written."""
        mark = self.folder / MARKS / self.path(name).name
        with os_errors_as_app_errors(Message("mark_not_kept"), self.folder):
            if on:
                mark.parent.mkdir(exist_ok=True)
                mark.touch()
            else:
                mark.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Delete a picture's file, its mark and its description. Raises AppError."""
        file = self.path(name)
        with os_errors_as_app_errors(Message("picture_not_deleted"), self.folder):
            file.unlink(missing_ok=True)
            (self.folder / MARKS / file.name).unlink(missing_ok=True)
            delete_description(file)

    def zip(self, names: Sequence[str], target: Path) -> int:
        """Write the pictures into a new zip at `target`, byte for byte; returns how many.

        Pictures deleted meanwhile are left out, and all that would make the zip larger than MAX_ZIP_BYTES. Raises
        AppError where it cannot be written.
        """
        count = size = 0
        with os_errors_as_app_errors(Message("pictures_not_packed"), target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(target, "w") as archive:  # stored: a PNG does not get smaller
                for name in names:
                    try:
                        file = self.path(name)
                        size += file.stat().st_size
                    except (AppError, FileNotFoundError):
                        continue
                    if size > MAX_ZIP_BYTES:
                        break
                    archive.write(file, file.name)
                    count += 1
        return count

    def _entries(self) -> list[GalleryItem]:
        """Every picture with metadata. Only new and changed files are opened, and only their headers are read."""
        try:
            with os.scandir(self.folder) as listing:
                files = [(e.name, e.stat()) for e in listing if is_picture_name(Path(e.name)) and e.is_file()]
        except OSError:
            return []  # no folder yet: nothing was drawn
        entries: list[GalleryItem] = []
        fresh: dict[str, tuple[tuple[int, ...], GalleryItem | None]] = {}
        for name, stat in files:
            key = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            known = self._known.get(name)
            if known is None or known[0] != key:
                known = (key, _entry(self.folder / name))
            fresh[name] = known
            if known[1] is not None:
                entries.append(known[1])
        with self._guard:
            self._known = fresh
        return entries

    def _marks(self) -> frozenset[str]:
        try:
            return frozenset(os.listdir(self.folder / MARKS))
        except OSError:
            return frozenset()


def _entry(file: Path) -> GalleryItem | None:
    """The picture with its metadata, None where the file has none: the folder may contain anything."""
    try:
        with Image.open(file, formats=KINDS) as picture:  # reads the header, not the pixels
            metadata = replace(read_metadata(picture), image_tokens=())
        return GalleryItem(file.name, metadata, datetime.fromisoformat(metadata.created).timestamp())
    except Exception:  # decoders raise any exception for foreign bytes
        return None


def _fits(entry: GalleryItem, query: GalleryQuery, words: Iterable[str]) -> bool:
    metadata = entry.metadata
    if (query.model and metadata.model != query.model) or (query.verb and metadata.verb != query.verb):
        return False
    if (query.favourites and not entry.favourite) or entry.moment < query.since:
        return False
    text = "\n".join((metadata.prompt, metadata.negative, metadata.title, str(metadata.seed), entry.name)).casefold()
    return all(word in text for word in words)
