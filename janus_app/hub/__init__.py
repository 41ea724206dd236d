"""Puts a variant's files on disk: resumable, verified, cancellable, offline-aware; in huggingface_hub's own cache.

    hub = Hub()
    folder = yield from hub.fetch(variant)      # Progress events on the way; closing the generator cancels

Nothing is handed out before its sha256 was compared: with the manifest's, or, where that is not published, with what
the Hub said at first contact, which is pinned from then on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_app.catalog import File, Variant, data_folder
from janus_app.errors import AppError
from janus_app.hub.layout import PARTIAL, RepoCache
from janus_app.hub.ledger import Ledger
from janus_app.hub.problems import READ_ONLY, Asked, explain_disk, no_room
from janus_app.hub.transfer import Digest, Meter, Patience, Remote, Transfer, hash_file
from janus_app.models.base import Progress

__all__ = ["CacheStatus", "Hub", "Patience"]

RESERVE = 500_000_000  # bytes of the disk that a download leaves free
_TRUE = {"1", "true", "yes", "on"}


@dataclass(frozen=True)
class CacheStatus:
    """What of a variant lies on this machine. `total` counts published sizes where exact ones are not known."""

    complete: bool
    on_disk: int
    total: int
    folder: Path | None
    missing: tuple[str, ...] = ()


class Hub:
    """The model files of this machine and the way to the others.

    `cache_dir` and `endpoint` default to what huggingface_hub uses (HF_HOME, HF_HUB_CACHE, HF_ENDPOINT), `offline` to
    HF_HUB_OFFLINE. The user's token is sent to huggingface.co only, never to another endpoint.
    """

    def __init__(
        self,
        cache_dir: Path | None = None,
        endpoint: str | None = None,
        offline: bool | None = None,
        *,
        data: Path | None = None,
        patience: Patience | None = None,
        reserve: int = RESERVE,
    ) -> None:
        self._cache_dir = cache_dir
        self._endpoint = endpoint
        self._offline = offline
        self._patience = patience or Patience()
        self._reserve = reserve
        self._ledger = Ledger(data or data_folder())

    @property
    def cache_dir(self) -> Path:
        """The cache of huggingface_hub, shared with every other program that uses it."""
        if self._cache_dir is not None:
            return Path(self._cache_dir)
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE)

    @property
    def endpoint(self) -> str:
        """Where the Hub is, without a slash at the end."""
        from huggingface_hub import constants

        return (self._endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")

    @property
    def offline(self) -> bool:
        """True where no request may be made."""
        if self._offline is not None:
            return self._offline
        return os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE

    def status(self, variant: Variant) -> CacheStatus:
        """What is on disk, by names and lengths: quick, without network and without hashing."""
        if variant.folder is not None:
            present = (variant.folder / "config.json").is_file()
            size = _folder_bytes(variant.folder) if present else 0
            return CacheStatus(present, size, size, variant.folder, () if present else ("config.json",))
        cache = self._cache(variant)
        on_disk = sum(_length(path) or 0 for path in cache.leftovers() if path.name.endswith(PARTIAL))
        missing = []
        for file in variant.files:
            length = _length(cache.pointer(file.path))
            on_disk += length or 0
            if length is None or (file.size is not None and length != file.size):
                missing.append(file.path)
        total = max(variant.download_bytes, on_disk) if missing else on_disk
        return CacheStatus(not missing, on_disk, total, cache.snapshot, tuple(missing))

    def fetch(self, variant: Variant) -> Generator[Progress, None, Path]:
        """Make every file of the manifest present and verified; returns the folder that holds them.

        Progress counts bytes: stage "verify" for files already here and not hashed before, then "download". Closing
        the generator stops within one block of bytes and keeps what arrived. Raises AppError for everything the user
        can do something about.
        """
        if variant.folder is not None:
            return _existing(variant, variant.folder)
        cache = self._cache(variant)
        missing = yield from self._verify_present(variant, cache)
        if missing:
            if self.offline:
                names = ", ".join(file.path for file in missing)
                raise AppError(
                    f"{variant.title} is not complete on this machine ({names} missing) and "
                    "offline mode is on. Unset HF_HUB_OFFLINE to download it, or choose the embedded model."
                )
            yield from self._download(variant, cache, missing)
        return cache.snapshot

    def verify(self, variant: Variant) -> Generator[Progress, None, None]:
        """Hash every file again. Raises AppError naming damaged and missing ones; damaged ones are set aside."""
        if variant.folder is not None:
            _existing(variant, variant.folder)
            return
        missing = yield from self._verify_present(variant, self._cache(variant), again=True)
        if missing:
            raise AppError(
                f"{variant.title}: {', '.join(file.path for file in missing)} damaged or missing. "
                "Load the model to download what is needed again."
            )

    def delete(self, variant: Variant) -> int:
        """Remove the variant from disk, unfinished downloads included. Returns the bytes freed."""
        if variant.folder is not None:
            raise AppError(f"{variant.title} was not downloaded by this app, so it is not deleted: {variant.folder}")
        cache = self._cache(variant)
        try:
            freed = cache.delete()
        except OSError as error:
            raise explain_disk(error, self.cache_dir, 0) from error
        self._ledger.forget(cache.root.resolve())
        return freed

    def _cache(self, variant: Variant) -> RepoCache:
        assert variant.repo is not None and variant.revision is not None  # the catalog refuses such rows
        return RepoCache(self.cache_dir, variant.repo, variant.revision)

    def _verify_present(
        self, variant: Variant, cache: RepoCache, again: bool = False
    ) -> Generator[Progress, None, list[File]]:
        """Hash what is in the cache and was not hashed before; returns the files that have to be fetched."""
        missing: list[File] = []
        unknown: list[File] = []
        for file in variant.files:
            path = cache.pointer(file.path)
            if not path.is_file():
                missing.append(file)
            elif again or not self._known_good(variant, file, path):
                unknown.append(file)
        meter = Meter(stage="verify", total=sum(_length(cache.pointer(file.path)) or 0 for file in unknown))
        for number, file in enumerate(unknown, start=1):
            path = cache.pointer(file.path)
            meter.label = f"{file.path} ({number}/{len(unknown)})"
            yield from meter.report(force=True)
            digest = yield from hash_file(path, meter)
            if self._acceptable(variant, file, path, digest):
                self._accept(variant, file, path, digest)
                continue
            self._set_aside(cache, file)
            yield from meter.report("damaged, set aside", force=True)
            missing.append(file)
        return missing

    def _expected(self, variant: Variant, file: File) -> str | None:
        """The sha256 a file must have: the manifest's, else the one pinned at first contact, else None."""
        if file.sha256 is not None:
            return file.sha256
        pin = self._ledger.pin(_key(variant, file))
        return pin["sha256"] if pin else None

    def _known_good(self, variant: Variant, file: File, path: Path) -> bool:
        expected = self._expected(variant, file)
        return expected is not None and self._ledger.verified(path.resolve()) == expected

    def _acceptable(self, variant: Variant, file: File, path: Path, digest: Digest) -> bool:
        """A cached file is right if its hash is the expected one; else if it is what its blob's name, the Hub's ETag at
        the time it was fetched, says."""
        if file.size is not None and digest.size != file.size:
            return False
        expected = self._expected(variant, file)
        return digest.sha256 == expected if expected else digest.fits(path.resolve().name)

    def _accept(self, variant: Variant, file: File, path: Path, digest: Digest) -> None:
        if file.sha256 is None:
            self._ledger.set_pin(_key(variant, file), digest.sha256, digest.size)
        self._ledger.set_verified(path.resolve(), digest.sha256)

    def _set_aside(self, cache: RepoCache, file: File) -> None:
        try:
            cache.set_aside(file.path)
        except OSError as error:
            reason = "read-only" if error.errno in READ_ONLY else str(error.strerror or error)
            raise AppError(
                f"{file.path} in {cache.snapshot} is damaged and cannot be replaced ({reason}). "
                "Delete it, or set HF_HOME to a folder that can be written."
            ) from error

    def _download(self, variant: Variant, cache: RepoCache, files: list[File]) -> Generator[Progress, None, None]:
        from huggingface_hub import constants

        token = None if self.endpoint == constants._HF_DEFAULT_ENDPOINT else False
        transfer = Transfer(cache, self.endpoint, token, self._patience)
        meter = Meter()
        plan: list[tuple[File, Asked, Remote]] = []
        for file in files:
            asked = Asked(variant.repo or "", variant.revision or "", file.path, self.endpoint)
            remote = yield from transfer.ask(asked, meter)
            self._agree(variant, file, remote)
            plan.append((file, asked, remote))
        meter.total = sum(remote.size for _, _, remote in plan)
        self._check_room(cache, [remote for _, _, remote in plan])
        for number, (file, asked, remote) in enumerate(plan, start=1):
            meter.label = f"{file.path} ({number}/{len(plan)})"
            yield from meter.report(force=True)
            yield from self._one(variant, cache, transfer, file, asked, remote, meter)
        meter.done = meter.total
        yield from meter.report("complete", force=True)

    def _agree(self, variant: Variant, file: File, remote: Remote) -> None:
        """Refuse before the first byte what cannot be the pinned file."""
        expected = self._expected(variant, file)
        if file.size is not None and remote.size != file.size:
            reason = f"is {remote.size:,} bytes long, expected {file.size:,}"
        elif expected and len(remote.etag) == 64 and remote.etag != expected:
            reason = f"has sha256 {remote.etag[:12]}..., expected {expected[:12]}..."
        else:
            return
        raise AppError(
            f"{file.path} of {variant.repo} at {self.endpoint} {reason}. It is not the file this app trusts, so "
            "nothing was downloaded. Try another endpoint, or report it to the app's authors."
        )

    def _check_room(self, cache: RepoCache, remotes: list[Remote]) -> None:
        needed = sum(max(0, remote.size - (_length(cache.partial(remote.etag)) or 0)) for remote in remotes)
        place = self.cache_dir
        while not place.exists() and place != place.parent:
            place = place.parent
        free = shutil.disk_usage(place).free
        if free < needed + self._reserve:
            raise no_room(self.cache_dir, needed, self._reserve, free)

    def _one(
        self,
        variant: Variant,
        cache: RepoCache,
        transfer: Transfer,
        file: File,
        asked: Asked,
        remote: Remote,
        meter: Meter,
    ) -> Generator[Progress, None, None]:
        """One file, by one process at a time: the others wait for its lock, then find it done."""
        start, path = meter.done, cache.pointer(file.path)
        lock = yield from self._lock(cache, remote, meter)
        try:
            blob = cache.blob(remote.etag)
            if not path.is_file() and _length(blob) == remote.size:
                cache.link(remote.etag, file.path)  # another revision of the repository has the same bytes
            if path.is_file():
                digest = yield from hash_file(path, meter)
                if self._acceptable(variant, file, path, digest):
                    self._accept(variant, file, path, digest)
                    return
                meter.moved(start - meter.done)
                self._set_aside(cache, file)
            expected = self._expected(variant, file)
            sha256 = yield from transfer.fetch(asked, remote, expected, meter)
            if expected is None:
                self._ledger.set_pin(_key(variant, file), sha256, remote.size)
                yield from meter.report(f"its hash was not known before; pinned now: sha256 {sha256}", force=True)
            self._ledger.set_verified(path.resolve(), sha256)
        finally:
            lock.release()

    def _lock(self, cache: RepoCache, remote: Remote, meter: Meter) -> Generator[Progress, None, Any]:
        from filelock import FileLock, Timeout

        path = cache.locks / f"{cache.blob(remote.etag).name}.lock"  # huggingface_hub locks the same file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A generator may be advanced from another thread each time: the lock must not belong to one.
            lock = FileLock(path, thread_local=False)
            while True:
                try:
                    return lock.acquire(timeout=0.2).lock
                except Timeout:
                    yield from meter.report("another program is downloading this file; waiting", force=True)
        except OSError as error:
            raise explain_disk(error, self.cache_dir, remote.size) from error


def _key(variant: Variant, file: File) -> str:
    return f"{variant.repo}@{variant.revision}/{file.path}"


def _length(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _folder_bytes(folder: Path) -> int:
    return sum(_length(path) or 0 for path in folder.iterdir() if path.is_file())


def _existing(variant: Variant, folder: Path) -> Path:
    """The folder of a local variant. Raises AppError where it holds no checkpoint."""
    if not (folder / "config.json").is_file():
        raise AppError(
            f"{variant.title} should be in {folder}, but there is no config.json in it. "
            "Restore the folder (a complete clone has it), or choose another model."
        )
    return folder
