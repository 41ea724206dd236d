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
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from janus_app.errors import AppError
from janus_app.hub import converted
from janus_app.hub.background import in_background
from janus_app.hub.download import Fetching, quarantine
from janus_app.hub.errors import explain_disk
from janus_app.hub.importing import Imported, import_files
from janus_app.hub.layout import RepoCache, file_length
from janus_app.hub.ledger import HashStore
from janus_app.hub.progress import ProgressReporter, hash_file
from janus_app.hub.status import CacheStatus, status_of_cache, status_of_folder, with_part
from janus_app.hub.transfer import DownloadLimits, RetryPolicy
from janus_app.hub.trust import Verifier
from janus_app.paths import data_folder
from janus_app.registry.types import File, Variant
from janus_app.types import Progress

__all__ = ["CacheStatus", "Hub", "Imported", "Patience", "Width"]

RESERVE = 500_000_000  # bytes of the disk that a download leaves free
TOKEN_TO_MIRROR = "JANUS_APP_TOKEN_TO_MIRROR"  # set by a user who trusts the mirror in HF_ENDPOINT with the token
_TRUE = {"1", "true", "yes", "on"}


class Hub:
    """The model files of this machine and the way to the others.

    `cache_dir` and `endpoint` default to what huggingface_hub uses (HF_HOME, HF_HUB_CACHE, HF_ENDPOINT), `offline` to
    HF_HUB_OFFLINE. The user's token is sent to huggingface.co only, to another endpoint where
    JANUS_APP_TOKEN_TO_MIRROR=1 asks for it.
    """

    def __init__(
        self,
        cache_dir: Path | None = None,
        endpoint: str | None = None,
        offline: bool | None = None,
        *,
        data: Path | None = None,
        patience: RetryPolicy | None = None,
        width: DownloadLimits | None = None,
        reserve: int = RESERVE,
    ) -> None:
        self._cache_dir = cache_dir
        self._endpoint = endpoint
        self._offline = offline
        self._patience = patience or RetryPolicy()
        self._width = width or DownloadLimits()
        self._reserve = reserve
        self._ledger = HashStore(data or data_folder())
        self._trust = Verifier(self._ledger)

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
        return _is_set("HF_HUB_OFFLINE")

    def status(self, variant: Variant) -> CacheStatus:
        """What is on disk of a variant and its components, by names and lengths: quick, no network, no hashing."""
        if variant.folder is not None:
            own = status_of_folder(variant.folder)
        else:
            own = status_of_cache(variant, self._cache(variant), self._trust)
        for name, part in variant.parts.items():
            own = with_part(own, name, status_of_cache(part, self._cache(part), self._trust))
        return own

    def part_folders(self, variant: Variant) -> dict[str, Path]:
        """Where the variant's components lie once they were fetched, by name."""
        return {name: self._cache(part).snapshot for name, part in variant.parts.items()}

    def fetch(self, variant: Variant) -> Generator[Progress, None, Path]:
        """Make every file of the manifest present and verified; returns the folder that holds them.

        Components follow, each into a folder of its own (`part_folders`).

        Progress counts bytes: stage "verify" for files already here and not hashed before, then "download". Closing
        the generator stops at once and keeps what arrived. Raises AppError for everything the user
        can do something about.
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
                names = ", ".join(file.path for file in missing)
                raise AppError(
                    f"{variant.title} is not complete on this machine ({names} missing) and "
                    "offline mode is on. Unset HF_HUB_OFFLINE to download it, or choose the embedded model."
                )
            yield from self._download(variant, cache, missing)
        yield from self._verify_converted(cache.snapshot)
        return cache.snapshot

    def verify(self, variant: Variant) -> Generator[Progress, None, None]:
        """Hash every file again. Raises AppError naming damaged and missing ones; damaged ones are set aside."""
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
            raise AppError(
                f"{variant.title}: {', '.join(file.path for file in missing)} damaged or missing. "
                "Load the model to download what is needed again."
            )

    def delete(self, variant: Variant) -> int:
        """Remove the variant from disk, unfinished downloads and a converted copy included, and its components.

        Returns the bytes freed.
        """
        if variant.folder is not None:
            raise AppError(f"{variant.title} was not downloaded by this app, so it is not deleted: {variant.folder}")
        caches = [self._cache(one) for one in (variant, *variant.parts.values())]
        if any(cache.busy() for cache in caches):
            raise AppError(f"{variant.title} is being downloaded right now, so it is not deleted. Stop that first.")
        freed = 0
        for cache in caches:
            try:
                freed += cache.delete()
            except OSError as error:
                raise explain_disk(error, self.cache_dir, 0) from error
            self._ledger.forget(cache.root.resolve())
        return freed

    def import_folder(self, variant: Variant, folder: Path, copy: bool = False) -> Generator[Progress, None, Imported]:
        """Take the variant's files from a folder of the user into the cache. Raises AppError, see import_files."""
        if variant.folder is not None:
            raise AppError(f"{variant.title} already lies in a folder: {variant.folder}. It needs no import.")
        if not folder.is_dir():
            raise AppError(f"There is no folder {folder}. Give the path of the folder that holds the model's files.")
        cache = self._cache(variant)
        etags: dict[str, str] = {}
        unsure = [file for file in variant.files if self._trust.expected(variant, file) is None]
        if unsure and not self.offline:
            meter = ProgressReporter(stage="import", label="asking the Hub for the hashes")
            fetching = self._fetching(variant, cache, meter, replace(self._patience, attempts=1))
            with suppress(AppError):  # without the Hub the files are taken as they are, and that is said
                remotes = yield from in_background(lambda: fetching.ask(unsure), meter)
                etags = {file.path: remote.etag for file, remote in zip(unsure, remotes, strict=True)}
        done = yield from import_files(variant, cache, self._trust, folder, etags, copy=copy, reserve=self._reserve)
        for name, part in variant.parts.items():
            if (folder / name).is_dir():  # else the component is fetched when the model is loaded
                more = yield from self.import_folder(part, folder / name, copy)
                unknown = (*done.unknown, *(f"{name}/{path}" for path in more.unknown))
                done = replace(done, compared=done.compared + more.compared, unknown=unknown)
        return done

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
            elif again or not self._trust.known_good(variant, file, path):
                unknown.append(file)
        meter = ProgressReporter(
            stage="verify", total=sum(file_length(cache.pointer(file.path)) or 0 for file in unknown)
        )
        for number, file in enumerate(unknown, start=1):
            path = cache.pointer(file.path)
            meter.label = f"{file.path} ({number}/{len(unknown)})"
            yield from meter.report(force=True)
            digest = yield from hash_file(path, meter)
            if self._trust.matches(variant, file, path, digest):
                self._trust.accept(variant, file, path, digest.sha256, digest.size)
                continue
            quarantine(cache, file)
            meter.note("damaged, set aside")
            yield from meter.report()
            missing.append(file)
        return missing

    def trust_converted(self, folder: Path) -> None:
        """Remember that the converted weights of a checkpoint folder were hashed just now."""
        inside = converted.converted_folder(folder)
        for name, facts in converted.read_metadata(inside).get("files", {}).items():
            self._ledger.set_verified((inside / name).resolve(), facts["sha256"])

    def _verify_converted(self, folder: Path, again: bool = False) -> Generator[Progress, None, None]:
        """Hash converted weights not hashed before; damaged ones are removed, the pickles are there still."""
        inside = converted.usable(folder)
        if inside is None:
            return
        for name, facts in converted.read_metadata(inside)["files"].items():
            path = inside / name
            if not again and self._ledger.verified(path.resolve()) == facts["sha256"]:
                continue
            meter = ProgressReporter(stage="verify", total=facts["size"], label=name)
            digest = yield from hash_file(path, meter)
            if digest.sha256 != facts["sha256"]:
                shutil.rmtree(inside, ignore_errors=True)
                meter.note("the converted copy is damaged and was removed; the original is used")
                yield from meter.report()
                return
            self._ledger.set_verified(path.resolve(), digest.sha256)

    def _download(self, variant: Variant, cache: RepoCache, files: list[File]) -> Generator[Progress, None, None]:
        meter = ProgressReporter()
        fetching = self._fetching(variant, cache, meter, self._patience)
        yield from in_background(lambda: fetching.run(files), meter)

    def _fetching(self, variant: Variant, cache: RepoCache, meter: ProgressReporter, patience: RetryPolicy) -> Fetching:
        return Fetching(
            variant,
            cache,
            self._trust,
            meter,
            endpoint=self.endpoint,
            token=self._token(),
            patience=patience,
            width=self._width,
            reserve=self._reserve,
        )

    def _token(self) -> bool | None:
        """Whose token: huggingface_hub's own choice for huggingface.co; for other endpoints only if asked to."""
        from huggingface_hub import constants

        if self.endpoint == constants._HF_DEFAULT_ENDPOINT or _is_set(TOKEN_TO_MIRROR):
            return None
        return False


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in _TRUE


def _existing(variant: Variant, folder: Path) -> Path:
    """The folder of a local variant. Raises AppError where it holds no checkpoint."""
    if not (folder / "config.json").is_file():
        if variant.user_supplied:
            raise AppError(
                f"{variant.notes} To use it all the same, put a checkpoint of your own into {folder}, or give the path "
                "of its folder as the model."
            )
        raise AppError(
            f"{variant.title} should be in {folder}, but there is no config.json in it. "
            "Restore the folder (a complete clone has it), or choose another model."
        )
    return folder
