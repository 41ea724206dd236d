"""Which bytes are accepted: those with the manifest's sha256, else with the one pinned at first contact with the Hub.

Hashes are remembered in two JSON files of the user's data folder:

pins.json      "owner/name@revision/path" -> {sha256, size}: hashes the manifest does not publish, as first seen
verified.json  absolute path -> {size, mtime, sha256}: files hashed before, so that the next start need not hash again
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Any

from janus_app.errors import AppError, Message
from janus_app.files import file_size, os_errors_as_app_errors, write_atomically
from janus_app.hub.progress import ProgressReporter
from janus_app.registry.types import File, Variant
from janus_app.types import Progress

BLOCK = 1 << 20  # bytes hashed between two progress reports
MAX_GIT_HASHED = 64 << 20  # bytes; the Hub names larger files by their sha256, never by git's hash


class Digest:
    """The sha256 and the git hash of the same bytes. Git's hash covers the length, so `size` is needed first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def update(self, block: bytes) -> None:
        self._sha256.update(block)
        if self.size < MAX_GIT_HASHED:
            self._git.update(block)

    def read(self, stream: IO[bytes]) -> Iterator[int]:
        """Hash the rest of `stream`, yielding the number of bytes of each block. Raises OSError."""
        while block := stream.read(BLOCK):
            self.update(block)
            yield len(block)

    def read_file(self, path: Path) -> Iterator[int]:
        """The same for a whole file. Raises AppError if it cannot be read."""
        try:
            with path.open("rb") as stream:
                yield from self.read(stream)
        except OSError as error:
            raise AppError("model_file_unreadable", path=path, reason=error.strerror or error) from error

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def git(self) -> str:
        """The hash of a git blob; correct below MAX_GIT_HASHED bytes only."""
        return self._git.hexdigest()

    def matches_etag(self, etag: str) -> bool:
        """Whether the bytes are those that the ETag names. An ETag that is neither hash matches anything."""
        if len(etag) == 64:
            return etag == self.sha256
        if len(etag) == 40 and self.size < MAX_GIT_HASHED:
            return etag == self.git
        return True


def hash_file(path: Path, reporter: ProgressReporter) -> Generator[Progress, None, Digest]:
    """Hash a whole file. Raises AppError if it cannot be read."""
    digest = Digest(file_size(path) or 0)
    for count in digest.read_file(path):
        reporter.done += count
        yield from reporter.report()
    return digest


class HashStore:
    """pins.json and verified.json in `folder`; several processes may use them at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pin(self, key: str) -> str | None:
        """The pinned sha256 of a file. Raises AppError if the pins cannot be read."""
        entry = self._read("pins.json", strict=True).get(key)
        return entry["sha256"] if isinstance(entry, dict) else None

    def set_pin(self, key: str, sha256: str, size: int) -> None:
        """Pin a hash, unless one is pinned. Raises AppError: without the pin a later change would go unnoticed."""
        with os_errors_as_app_errors(Message("hash_not_kept"), self.folder):
            self._change("pins.json", lambda pins: pins.setdefault(key, {"sha256": sha256, "size": size}))

    def verified(self, path: Path) -> str | None:
        """The sha256 of `path` as hashed before, None if the file has changed since."""
        entry = self._read("verified.json").get(str(path))
        try:
            stat = path.stat()
        except OSError:
            return None
        if not isinstance(entry, dict) or (entry.get("size"), entry.get("mtime")) != (stat.st_size, stat.st_mtime_ns):
            return None
        return entry.get("sha256")

    def set_verified(self, path: Path, sha256: str) -> None:
        """Remember a hash. A failure only costs hashing again, so a read-only folder is no error."""
        try:
            stat = path.stat()
            entry = {"size": stat.st_size, "mtime": stat.st_mtime_ns, "sha256": sha256}
            self._change("verified.json", lambda known: known.__setitem__(str(path), entry))
        except OSError:
            return

    def forget(self, folder: Path) -> None:
        """Drop the hashes of files below `folder` from verified.json."""

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
            raise AppError("pinned_hashes_unreadable", path=path)
        return {}

    def _change(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f"{name}.lock"):
            content = self._read(name, strict=name == "pins.json")
            change(content)
            write_atomically(self.folder / name, json.dumps(content, indent=1, sort_keys=True).encode())


class Verifier:
    """Compares files of variants with the hashes they must have, and remembers the results in a HashStore."""

    def __init__(self, store: HashStore) -> None:
        self.store = store

    def expected(self, variant: Variant, file: File) -> str | None:
        """The sha256 the file must have: the manifest's, else the pinned one, else None."""
        return file.sha256 or self.store.pin(_key(variant, file))

    def is_verified(self, variant: Variant, file: File, path: Path) -> bool:
        """Whether the file had the expected hash before and has not changed since. Reads no content."""
        expected = self.expected(variant, file)
        return expected is not None and self.store.verified(path.resolve()) == expected

    def matches(self, variant: Variant, file: File, path: Path, digest: Digest) -> bool:
        """Whether a cached file has the expected hash; if none is known, the one its blob is named by (its ETag)."""
        if file.size is not None and digest.size != file.size:
            return False
        expected = self.expected(variant, file)
        return digest.sha256 == expected if expected else digest.matches_etag(path.resolve().name)

    def accept(self, variant: Variant, file: File, path: Path, sha256: str, size: int) -> None:
        """Pin the hash if the manifest has none, and remember that the file at `path` has it."""
        if file.sha256 is None:
            self.store.set_pin(_key(variant, file), sha256, size)
        self.store.set_verified(path.resolve(), sha256)

    def check_announced(self, variant: Variant, file: File, size: int, etag: str, endpoint: str) -> None:
        """Raise AppError if the size or ETag that the Hub announces cannot be those of the expected file."""
        expected = self.expected(variant, file)
        if file.size is not None and size != file.size:
            reason = Message("announced_size_differs", size=size, expected=file.size)
        elif expected and len(etag) == 64 and etag != expected:
            reason = Message("announced_hash_differs", sha256=etag[:12], expected=expected[:12])
        else:
            return
        raise AppError("download_untrusted", path=file.path, repo=variant.repo, endpoint=endpoint, reason=reason)


def _key(variant: Variant, file: File) -> str:
    return f"{variant.repo}@{variant.revision}/{file.path}"
