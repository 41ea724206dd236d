"""The missing files of a variant: asked for, checked against the disk, locked, fetched and verified."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from concurrent.futures import wait
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from janus_app.errors import Message
from janus_app.files import file_size, os_errors_as_app_errors
from janus_app.hub.cache import RepoCache, check_free_space
from janus_app.hub.errors import FileRequest, explain_cache_error
from janus_app.hub.progress import TICK, ProgressReporter
from janus_app.hub.proxies import check_endpoint, open_client
from janus_app.hub.transfer import DownloadSettings, RemoteFile, Transfer, run_together
from janus_app.hub.verify import Digest, Verifier
from janus_app.registry.types import File, Variant
from janus_app.types import Progress

T = TypeVar("T")
LOCK_INTERVAL = 0.2  # seconds between two attempts at a lock that another process has


def in_background(work: Callable[[], Awaitable[T]], reporter: ProgressReporter) -> Generator[Progress, None, T]:
    """Run `work()` in an event loop of another thread, yielding the reporter's events; returns its result.

    Closing the generator cancels `work` wherever it awaits, and returns once it has cleaned up.
    """
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal(name="janus-download") as portal:
        # Python freezes the thread before it closes a generator left open at exit, which would then wait for ever.
        stop = partial(portal.call, portal.stop, True)
        atexit.register(stop)
        try:
            future = portal.start_task_soon(work)
            while not wait([future], TICK).done:
                yield from reporter.report()
            yield from reporter.report()
            return future.result()
        finally:
            atexit.unregister(stop)


class VariantDownload:
    """One download of files of one variant."""

    def __init__(
        self,
        variant: Variant,
        cache: RepoCache,
        verifier: Verifier,
        settings: DownloadSettings,
        reporter: ProgressReporter,
    ) -> None:
        self._variant, self._cache, self._verifier = variant, cache, verifier
        self._settings, self._reporter = settings, reporter
        self._active: list[str] = []
        self._finished = 0
        self._count = 0

    async def ask(self, files: Sequence[File]) -> list[RemoteFile]:
        """What the Hub says about the files, without fetching them."""
        async with self._transfer() as transfer:
            return await self._ask(transfer, files)

    async def run(self, files: Sequence[File]) -> None:
        """Fetch the files. The first error cancels the others; what arrived of them is kept."""
        self._count = len(files)
        reporter = self._reporter
        async with self._transfer() as transfer:
            reporter.note(Message("download_asking"))
            remotes = await self._ask(transfer, files)
            reporter.total = sum(remote.size for remote in remotes)
            needed = sum(self._missing_bytes(remote) for remote in remotes)
            check_free_space(self._cache.cache, needed, self._settings.reserve)
            limit = asyncio.Semaphore(self._settings.limits.files)
            pairs = zip(files, remotes, strict=True)
            await run_together([self._fetch_in_turn(limit, transfer, file, remote) for file, remote in pairs])
        reporter.label = ""
        reporter.done = reporter.total
        reporter.note(Message("download_complete"))

    @asynccontextmanager
    async def _transfer(self) -> AsyncIterator[Transfer]:
        from anyio.to_thread import run_sync
        from huggingface_hub import get_async_session

        await run_sync(check_endpoint, self._settings.endpoint, abandon_on_cancel=True)
        async with open_client(get_async_session) as client:
            yield Transfer(self._cache, self._settings, self._reporter, client)

    async def _ask(self, transfer: Transfer, files: Sequence[File]) -> list[RemoteFile]:
        async def ask(file: File) -> RemoteFile:
            variant, endpoint = self._variant, self._settings.endpoint
            remote = await transfer.ask(FileRequest(variant.repo or "", variant.revision or "", file.path, endpoint))
            self._verifier.check_announced(variant, file, remote.size, remote.etag, endpoint)
            return remote

        return await run_together([ask(file) for file in files])

    def _missing_bytes(self, remote: RemoteFile) -> int:
        if file_size(self._cache.blob(remote.etag)) == remote.size:
            return 0  # another revision has it
        return max(0, remote.size - (file_size(self._cache.partial(remote.etag)) or 0))

    async def _fetch_in_turn(
        self, limit: asyncio.Semaphore, transfer: Transfer, file: File, remote: RemoteFile
    ) -> None:
        async with limit:
            self._active.append(file.path)
            self._update_label()
            await self._fetch(transfer, file, remote)
            self._active.remove(file.path)
            self._finished += 1
            self._update_label()

    def _update_label(self) -> None:
        files = ", ".join(self._active)
        self._reporter.label = (
            Message("download_files", files=files, finished=self._finished, count=self._count) if files else ""
        )

    async def _fetch(self, transfer: Transfer, file: File, remote: RemoteFile) -> None:
        """Fetch one file in one process at a time: the others wait for its lock, then find it complete."""
        variant, cache, verifier, reporter = self._variant, self._cache, self._verifier, self._reporter
        path = cache.pointer(file.path)
        lock = await self._lock(file, remote)
        try:
            if not path.is_file() and file_size(cache.blob(remote.etag)) == remote.size:
                cache.link(remote.etag, file.path)  # another revision of the repository has the same bytes
            if path.is_file():
                digest = Digest(file_size(path) or 0)
                for _ in digest.read_file(path):
                    await asyncio.sleep(0)  # lets a cancel in
                if verifier.matches(variant, file, path, digest):
                    reporter.skip(remote.size)
                    verifier.accept(variant, file, path, digest.sha256, digest.size)
                    return
                quarantine(cache, file)
            expected = verifier.expected(variant, file)
            sha256 = await transfer.fetch(remote, expected)
            if expected is None:
                reporter.note(Message("hash_pinned", path=file.path, sha256=sha256))
            verifier.accept(variant, file, path, sha256, remote.size)
        finally:
            lock.release()

    async def _lock(self, file: File, remote: RemoteFile) -> Any:
        from filelock import FileLock, Timeout

        path = self._cache.locks / f"{self._cache.blob(remote.etag).name}.lock"  # huggingface_hub locks the same file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, thread_local=False)
            while True:
                try:
                    return lock.acquire(timeout=0).lock
                except Timeout:
                    self._reporter.note(Message("download_waits_for_program", path=file.path))
                    await asyncio.sleep(LOCK_INTERVAL)
        except OSError as error:
            raise explain_cache_error(error, self._cache.cache, remote.size) from error


def quarantine(cache: RepoCache, file: File) -> None:
    """Hide a damaged file, see RepoCache.quarantine. Raises AppError if the cache is read-only."""
    what = Message("damaged_file_not_replaced", path=file.path)
    with os_errors_as_app_errors(what, cache.snapshot), suppress(FileNotFoundError):  # another process was faster
        cache.quarantine(file.path)
