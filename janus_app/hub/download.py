"""All missing files of a variant at once: asked for, checked against the disk, locked, fetched, verified."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.hub.errors import READ_ONLY, Asked, explain_disk, no_room
from janus_app.hub.layout import RepoCache, file_length
from janus_app.hub.progress import ProgressReporter, hash_file
from janus_app.hub.transfer import DownloadLimits, Remote, RetryPolicy, Transfer, stepping
from janus_app.hub.trust import Verifier
from janus_app.registry.types import File, Variant

LOCK_LOOK = 0.2  # seconds between two tries for a lock another process holds


class Fetching:
    """One download of one variant."""

    def __init__(
        self,
        variant: Variant,
        cache: RepoCache,
        trust: Verifier,
        meter: ProgressReporter,
        *,
        endpoint: str,
        token: bool | str | None,
        patience: RetryPolicy,
        width: DownloadLimits,
        reserve: int,
    ) -> None:
        self._variant, self._cache, self._trust, self._meter = variant, cache, trust, meter
        self._endpoint, self._token, self._patience, self._width = endpoint, token, patience, width
        self._reserve = reserve
        self._under_way: list[str] = []
        self._finished = 0
        self._count = 0

    async def ask(self, files: Sequence[File]) -> list[Remote]:
        """What the Hub says about the files, without fetching them."""
        async with self._transfer() as transfer:
            return await _together([self._ask(transfer, file) for file in files])

    async def run(self, files: Sequence[File]) -> None:
        """Fetch the files. The first error cancels the others; what arrived of them is kept."""
        self._count = len(files)
        async with self._transfer() as transfer:
            self._meter.note("asking for the files")
            remotes = await _together([self._ask(transfer, file) for file in files])
            self._meter.total = sum(remote.size for remote in remotes)
            self._check_room(remotes)
            seats = asyncio.Semaphore(self._width.files)
            pairs = zip(files, remotes, strict=True)
            await _together([self._in_turn(seats, transfer, file, remote) for file, remote in pairs])
        self._meter.label = ""
        self._meter.done = self._meter.total
        self._meter.note("complete")

    @asynccontextmanager
    async def _transfer(self) -> AsyncIterator[Transfer]:
        from huggingface_hub import get_async_session

        helpers = ThreadPoolExecutor(self._width.files, thread_name_prefix="janus-ask")
        try:
            async with get_async_session() as client:
                yield Transfer(
                    self._cache,
                    self._endpoint,
                    self._token,
                    self._patience,
                    self._width,
                    self._meter,
                    client,
                    helpers,
                )
        finally:
            helpers.shutdown(wait=False, cancel_futures=True)

    def _asked(self, file: File) -> Asked:
        return Asked(self._variant.repo or "", self._variant.revision or "", file.path, self._endpoint)

    async def _ask(self, transfer: Transfer, file: File) -> Remote:
        remote = await transfer.ask(self._asked(file))
        self._trust.agree(self._variant, file, remote.size, remote.etag, self._endpoint)
        return remote

    def _check_room(self, remotes: Sequence[Remote]) -> None:
        def lacking(remote: Remote) -> int:
            if file_length(self._cache.blob(remote.etag)) == remote.size:
                return 0  # another revision has it
            return max(0, remote.size - (file_length(self._cache.partial(remote.etag)) or 0))

        check_room(self._cache.cache, sum(lacking(remote) for remote in remotes), self._reserve)

    async def _in_turn(self, seats: asyncio.Semaphore, transfer: Transfer, file: File, remote: Remote) -> None:
        async with seats:
            self._under_way.append(file.path)
            self._describe()
            await self._one(transfer, file, remote)
            self._under_way.remove(file.path)
            self._finished += 1
            self._describe()

    def _describe(self) -> None:
        names = ", ".join(self._under_way)
        self._meter.label = f"{names} ({self._finished} of {self._count} files done)" if names else ""

    async def _one(self, transfer: Transfer, file: File, remote: Remote) -> None:
        """One file, by one process at a time: the others wait for its lock, then find it done."""
        variant, cache, trust, meter = self._variant, self._cache, self._trust, self._meter
        path = cache.pointer(file.path)
        lock = await self._lock(remote)
        try:
            if not path.is_file() and file_length(cache.blob(remote.etag)) == remote.size:
                cache.link(remote.etag, file.path)  # another revision of the repository has the same bytes
            if path.is_file():
                own = ProgressReporter()
                digest = await stepping(hash_file(path, own))
                if trust.matches(variant, file, path, digest):
                    meter.moved(remote.size)
                    trust.accept(variant, file, path, digest.sha256, digest.size)
                    return
                quarantine(cache, file)
            expected = trust.expected(variant, file)
            sha256 = await transfer.fetch(self._asked(file), remote, expected)
            if expected is None:
                meter.note(f"the hash of {file.path} was not known before; pinned now: sha256 {sha256}")
            trust.accept(variant, file, path, sha256, remote.size)
        finally:
            lock.release()

    async def _lock(self, remote: Remote) -> Any:
        from filelock import FileLock, Timeout

        path = self._cache.locks / f"{self._cache.blob(remote.etag).name}.lock"  # huggingface_hub locks the same file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, thread_local=False)
            while True:
                try:
                    return lock.acquire(timeout=0).lock
                except Timeout:
                    self._meter.note("another program is downloading this file; waiting")
                    await asyncio.sleep(LOCK_LOOK)
        except OSError as error:
            raise explain_disk(error, self._cache.cache, remote.size) from error


async def _together(works: Sequence[Any]) -> list[Any]:
    """All at once; the first error cancels the others and is raised once they have cleaned up."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def check_room(folder: Path, needed: int, reserve: int) -> None:
    """Raises AppError where `needed` bytes do not fit on the disk of `folder` with `reserve` left free."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed + reserve:
        raise no_room(folder, needed, reserve, free)


def quarantine(cache: RepoCache, file: File) -> None:
    """Take a damaged file out of sight. Raises AppError where the cache does not let itself be changed."""
    try:
        with suppress(FileNotFoundError):  # another process was faster
            cache.quarantine(file.path)
    except OSError as error:
        reason = "read-only" if error.errno in READ_ONLY else str(error.strerror or error)
        raise AppError(
            f"{file.path} in {cache.snapshot} is damaged and cannot be replaced ({reason}). "
            "Delete it, or set HF_HOME to a folder that can be written."
        ) from error
