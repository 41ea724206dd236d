"""The files of all variants on this machine, in huggingface_hub's cache, and the connection to the Hub.

No file is handed out before its sha256 was compared: with the manifest's, or, where that is not published, with what
the Hub said at first contact, which is pinned from then on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from janus_app.errors import AppError, Message
from janus_app.files import file_size, os_errors_as_app_errors
from janus_app.hub.cache import (
    CacheStatus,
    RepoCache,
    converted_folder,
    find_converted,
    read_conversion_record,
    status_of_cache,
    status_of_folder,
)
from janus_app.hub.download import VariantDownload, in_background, quarantine
from janus_app.hub.importing import Imported, import_files
from janus_app.hub.progress import ProgressReporter
from janus_app.hub.transfer import DownloadLimits, DownloadSettings, RetryPolicy
from janus_app.hub.verify import HashStore, Verifier, hash_file
from janus_app.models.registry import find_config
from janus_app.paths import data_folder
from janus_app.registry.checkpoint_folder import folder_of_file
from janus_app.registry.types import File, Variant
from janus_app.types import Progress

RESERVE = 500_000_000  # bytes of the disk that a download leaves free
TOKEN_TO_MIRROR = "JANUS_APP_TOKEN_TO_MIRROR"  # set by a user who trusts the mirror in HF_ENDPOINT with the token
_TRUE = {"1", "true", "yes", "on"}


class Hub:
    """Fetches, verifies, imports and deletes the files of variants.

    `cache_dir` and `endpoint` default to what huggingface_hub uses (HF_HOME, HF_HUB_CACHE, HF_ENDPOINT), `offline` to
    HF_HUB_OFFLINE. The user's token is sent to huggingface.co only, to another endpoint if JANUS_APP_TOKEN_TO_MIRROR=1
    asks for it. `data` is the folder that hashes are remembered in.
    """

    def __init__(
        self,
        cache_dir: Path | None = None,
        endpoint: str | None = None,
        offline: bool | None = None,
        *,
        data: Path | None = None,
        retry: RetryPolicy | None = None,
        limits: DownloadLimits | None = None,
        reserve: int = RESERVE,
    ) -> None:
        self._cache_dir = cache_dir
        self._endpoint = endpoint
        self._offline = offline
        self._retry = retry or RetryPolicy()
        self._limits = limits or DownloadLimits()
        self._reserve = reserve
        self._store = HashStore(data or data_folder())
        self._verifier = Verifier(self._store)

    @property
    def cache_dir(self) -> Path:
        """The cache of huggingface_hub, shared with every other program that uses it."""
        if self._cache_dir is not None:
            return Path(self._cache_dir)
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE)

    @property
    def endpoint(self) -> str:
        """The address of the Hub, without a slash at the end."""
        from huggingface_hub import constants

        return (self._endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")

    @property
    def offline(self) -> bool:
        """Whether no request may be made."""
        return _is_set("HF_HUB_OFFLINE") if self._offline is None else self._offline

    def status(self, variant: Variant) -> CacheStatus:
        """What is on disk of a variant and its components, by names and sizes: quick, no network, no hashing."""
        if variant.folder is not None:
            status = status_of_folder(variant.folder)
        else:
            status = status_of_cache(variant, self._cache(variant), self._verifier)
        for name, part in variant.parts.items():
            status = status.with_component(name, status_of_cache(part, self._cache(part), self._verifier))
        return status

    def part_folders(self, variant: Variant) -> dict[str, Path]:
        """The folders of the variant's components once they were fetched, by name."""
        return {name: self._cache(part).snapshot for name, part in variant.parts.items()}

    def fetch(self, variant: Variant) -> Generator[Progress, None, Path]:
        """Make every file of the variant and its components present and verified; returns the variant's folder.

        Each component has its own folder, see `part_folders`. Progress counts bytes: stage "verify" for files on disk
        that were not hashed before, then "download". Closing the generator stops at once and keeps what arrived.
        Raises AppError.
        """
        folder = yield from self._fetch(variant)
        for part in variant.parts.values():
            yield from self._fetch(part)
        return folder

    def _fetch(self, variant: Variant) -> Generator[Progress, None, Path]:
        if variant.folder is not None:
            return _existing(variant, variant.folder)
        cache = self._cache(variant)
        missing = yield from self._verify_present(variant, cache)
        if missing:
            if self.offline:
                raise AppError("model_incomplete_offline", title=variant.title, files=_names(missing))
            reporter = ProgressReporter()
            download = VariantDownload(variant, cache, self._verifier, self._settings(self._retry), reporter)
            yield from in_background(lambda: download.run(missing), reporter)
        yield from self._verify_converted(cache.snapshot)
        return cache.snapshot

    def verify(self, variant: Variant) -> Generator[Progress, None, None]:
        """Hash every file again. Raises AppError naming damaged and missing ones; damaged ones are quarantined."""
        for one in (variant, *variant.parts.values()):
            yield from self._verify(one)

    def _verify(self, variant: Variant) -> Generator[Progress, None, None]:
        if variant.folder is not None:
            _existing(variant, variant.folder)
            return
        cache = self._cache(variant)
        missing = yield from self._verify_present(variant, cache, again=True)
        yield from self._verify_converted(cache.snapshot, again=True)
        if missing:
            raise AppError("model_files_damaged", title=variant.title, files=_names(missing))

    def delete(self, variant: Variant) -> int:
        """Remove a variant and its components from disk, unfinished downloads and converted copies included.

        Returns the bytes freed. Raises AppError if the variant was not downloaded by this app or is being downloaded.
        """
        if variant.folder is not None:
            raise AppError("delete_of_user_folder", title=variant.title, folder=variant.folder)
        caches = [self._cache(one) for one in (variant, *variant.parts.values())]
        if any(cache.is_downloading() for cache in caches):
            raise AppError("delete_during_download", title=variant.title)
        freed = 0
        for cache in caches:
            with os_errors_as_app_errors(Message("model_not_deleted", title=variant.title), self.cache_dir):
                freed += cache.delete()
            self._store.forget(cache.root.resolve())
        return freed

    def import_folder(self, variant: Variant, folder: Path, copy: bool = False) -> Generator[Progress, None, Imported]:
        """Take the variant's files from a folder of the user into the cache. Raises AppError, see import_files."""
        if variant.folder is not None:
            raise AppError("import_not_needed", title=variant.title, folder=variant.folder)
        if folder.is_file():
            folder = folder_of_file(folder)
        if not folder.is_dir():
            raise AppError("import_folder_missing", folder=folder)
        cache = self._cache(variant)
        etags: dict[str, str] = {}
        unpublished = [file for file in variant.files if self._verifier.expected(variant, file) is None]
        if unpublished and not self.offline:
            reporter = ProgressReporter(stage="import", label=Message("import_asking_for_hashes"))
            settings = self._settings(replace(self._retry, attempts=1))
            download = VariantDownload(variant, cache, self._verifier, settings, reporter)
            with suppress(AppError):  # without the Hub the files are taken uncompared, and the result says so
                remotes = yield from in_background(lambda: download.ask(unpublished), reporter)
                etags = {file.path: remote.etag for file, remote in zip(unpublished, remotes, strict=True)}
        done = yield from import_files(variant, cache, self._verifier, folder, etags, copy=copy, reserve=self._reserve)
        for name, part in variant.parts.items():
            if (folder / name).is_dir():  # else the component is fetched when the model is loaded
                more = yield from self.import_folder(part, folder / name, copy)
                unknown = (*done.unknown, *(f"{name}/{path}" for path in more.unknown))
                done = replace(done, compared=done.compared + more.compared, unknown=unknown)
        return done

    def mark_converted_verified(self, folder: Path) -> None:
        """Remember that the converted weights of a checkpoint folder were hashed just now."""
        copy = converted_folder(folder)
        for name, facts in read_conversion_record(copy).get("files", {}).items():
            self._store.set_verified((copy / name).resolve(), facts["sha256"])

    def _cache(self, variant: Variant) -> RepoCache:
        assert variant.repo is not None and variant.revision is not None  # the catalog refuses such rows
        return RepoCache(self.cache_dir, variant.repo, variant.revision)

    def _verify_present(
        self, variant: Variant, cache: RepoCache, again: bool = False
    ) -> Generator[Progress, None, list[File]]:
        """Hash the cached files that were not hashed before (all if `again`); returns those that must be fetched."""
        missing: list[File] = []
        unverified: list[File] = []
        for file in variant.files:
            path = cache.pointer(file.path)
            if not path.is_file():
                missing.append(file)
            elif again or not self._verifier.is_verified(variant, file, path):
                unverified.append(file)
        total = sum(file_size(cache.pointer(file.path)) or 0 for file in unverified)
        reporter = ProgressReporter(stage="verify", total=total)
        for number, file in enumerate(unverified, start=1):
            path = cache.pointer(file.path)
            reporter.label = f"{file.path} ({number}/{len(unverified)})"
            yield from reporter.report(force=True)
            digest = yield from hash_file(path, reporter)
            if self._verifier.matches(variant, file, path, digest):
                self._verifier.accept(variant, file, path, digest.sha256, digest.size)
                continue
            quarantine(cache, file)
            reporter.note(Message("file_quarantined", path=file.path))
            yield from reporter.report()
            missing.append(file)
        return missing

    def _verify_converted(self, folder: Path, again: bool = False) -> Generator[Progress, None, None]:
        """Hash converted weights not hashed before; a damaged copy is removed, the pickles remain."""
        copy = find_converted(folder)
        if copy is None:
            return
        for name, facts in read_conversion_record(copy)["files"].items():
            path = copy / name
            if not again and self._store.verified(path.resolve()) == facts["sha256"]:
                continue
            reporter = ProgressReporter(stage="verify", total=facts["size"], label=name)
            digest = yield from hash_file(path, reporter)
            if digest.sha256 != facts["sha256"]:
                shutil.rmtree(copy, ignore_errors=True)
                reporter.note(Message("converted_copy_removed"))
                yield from reporter.report()
                return
            self._store.set_verified(path.resolve(), digest.sha256)

    def _settings(self, retry: RetryPolicy) -> DownloadSettings:
        return DownloadSettings(self.endpoint, self._token(), retry, self._limits, self._reserve)

    def _token(self) -> bool | None:
        """None lets huggingface_hub send the user's token; False sends none."""
        from huggingface_hub import constants

        if self.endpoint == constants._HF_DEFAULT_ENDPOINT or _is_set(TOKEN_TO_MIRROR):
            return None
        return False


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in _TRUE


def _names(files: list[File]) -> str:
    return ", ".join(file.path for file in files)


def _existing(variant: Variant, folder: Path) -> Path:
    """The folder of a local variant. Raises AppError if it holds no checkpoint."""
    if find_config(folder) is None:
        if variant.user_supplied:
            raise AppError("user_supplied_folder_empty", notes=variant.notes, folder=folder)
        raise AppError("model_folder_incomplete", title=variant.title, folder=folder)
    return folder
