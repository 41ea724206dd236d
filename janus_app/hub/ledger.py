"""What the app remembers about files: hashes pinned at first contact, and files already hashed on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from janus_app.errors import AppError


class HashStore:
    """Two small JSON files in the user's data folder.

    pins.json      "owner/name@revision/path" -> {sha256, size}: what an unpublished hash was when first met.
    verified.json  absolute path -> {size, mtime, sha256}: hashed once, so the next start is instant.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pin(self, key: str) -> dict[str, Any] | None:
        """The pinned {sha256, size} of a file. Raises AppError where the pins cannot be read."""
        entry = self._read("pins.json", strict=True).get(key)
        return entry if isinstance(entry, dict) else None

    def set_pin(self, key: str, sha256: str, size: int) -> None:
        """Pin a hash. A pin that cannot be kept is an error: without it a later swap would go unnoticed."""
        try:
            self._change("pins.json", lambda pins: pins.setdefault(key, {"sha256": sha256, "size": size}))
        except OSError as error:
            raise AppError(
                f"The file hash cannot be kept in {self.folder}: {error.strerror or error}. "
                "Make that folder writable, or set JANUS_APP_DATA to one that is."
            ) from error

    def verified(self, path: Path) -> str | None:
        """The sha256 of `path` as hashed before, if the file has not changed since."""
        entry = self._read("verified.json").get(str(path))
        try:
            seen = path.stat()
        except OSError:
            return None
        if not isinstance(entry, dict) or (entry.get("size"), entry.get("mtime")) != (seen.st_size, seen.st_mtime_ns):
            return None
        return entry.get("sha256")

    def set_verified(self, path: Path, sha256: str) -> None:
        """Remember a hash. Losing this only costs hashing again, so a read-only folder is no error."""
        try:
            seen = path.stat()
            entry = {"size": seen.st_size, "mtime": seen.st_mtime_ns, "sha256": sha256}
            self._change("verified.json", lambda known: known.__setitem__(str(path), entry))
        except OSError:
            return

    def forget(self, folder: Path) -> None:
        """Drop what is remembered about files under `folder`."""

        def drop(known: dict[str, Any]) -> None:
            for path in [path for path in known if Path(path).is_relative_to(folder)]:
                del known[path]

        try:
            self._change("verified.json", drop)
        except OSError:
            return

    def _read(self, name: str, strict: bool = False) -> dict[str, Any]:
        path = self.folder / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                return content
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            pass
        if strict:
            raise AppError(
                f"{path} cannot be read, so the hashes pinned in it cannot be compared. "
                "Restore it, or delete it to accept what the Hub has today."
            )
        return {}

    def _change(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / (name + ".lock")):
            content = self._read(name, strict=name == "pins.json")
            change(content)
            fresh = self.folder / f"{name}.{os.getpid()}.new"
            fresh.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
            os.replace(fresh, self.folder / name)
