"""Files from the Hub into the cache: resumed where an earlier try stopped, hashed while they are written.

huggingface_hub 2.x starts every interrupted file again at zero and never compares a hash, so only its request
building, its connection pool and its error classes are used here. Everything runs in one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.formatting import size_text, time_text
from janus_app.hub.errors import Asked, Trouble, explain_disk, explain_network, gave_up
from janus_app.hub.layout import BAD, RepoCache
from janus_app.hub.progress import BLOCK, Digest, ProgressReporter

STALE = (400, 401, 403, 404, 410)  # what storage servers answer when a signed address has run out


@dataclass(frozen=True)
class RetryPolicy:
    """How long to try: `attempts` in a row without a new byte, waiting `first_wait` seconds and doubling it."""

    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 30.0
    read_timeout: float = 10.0


@dataclass(frozen=True)
class DownloadLimits:
    """How much at once: `files` at a time, `lanes` connections for one file once `worth` bytes of it are wanting.

    Lanes fetch pieces of `piece` bytes; what arrived out of order is held in memory, at most lanes * piece, and is
    all that a kill costs.
    """

    files: int = 4
    lanes: int = 4
    piece: int = 8 << 20
    worth: int = 64 << 20


@dataclass(frozen=True)
class Remote:
    """What the server says about a file: its ETag (sha256 of a large file, git hash of a small one), length, and where
    it lies: the Hub's own address and the storage behind it, whose address runs out after a while."""

    etag: str
    size: int
    url: str
    location: str


class NoRangesError(Exception):
    """The server begins at the first byte whatever is asked."""


class Sink:
    """The unfinished file: bytes are appended in order, hashed as they come, counted by whoever received them."""

    def __init__(self, file: FileIO, size: int) -> None:
        self._file = file
        self.size = size
        self.kept = 0
        self.digest = Digest(size)

    def append(self, block: bytes) -> None:
        left = memoryview(block)
        while left:  # an almost full disk takes a part and refuses the rest
            left = left[self._file.write(left) :]
        self.digest.update(block)
        self.kept += len(block)

    def restart(self) -> None:
        self._file.truncate(0)
        self.kept, self.digest = 0, Digest(self.size)

    async def read_kept(self, meter: ProgressReporter) -> None:
        """Hash what an earlier try left; a file longer than it may be is nothing of ours."""
        if self._file.seek(0, os.SEEK_END) > self.size:
            self._file.truncate(0)
        self._file.seek(0)
        if self.size > BLOCK:
            meter.note("checking what was kept")
        while old := self._file.read(BLOCK):
            self.digest.update(old)
            self.kept += len(old)
            meter.moved(len(old))
            await asyncio.sleep(0)  # so that a cancel is heard


class Retrier:
    """Counts failures in a row and waits after each; only bytes never reached before count as progress.

    A server may start over for ever, and that must end.
    """

    def __init__(self, asked: Asked, patience: RetryPolicy, meter: ProgressReporter, furthest: int = 0) -> None:
        self._asked, self._patience, self._meter = asked, patience, meter
        self._furthest, self._failures = furthest, 0

    async def failed(self, trouble: Trouble, reached: int, kept: int) -> None:
        """Wait before another try, or raise the AppError that ends them. `kept` bytes are on disk by then."""
        self._failures = 1 if reached > self._furthest else self._failures + 1
        self._furthest = max(self._furthest, reached)
        if self._failures >= self._patience.attempts:
            raise gave_up(trouble, self._asked, self._failures, kept)
        pause = min(self._patience.longest_wait, self._patience.first_wait * 2 ** (self._failures - 1))
        until = time.monotonic() + min(120.0, max(pause, trouble.wait))
        while (left := until - time.monotonic()) > 0:
            self._meter.note(f"{trouble.reason}; trying again in {time_text(left)}")
            await asyncio.sleep(min(1.0, left))


class Transfer:
    """Fetches files of one repository. `token` as huggingface_hub takes it; False sends none."""

    def __init__(
        self,
        cache: RepoCache,
        endpoint: str,
        token: bool | str | None,
        patience: RetryPolicy,
        width: DownloadLimits,
        meter: ProgressReporter,
        client: Any,
        helpers: Executor,
    ) -> None:
        self.cache, self.endpoint, self.token = cache, endpoint, token
        self.patience, self.width, self.meter = patience, width, meter
        self._client, self._helpers = client, helpers
        self._storage: dict[str, str] = {}  # the Hub's address of a file -> where its bytes lie, for a while

    async def ask(self, asked: Asked) -> Remote:
        """The file's ETag and length. Raises AppError as `problems` explains."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(asked.repo, asked.path, revision=asked.revision, endpoint=self.endpoint)

        def head() -> Remote:
            found = get_hf_file_metadata(
                url, token=self.token, endpoint=self.endpoint, timeout=self.patience.read_timeout
            )
            if not found.etag or found.size is None:
                raise AppError(
                    f"{self.endpoint} did not say how long {asked.path} is. "
                    "If HF_ENDPOINT points at a mirror, try another."
                )
            if found.commit_hash != asked.revision:
                raise AppError(
                    f"{self.endpoint} offered revision {str(found.commit_hash)[:12]} of {asked.repo} instead of "
                    f"the pinned {asked.revision[:12]}. Nothing was downloaded; try another endpoint."
                )
            return Remote(found.etag, found.size, url, found.location)

        tries = Retrier(asked, self.patience, self.meter)
        while True:
            try:
                remote = await asyncio.get_running_loop().run_in_executor(self._helpers, head)
                self._storage[url] = remote.location
                return remote
            except AppError:
                raise
            except Exception as error:
                trouble = _trouble(error, asked)
            await tries.failed(trouble, reached=0, kept=0)

    async def fetch(self, asked: Asked, remote: Remote, sha256: str | None) -> str:
        """Bring the blob into the cache and link it. Returns its sha256; raises AppError and leaves no bad blob.

        `sha256` is what the bytes must be; None accepts what the ETag vouches for. A cancel keeps the part that
        arrived for the next try.
        """
        partial, blob = self.cache.partial(remote.etag), self.cache.blob(remote.etag)
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            resumed = partial.exists() and partial.stat().st_size > 0
            digest = await self._fill(asked, remote, partial)
            if not _right(digest, remote.etag, sha256) and resumed:
                # A power cut can leave zeros at the end of what was kept: once more, from the start.
                partial.unlink()
                self.meter.moved(-remote.size)
                self.meter.note("the kept part was damaged; starting this file again")
                digest = await self._fill(asked, remote, partial)
            if not _right(digest, remote.etag, sha256):
                os.replace(partial, blob.with_name(blob.name + BAD))
                raise _wrong_content(asked, digest.sha256, sha256 or remote.etag)
            os.replace(partial, blob)
            self.cache.link(remote.etag, asked.path)
            blob.with_name(blob.name + BAD).unlink(missing_ok=True)
        except OSError as error:
            arrived = partial.stat().st_size if partial.exists() else 0
            raise explain_disk(error, self.cache.root.parent, max(0, remote.size - arrived)) from error
        return digest.sha256

    async def _fill(self, asked: Asked, remote: Remote, partial: Path) -> Digest:
        """Grow `partial` to the whole file, through as many connections as it takes."""
        from janus_app.hub.ranges import RangeDownload

        with partial.open("a+b", buffering=0) as file:
            sink = Sink(file, remote.size)
            await sink.read_kept(self.meter)
            wide = self.width.lanes > 1 and remote.size - sink.kept >= self.width.worth
            if wide:
                try:
                    await RangeDownload(self, asked, remote, sink).run()
                except NoRangesError:
                    wide = False
            if not wide:
                await self._one_by_one(asked, remote, sink)
            os.fsync(file.fileno())
        return sink.digest

    async def _one_by_one(self, asked: Asked, remote: Remote, sink: Sink) -> None:
        """The rest of a file through one connection at a time."""
        tries = Retrier(asked, self.patience, self.meter, furthest=sink.kept)
        while sink.kept < remote.size:
            try:
                async with contextlib.aclosing(self.stream(asked, remote, sink.kept)) as blocks:
                    async for block in blocks:
                        if block is None:  # the server starts again from the first byte
                            self.meter.moved(-sink.kept)
                            sink.restart()
                            continue
                        if sink.kept + len(block) > remote.size:
                            sink.restart()
                            raise too_long(asked, remote)
                        sink.append(block)
                        self.meter.done += len(block)
                trouble = Trouble(f"it ended after {size_text(sink.kept)} of {size_text(remote.size)}")
            except Trouble as caught:
                trouble = caught
            if sink.kept < remote.size:
                await tries.failed(trouble, reached=sink.kept, kept=sink.kept)

    async def stream(
        self, asked: Asked, remote: Remote, start: int, end: int | None = None
    ) -> AsyncGenerator[bytes | None, None]:
        """Bytes from `start` (up to `end`, not included) as they arrive; None = forget what you have, it begins at
        zero. Raises Trouble."""
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        headers = build_hf_headers(token=self.token) | {"Accept-Encoding": "identity"}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        try:
            while True:
                url = self._storage.get(remote.url, remote.url)
                allowed = headers if _same_host(url, remote.url) else _without_token(headers)
                async with self._client.stream(
                    "GET", url, headers=allowed, follow_redirects=True, timeout=self.patience.read_timeout
                ) as response:
                    if response.status_code in STALE and url != remote.url:
                        self._storage.pop(remote.url, None)  # the Hub knows the new address
                        continue
                    if response.status_code == 416:
                        yield None
                        return
                    if response.status_code >= 400:
                        await response.aread()
                        hf_raise_for_status(response)
                    self._storage[remote.url] = str(response.url)
                    if "Range" in headers and not _continues(response, start):
                        yield None
                    async for block in response.aiter_raw():
                        yield block
                    return
        except (AppError, Trouble, GeneratorExit):
            raise
        except Exception as error:
            self._storage.pop(remote.url, None)
            raise _trouble(error, asked) from error


async def stepping(work: Any) -> Any:
    """A generator of Progress as a coroutine: for acts written for the foreground. Returns its result."""
    with contextlib.closing(work):
        while True:
            try:
                next(work)
            except StopIteration as end:
                return end.value
            await asyncio.sleep(0)


def _same_host(url: str, other: str) -> bool:
    from urllib.parse import urlsplit

    return urlsplit(url).netloc == urlsplit(other).netloc


def _without_token(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() != "authorization"}


def _continues(response: Any, start: int) -> bool:
    return response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def too_long(asked: Asked, remote: Remote) -> AppError:
    return AppError(
        f"{asked.path} of {asked.repo} is longer than the {remote.size:,} bytes announced. It is not used. "
        "Try again, or try another network or endpoint."
    )


def _wrong_content(asked: Asked, found: str, expected: str) -> AppError:
    return AppError(
        f"{asked.path} of {asked.repo} arrived with the wrong content (sha256 {found[:12]}..., expected "
        f"{expected[:12]}...). It was set aside and is not used. Try again; if it happens again, something "
        "between you and the Hub changes files: try another network or endpoint."
    )


def _right(digest: Digest, etag: str, sha256: str | None) -> bool:
    return digest.fits(etag) and sha256 in (None, digest.sha256)


def _trouble(error: Exception, asked: Asked) -> Trouble:
    """The error as something to retry; where retrying is pointless its AppError is raised instead."""
    explained = explain_network(error, asked)
    if isinstance(explained, AppError):
        raise explained from error
    return explained
