"""The folders of huggingface_hub's cache, for one repository, so that files fetched by either side serve both.

<cache>/models--owner--name/blobs/<etag>                      the bytes
<cache>/models--owner--name/snapshots/<revision>/<path>       a link to them (a copy where links are impossible)
<cache>/.locks/models--owner--name/<etag>.lock                held while a blob is being written
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from janus_app.errors import AppError
from janus_app.hub.converted import converted_folder

PARTIAL = ".janus-partial"
BAD = ".janus-bad"


class RepoCache:
    """Paths and moves inside the cache of one repository at one revision."""

    def __init__(self, cache: Path, repo: str, revision: str) -> None:
        name = "models--" + repo.replace("/", "--")
        self.cache = cache
        self.root = cache / name
        self.blobs = self.root / "blobs"
        self.snapshot = self.root / "snapshots" / revision
        self.locks = cache / ".locks" / name

    def pointer(self, path: str) -> Path:
        """Where the file `path` of the repository is found by every reader."""
        return self.snapshot.joinpath(*path.split("/"))

    def blob(self, etag: str) -> Path:
        """Where the bytes with this ETag lie. Raises AppError for an ETag that is no plain name."""
        if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_-]{7,127}", etag):
            raise AppError(
                f"The server named a file {etag[:80]!r}, which is no ETag of the Hub. "
                "If HF_ENDPOINT points at a mirror, try another or none."
            )
        return self.blobs / etag

    def partial(self, etag: str) -> Path:
        """Where a download of this blob grows; it survives restarts."""
        return self.blob(etag).with_name(etag + PARTIAL)

    def link(self, etag: str, path: str) -> Path:
        """Make the blob visible as `path` of the snapshot."""
        pointer, blob = self.pointer(path), self.blob(etag)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        fresh = pointer.with_name(f"{pointer.name}.{os.getpid()}.new")
        fresh.unlink(missing_ok=True)
        try:
            fresh.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:  # Windows without developer mode, or a file system without links
            try:
                os.link(blob, fresh)
            except OSError:
                shutil.copyfile(blob, fresh)
        os.replace(fresh, pointer)
        return pointer

    def quarantine(self, path: str) -> None:
        """Take a damaged file out of every reader's sight; kept as *.janus-bad until a good one arrives."""
        pointer = self.pointer(path)
        target = pointer.resolve()
        self.blobs.mkdir(parents=True, exist_ok=True)
        os.replace(target, self.blobs / (target.name + BAD))
        pointer.unlink(missing_ok=True)

    def leftovers(self) -> list[Path]:
        """Unfinished and damaged files of ours."""
        return [path for mark in (PARTIAL, BAD) for path in self.blobs.glob("*" + mark)]

    def busy(self) -> bool:
        """True while some process fetches a file of this repository."""
        from filelock import FileLock, Timeout

        for path in self.locks.glob("*.lock"):
            try:
                FileLock(path).acquire(timeout=0).lock.release()
            except Timeout:
                return True
            except OSError:
                continue  # a cache that cannot be written has no downloads
        return False

    def delete(self) -> int:
        """Remove this snapshot, what only it uses, and our leftovers. Returns the bytes freed."""
        own = _targets(self.snapshot)
        others: set[Path] = set()
        snapshots = self.root / "snapshots"
        for other in snapshots.iterdir() if snapshots.is_dir() else ():
            if other != self.snapshot:
                others |= _targets(other)
        doomed = {path for path in own - others if path.is_file()} | set(self.leftovers())
        freed = sum(path.stat().st_size for path in doomed)
        for path in doomed:
            path.unlink(missing_ok=True)
        copy = converted_folder(self.snapshot)
        freed += sum(path.stat().st_size for path in copy.glob("*") if path.is_file())
        shutil.rmtree(copy, ignore_errors=True)
        shutil.rmtree(self.snapshot, ignore_errors=True)
        if not others:
            shutil.rmtree(self.root, ignore_errors=True)
            shutil.rmtree(self.locks, ignore_errors=True)
        return freed


def file_length(path: Path) -> int | None:
    """The size of a file in bytes, None where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _targets(snapshot: Path) -> set[Path]:
    return {path.resolve() for path in snapshot.rglob("*") if path.is_symlink() or path.is_file()}
