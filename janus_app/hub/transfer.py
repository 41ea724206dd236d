"""Files of the Hub into the cache: resumed where an earlier attempt stopped, hashed while they are written.

huggingface_hub 2.x starts every interrupted file again at zero and never compares a hash, so only its request
building, its connection pool and its error classes are used here. Everything runs in one event loop.

A large file comes over several connections. Each fetches the next range that no other has taken. The range that the
file on disk ends at is written at once; later ones wait in memory until the bytes before them are there. So the
unfinished file never has a hole: it is always the beginning of the real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from janus_app.errors import AppError, Message
from janus_app.formatting import duration
from janus_app.hub.cache import BAD, RepoCache
from janus_app.hub.errors import (
    FileRequest,
    RetryableError,
    download_failed,
    explain_cache_error,
    explain_network_error,
)
from janus_app.hub.progress import ProgressReporter
from janus_app.hub.verify import BLOCK, Digest

T = TypeVar("T")
EXPIRED_STATUSES = (400, 401, 403, 404, 410)  # how storage servers answer when a signed address has expired
LONGEST_SERVER_WAIT = 120.0  # seconds; a server that asks for more is tried again after these


@dataclass(frozen=True)
class RetryPolicy:
    """Give up after `attempts` in a row without a new byte; wait `first_wait` seconds between them, then twice that."""

    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 30.0
    read_timeout: float = 10.0


@dataclass(frozen=True)
class DownloadLimits:
    """At most `files` at a time, and `connections` for a file of which `split_from` bytes or more are missing.

    A connection fetches `range_bytes` at a time. Up to connections * range_bytes wait in memory, and are all that a
    killed process loses.
    """

    files: int = 4
    connections: int = 4
    range_bytes: int = 8 << 20
    split_from: int = 64 << 20


@dataclass(frozen=True)
class DownloadSettings:
    """`token` as huggingface_hub takes it (False sends none); `reserve` bytes of the disk stay free."""

    endpoint: str
    token: bool | str | None
    retry: RetryPolicy
    limits: DownloadLimits
    reserve: int


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub describes it. The ETag of a large file is its sha256, that of a small one its git hash."""

    request: FileRequest
    etag: str
    size: int
    url: str


class RangesIgnoredError(Exception):
    """The server sends a file from its first byte whatever range is asked for."""


async def run_together(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at once. The first error cancels the others and is raised once they have ended."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
        raise first from first.__cause__
    return [task.result() for task in tasks]


async def retry(
    attempt: Callable[[], Awaitable[T]],
    request: FileRequest,
    policy: RetryPolicy,
    reporter: ProgressReporter,
    reached: Callable[[], int] = lambda: 0,
    on_disk: Callable[[], int] = lambda: 0,
) -> T:
    """Call `attempt` until it returns. Raises AppError after policy.attempts RetryableErrors without progress.

    Progress is a byte beyond the furthest that was ever `reached`: a server may start over for ever, and that must end.
    """
    failures, furthest = 0, reached()
    while True:
        try:
            return await attempt()
        except RetryableError as error:
            failures = 1 if reached() > furthest else failures + 1
            furthest = max(furthest, reached())
            if failures >= policy.attempts:
                raise download_failed(error, request, failures, on_disk()) from error
            wait = max(error.wait, min(policy.longest_wait, policy.first_wait * 2 ** (failures - 1)))
            reason = error.reason
        until = time.monotonic() + min(LONGEST_SERVER_WAIT, wait)
        while (left := until - time.monotonic()) > 0:
            reporter.note(Message("download_retry_in", reason=reason, wait=duration(left)))
            await asyncio.sleep(min(1.0, left))


class PartialFile:
    """The unfinished file: bytes are appended in order and hashed as they arrive."""

    def __init__(self, file: FileIO, size: int) -> None:
        self._file = file
        self.size = size
        self.length = 0
        self.digest = Digest(size)

    def append(self, block: bytes) -> None:
        left = memoryview(block)
        while left:  # an almost full disk takes a part and refuses the rest
            left = left[self._file.write(left) :]
        self.digest.update(block)
        self.length += len(block)

    def restart(self) -> None:
        self._file.truncate(0)
        self.length, self.digest = 0, Digest(self.size)

    async def read_kept(self, reporter: ProgressReporter) -> None:
        """Hash what an earlier attempt left. A file that is too long cannot be the beginning of this one."""
        if self._file.seek(0, os.SEEK_END) > self.size:
            self._file.truncate(0)
        self._file.seek(0)
        if self.size > BLOCK:
            reporter.note(Message("download_checking_kept"))
        for count in self.digest.read(self._file):
            self.length += count
            reporter.skip(count)
            await asyncio.sleep(0)  # lets a cancel in


class Transfer:
    """Fetches files of one repository through `client`, an httpx client."""

    def __init__(self, cache: RepoCache, settings: DownloadSettings, reporter: ProgressReporter, client: Any) -> None:
        from anyio import CapacityLimiter

        self.cache, self.settings, self.reporter = cache, settings, reporter
        self._client = client
        self._ask_limiter = CapacityLimiter(settings.limits.files)
        self._locations: dict[str, str] = {}  # address at the Hub -> address at the storage, which expires

    async def ask(self, request: FileRequest) -> RemoteFile:
        """The file's ETag and size. Raises AppError, see explain_network_error."""
        from anyio.to_thread import run_sync
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        settings = self.settings
        url = hf_hub_url(request.repo, request.path, revision=request.revision, endpoint=settings.endpoint)
        head = partial(
            get_hf_file_metadata,
            url,
            token=settings.token,
            endpoint=settings.endpoint,
            timeout=settings.retry.read_timeout,
        )

        async def attempt() -> RemoteFile:
            try:
                found = await run_sync(head, abandon_on_cancel=True, limiter=self._ask_limiter)
            except Exception as error:
                raise explain_network_error(error, request) from error
            if not found.etag or found.size is None:
                raise AppError("hub_size_missing", endpoint=settings.endpoint, path=request.path)
            if found.commit_hash != request.revision:
                raise AppError(
                    "hub_revision_differs",
                    endpoint=settings.endpoint,
                    repo=request.repo,
                    found=str(found.commit_hash)[:12],
                    expected=request.revision[:12],
                )
            self._locations[url] = found.location
            return RemoteFile(request, found.etag, found.size, url)

        return await retry(attempt, request, settings.retry, self.reporter)

    async def fetch(self, remote: RemoteFile, sha256: str | None) -> str:
        """Bring the blob into the cache and link it. Returns its sha256; raises AppError and leaves no bad blob.

        `sha256` is what the bytes must have; None accepts what the ETag vouches for. A cancel keeps the part that
        arrived for the next attempt.
        """
        path, blob = self.cache.partial(remote.etag), self.cache.blob(remote.etag)
        quarantined = blob.with_name(blob.name + BAD)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            resumed = path.exists() and path.stat().st_size > 0
            digest = await self._fill(remote, path)
            if not _is_right(digest, remote, sha256) and resumed:
                # A power cut can leave zeros at the end of the kept part: once more, from the start.
                path.unlink()
                self.reporter.skip(-remote.size)
                self.reporter.note(Message("download_restarts", path=remote.request.path))
                digest = await self._fill(remote, path)
            if not _is_right(digest, remote, sha256):
                os.replace(path, quarantined)
                raise AppError(
                    "download_wrong_content",
                    path=remote.request.path,
                    repo=remote.request.repo,
                    sha256=digest.sha256[:12],
                    expected=(sha256 or remote.etag)[:12],
                )
            os.replace(path, blob)
            self.cache.link(remote.etag, remote.request.path)
            quarantined.unlink(missing_ok=True)
        except OSError as error:
            arrived = path.stat().st_size if path.exists() else 0
            raise explain_cache_error(error, self.cache.cache, max(0, remote.size - arrived)) from error
        return digest.sha256

    async def _fill(self, remote: RemoteFile, path: Path) -> Digest:
        """Complete the file at `path`."""
        limits = self.settings.limits
        with path.open("a+b", buffering=0) as file:
            partial_file = PartialFile(file, remote.size)
            await partial_file.read_kept(self.reporter)
            split = remote.size - partial_file.length >= limits.split_from
            try:
                await RangeDownload(self, remote, partial_file, limits.connections if split else 1).run()
            except RangesIgnoredError:
                await RangeDownload(self, remote, partial_file, 1).run()
            os.fsync(file.fileno())
        return partial_file.digest

    async def stream(
        self, remote: RemoteFile, start: int, end: int | None = None
    ) -> AsyncGenerator[bytes | None, None]:
        """Bytes from `start` to `end` (exclusive; None is the end of the file) as they arrive.

        None means that the server starts again at the first byte. Raises AppError, RetryableError.
        """
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        headers = build_hf_headers(token=self.settings.token) | {"Accept-Encoding": "identity"}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        try:
            while True:
                url = self._locations.get(remote.url, remote.url)
                allowed = headers if _same_host(url, remote.url) else _without_token(headers)
                async with self._client.stream(
                    "GET", url, headers=allowed, follow_redirects=True, timeout=self.settings.retry.read_timeout
                ) as response:
                    if response.status_code in EXPIRED_STATUSES and url != remote.url:
                        self._locations.pop(remote.url, None)  # the Hub knows the new address
                        continue
                    if response.status_code == 416:
                        yield None
                        return
                    if response.status_code >= 400:
                        await response.aread()
                        hf_raise_for_status(response)
                    self._locations[remote.url] = str(response.url)
                    if "Range" in headers and not _continues(response, start):
                        yield None
                    async for block in response.aiter_raw():
                        yield block
                    return
        except (AppError, GeneratorExit):
            raise
        except Exception as error:
            self._locations.pop(remote.url, None)
            raise explain_network_error(error, remote.request) from error


@dataclass
class _Range:
    """Bytes [start, end) of the file. Those before `reached` were received; `waiting` are not on disk yet."""

    reached: int
    end: int
    waiting: bytearray = field(default_factory=bytearray)


class RangeDownload:
    """The missing rest of one file over `connections`. One connection takes the whole rest as a single range."""

    def __init__(self, transfer: Transfer, remote: RemoteFile, file: PartialFile, connections: int) -> None:
        self._transfer, self._remote, self._file, self._connections = transfer, remote, file, connections
        self._range_bytes = transfer.settings.limits.range_bytes if connections > 1 else remote.size
        self._next = file.length
        self._ranges: deque[_Range] = deque()  # taken and not completely on disk, in order
        self._written = asyncio.Event()

    async def run(self) -> None:
        """Raises AppError, OSError, and, with several connections, RangesIgnoredError."""
        try:
            await run_together([self._connection() for _ in range(self._connections)])
        finally:
            if lost := sum(len(part.waiting) for part in self._ranges):
                self._transfer.reporter.skip(-lost)

    async def _connection(self) -> None:
        while (part := await self._take()) is not None:
            await self._fetch(part)

    async def _take(self) -> _Range | None:
        """The next range; waits while too many bytes are ahead of the end of the file on disk."""
        size = self._remote.size
        while self._next < size and self._next - self._file.length >= self._connections * self._range_bytes:
            self._written.clear()
            await self._written.wait()
        if self._next >= size:
            return None
        part = _Range(self._next, min(self._next + self._range_bytes, size))
        self._next = part.end
        self._ranges.append(part)
        return part

    async def _fetch(self, part: _Range) -> None:
        await retry(
            lambda: self._attempt(part),
            self._remote.request,
            self._transfer.settings.retry,
            self._transfer.reporter,
            reached=lambda: part.reached,
            on_disk=lambda: self._file.length,
        )

    async def _attempt(self, part: _Range) -> None:
        """Fetch the rest of a range through one request."""
        reporter, remote = self._transfer.reporter, self._remote
        end = part.end if self._connections > 1 else None
        async with contextlib.aclosing(self._transfer.stream(remote, part.reached, end)) as blocks:
            async for block in blocks:
                if block is None:
                    if self._connections > 1:
                        raise RangesIgnoredError
                    reporter.skip(-self._file.length)
                    self._file.restart()
                    part.reached = 0
                    continue
                if part.reached + len(block) > part.end:
                    raise AppError(
                        "download_too_long", path=remote.request.path, repo=remote.request.repo, size=remote.size
                    )
                part.waiting += block
                part.reached += len(block)
                reporter.done += len(block)
                self._write()
        if part.reached < part.end:
            raise RetryableError(Message("hub_connection_ended", endpoint=remote.request.endpoint))

    def _write(self) -> None:
        """Append what follows the end of the file on disk without a gap."""
        while self._ranges:
            first = self._ranges[0]
            if first.waiting:
                block, first.waiting = bytes(first.waiting), bytearray()
                self._file.append(block)
            if first.reached < first.end:
                break
            self._ranges.popleft()
        self._written.set()


def _same_host(url: str, other: str) -> bool:
    from urllib.parse import urlsplit

    return urlsplit(url).netloc == urlsplit(other).netloc


def _without_token(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() != "authorization"}


def _continues(response: Any, start: int) -> bool:
    return response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _is_right(digest: Digest, remote: RemoteFile, sha256: str | None) -> bool:
    return digest.matches_etag(remote.etag) and sha256 in (None, digest.sha256)
