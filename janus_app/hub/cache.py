"""What is on disk: huggingface_hub's cache of one repository, converted copies of pickles, and the status of both.

<cache>/models--owner--name/blobs/<etag>                      the bytes
<cache>/models--owner--name/snapshots/<revision>/<path>       a link to them (a copy where links are impossible)
<cache>/models--owner--name/janus-converted/<revision>/       a safetensors copy of pickled weights, made by this app
<cache>/.locks/models--owner--name/<etag>.lock                locked while a blob is being written

Other programs that use huggingface_hub find the files fetched here, and the other way round.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.file_kinds import tensor_header
from janus_app.files import file_size
from janus_app.formatting import size_text
from janus_app.hub.verify import Verifier
from janus_app.models.common.weight_files import find_weights
from janus_app.models.registry import find_config
from janus_app.registry.types import Variant

PARTIAL = ".janus-partial"
BAD = ".janus-bad"
CONVERTED = "janus-converted"
CONVERSION_RECORD = "converted.json"


class RepoCache:
    """The paths and operations of one repository at one revision."""

    def __init__(self, cache: Path, repo: str, revision: str) -> None:
        name = "models--" + repo.replace("/", "--")
        self.cache = cache
        self.root = cache / name
        self.blobs = self.root / "blobs"
        self.snapshot = self.root / "snapshots" / revision
        self.locks = cache / ".locks" / name

    def pointer(self, path: str) -> Path:
        """Where programs find the file `path` of the repository."""
        return self.snapshot.joinpath(*path.split("/"))

    def blob(self, etag: str) -> Path:
        """Where the bytes with this ETag are. Raises AppError for an ETag that is not a plain file name."""
        if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_-]{7,127}", etag):
            raise AppError("etag_invalid", etag=repr(etag[:80]))
        return self.blobs / etag

    def partial(self, etag: str) -> Path:
        """The unfinished download of this blob; it survives restarts."""
        return self.blob(etag).with_name(etag + PARTIAL)

    def link(self, etag: str, path: str) -> Path:
        """Make the blob visible as the file `path` of the snapshot."""
        pointer, blob = self.pointer(path), self.blob(etag)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        new = pointer.with_name(f"{pointer.name}.{os.getpid()}.new")
        new.unlink(missing_ok=True)
        try:
            new.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:  # Windows without developer mode, or a file system without links
            try:
                os.link(blob, new)
            except OSError:
                shutil.copyfile(blob, new)
        os.replace(new, pointer)
        return pointer

    def quarantine(self, path: str) -> None:
        """Hide a damaged file from all programs; it is kept as *.janus-bad until a good one arrives. Raises OSError."""
        pointer = self.pointer(path)
        target = pointer.resolve()
        self.blobs.mkdir(parents=True, exist_ok=True)
        os.replace(target, self.blobs / (target.name + BAD))
        pointer.unlink(missing_ok=True)

    def leftovers(self) -> list[Path]:
        """Unfinished and quarantined files."""
        return [path for suffix in (PARTIAL, BAD) for path in self.blobs.glob("*" + suffix)]

    def is_downloading(self) -> bool:
        """Whether some process is fetching a file of this repository."""
        from filelock import FileLock, Timeout

        for path in self.locks.glob("*.lock"):
            try:
                FileLock(path).acquire(timeout=0).lock.release()
            except Timeout:
                return True
            except OSError:
                continue  # nothing can be downloaded into a read-only cache
        return False

    def delete(self) -> int:
        """Remove this revision, what no other revision uses, leftovers and the converted copy. Raises OSError.

        Returns the bytes freed.
        """
        from huggingface_hub import scan_cache_dir

        before = _bytes_below(self.root)
        for path in self.leftovers():
            path.unlink(missing_ok=True)
        shutil.rmtree(converted_folder(self.snapshot), ignore_errors=True)
        if self.snapshot.is_dir():
            found = scan_cache_dir(self.cache)
            # A fork has the same commits, and delete_revisions takes the first repository that has the commit.
            own = [repo for repo in found.repos if repo.repo_path == self.cache.resolve() / self.root.name]
            replace(found, repos=frozenset(own)).delete_revisions(self.snapshot.name).execute()
            if self.snapshot.exists():  # the scan leaves out damaged repositories
                shutil.rmtree(self.snapshot)
        if not any((self.root / "snapshots").glob("*")):
            shutil.rmtree(self.root, ignore_errors=True)
            shutil.rmtree(self.locks, ignore_errors=True)
        return before - _bytes_below(self.root)


def _bytes_below(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def check_free_space(folder: Path, needed: int, reserve: int) -> None:
    """Raise AppError if `needed` bytes do not fit on the disk of `folder` with `reserve` bytes left free."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed + reserve:
        sizes = {"needed": size_text(needed), "reserve": size_text(reserve), "free": size_text(free)}
        raise AppError("disk_space_short", folder=folder, **sizes)


# The safetensors copy of a pickled checkpoint. For a model of the cache it is beside its snapshots, where no other
# program looks; for a folder of the user it is inside. Its record names the pickles it was made from and its files.


def converted_folder(folder: Path) -> Path:
    """Where the converted weights of a checkpoint folder belong, whether they exist or not."""
    return folder.parent.parent / CONVERTED / folder.name if folder.parent.name == "snapshots" else folder / CONVERTED


def pickle_files(folder: Path) -> list[Path]:
    """The pickled weight files of a checkpoint folder; empty if it has safetensors files or no usable weights."""
    try:
        files = list(find_weights(folder).files)
        safe = any(file.suffix == ".safetensors" or tensor_header(file) is not None for file in files)
    except (AppError, OSError):  # the loader explains what is wrong with the weights
        return []
    return [] if safe else files


def find_converted(folder: Path) -> Path | None:
    """The folder with converted weights, if it is complete and its pickles have not changed since."""
    copy = converted_folder(folder)
    record = read_conversion_record(copy)
    sources, files = record.get("from"), record.get("files")
    if not isinstance(sources, dict) or not isinstance(files, dict) or not files:
        return None
    try:
        current = {path.name: size_and_time(path) for path in pickle_files(folder)} == sources
        complete = all((copy / name).stat().st_size == facts["size"] for name, facts in files.items())
    except (OSError, TypeError, KeyError):
        return None
    return copy if current and complete else None


def is_convertible(folder: Path) -> bool:
    """Whether a checkpoint is read from pickles and has no usable converted copy."""
    files = pickle_files(folder)
    return bool(files) and all(file.is_file() for file in files) and find_converted(folder) is None


def read_conversion_record(copy: Path) -> Mapping[str, Any]:
    """converted.json of a converted copy, empty if it cannot be read."""
    try:
        record = json.loads((copy / CONVERSION_RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def size_and_time(path: Path) -> list[int]:
    """A file's size in bytes and modification time in nanoseconds: one of them changes when the file does."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


@dataclass(frozen=True)
class CacheStatus:
    """What of a variant is on this machine, in bytes. `total` uses published sizes where exact ones are unknown."""

    complete: bool
    on_disk: int
    total: int
    folder: Path | None
    missing: tuple[str, ...] = ()
    unfinished: int = 0  # of `on_disk`, bytes of partial downloads
    verified: bool = False  # every file had the expected hash and has not changed since
    converted: int = 0  # bytes of the safetensors copy, not part of `on_disk`
    convertible: bool = False  # read from pickles, without such a copy

    def with_component(self, name: str, component: CacheStatus) -> CacheStatus:
        """The status of a variant together with that of one of its components."""
        return replace(
            self,
            complete=self.complete and component.complete,
            on_disk=self.on_disk + component.on_disk,
            total=self.total + component.total,
            missing=(*self.missing, *(f"{name}/{file}" for file in component.missing)),
            unfinished=self.unfinished + component.unfinished,
            verified=self.verified and component.verified,
        )


def status_of_folder(folder: Path) -> CacheStatus:
    """The status of a checkpoint outside the cache; one that cannot be read counts as missing."""
    try:
        if (config := find_config(folder)) is None:
            return CacheStatus(False, 0, 0, folder, ("config.json",))
        files = folder.iterdir() if config.parent == folder else folder.rglob("*")
        size = sum(file_size(path) or 0 for path in files if path.is_file())
        return CacheStatus(True, size, size, folder, (), **_conversion(folder))
    except OSError:
        return CacheStatus(False, 0, 0, folder, ("config.json",))


def status_of_cache(variant: Variant, cache: RepoCache, verifier: Verifier) -> CacheStatus:
    """The status of the variant's own files in huggingface_hub's cache."""
    unfinished = sum(file_size(path) or 0 for path in cache.leftovers() if path.name.endswith(PARTIAL))
    finished, missing = 0, []
    for file in variant.files:
        size = file_size(cache.pointer(file.path))
        finished += size or 0
        if size is None or (file.size is not None and size != file.size):
            missing.append(file.path)
    on_disk = finished + unfinished
    return CacheStatus(
        complete=not missing,
        on_disk=on_disk,
        total=max(variant.file_bytes, on_disk) if missing else on_disk,
        folder=cache.snapshot,
        missing=tuple(missing),
        unfinished=unfinished,
        verified=not missing
        and all(verifier.is_verified(variant, file, cache.pointer(file.path)) for file in variant.files),
        **({} if missing else _conversion(cache.snapshot)),
    )


def _conversion(folder: Path) -> dict[str, Any]:
    size = sum(file_size(path) or 0 for path in converted_folder(folder).glob("*") if path.is_file())
    return {"converted": size, "convertible": is_convertible(folder)}
