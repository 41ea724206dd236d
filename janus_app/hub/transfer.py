"""One file from the Hub into the cache: resumed where an earlier try stopped, hashed while it is written.

huggingface_hub 2.x starts every interrupted file again at zero and never compares a hash, so only its request
building, its connection pool and its error classes are used here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.hub.layout import BAD, RepoCache
from janus_app.hub.problems import Asked, Trouble, explain_disk, explain_network, gave_up, human
from janus_app.models.base import Progress

BLOCK = 1 << 20  # bytes hashed between two looks at the clock
TICK = 0.1  # seconds between two reports


@dataclass(frozen=True)
class Patience:
    """How long to try: `attempts` in a row without a new byte, waiting `first_wait` seconds and doubling it."""

    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 30.0
    read_timeout: float = 10.0


@dataclass(frozen=True)
class Remote:
    """What the server says about a file: its ETag (sha256 of a large file, git hash of a small one) and length."""

    etag: str
    size: int
    url: str


@dataclass
class Meter:
    """Bytes done of a whole fetch, and how fast; `report` makes at most ten Progress events a second."""

    total: int = 0
    done: int = 0
    label: str = ""
    stage: str = "download"
    _last: float = 0.0
    _marks: list[tuple[float, int]] = field(default_factory=list)

    def report(self, note: str = "", force: bool = False) -> Iterator[Progress]:
        now = time.monotonic()
        if not force and now - self._last < TICK:
            return
        self._last = now
        self._marks = [mark for mark in self._marks if now - mark[0] < 8] + [(now, self.done)]
        detail = " · ".join(part for part in (self.label, note or self._speed()) if part)
        yield Progress(self.stage, self.done, self.total, "B", detail)

    def moved(self, count: int) -> None:
        """Bytes that cost no time (an earlier try's, or thrown away): they must not count as speed."""
        self.done += count
        self._marks = []

    def _speed(self) -> str:
        (first, before), (last, after) = self._marks[0], self._marks[-1]
        if last - first < 0.5 or after <= before:
            return ""
        rate = (after - before) / (last - first)
        return f"{human(rate)}/s · {duration((self.total - after) / rate)} left"


def duration(seconds: float) -> str:
    """A rough time for people."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


class Digest:
    """sha256 and git's own hash of the same bytes; git's needs the length first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def update(self, block: bytes) -> None:
        self._sha256.update(block)
        if self.size < 64 << 20:  # large files are never named by git's hash
            self._git.update(block)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def fits(self, etag: str) -> bool:
        """Whether the bytes are those the ETag names. An ETag of another kind says nothing and fits."""
        if len(etag) == 64:
            return etag == self.sha256
        if len(etag) == 40 and self.size < 64 << 20:
            return etag == self._git.hexdigest()
        return True


def hash_file(path: Path, meter: Meter) -> Generator[Progress, None, Digest]:
    """Read a whole file. Raises AppError where it cannot be read."""
    try:
        digest = Digest(path.stat().st_size)
        with path.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
                meter.done += len(block)
                yield from meter.report()
    except OSError as error:
        raise AppError(
            f"{path} cannot be read: {error.strerror or error}. "
            "Check the disk, or delete the model and download it again."
        ) from error
    return digest


class Transfer:
    """Fetches files of one repository. `token` as huggingface_hub takes it; False sends none."""

    def __init__(self, cache: RepoCache, endpoint: str, token: bool | None, patience: Patience) -> None:
        self.cache = cache
        self.endpoint = endpoint
        self.token = token
        self.patience = patience

    def ask(self, asked: Asked, meter: Meter) -> Generator[Progress, None, Remote]:
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
            return Remote(found.etag, found.size, url)

        failures = 0
        while True:
            yield from meter.report(f"asking for {asked.path}", force=failures == 0)
            try:
                return head()
            except AppError:
                raise
            except Exception as error:
                trouble = _trouble(error, asked)
            failures += 1
            if failures >= self.patience.attempts:
                raise gave_up(trouble, asked, failures, kept=0)
            yield from self._wait(trouble, failures, meter)

    def fetch(self, asked: Asked, remote: Remote, sha256: str | None, meter: Meter) -> Generator[Progress, None, str]:
        """Bring the blob into the cache and link it. Returns its sha256; raises AppError and leaves no bad blob.

        `sha256` is what the bytes must be; None accepts what the ETag vouches for. Closing the generator keeps the
        part that arrived for the next try.
        """
        partial, blob = self.cache.partial(remote.etag), self.cache.blob(remote.etag)
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            resumed = partial.exists() and partial.stat().st_size > 0
            digest = yield from self._fill(asked, remote, partial, meter)
            if not _right(digest, remote.etag, sha256) and resumed:
                # A power cut can leave zeros at the end of what was kept: once more, from the start.
                partial.unlink()
                meter.moved(-remote.size)
                yield from meter.report("the kept part was damaged; starting this file again", force=True)
                digest = yield from self._fill(asked, remote, partial, meter)
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

    def _fill(self, asked: Asked, remote: Remote, partial: Path, meter: Meter) -> Generator[Progress, None, Digest]:
        """Grow `partial` to the whole file, through as many connections as it takes."""
        digest = Digest(remote.size)
        with partial.open("a+b") as file:
            if file.tell() > remote.size:
                file.truncate(0)
            file.seek(0)
            kept = 0
            while old := file.read(BLOCK):
                digest.update(old)
                kept += len(old)
                meter.moved(len(old))
                yield from meter.report("checking what was kept")
            failures, furthest = 0, kept
            while kept < remote.size:
                try:
                    with contextlib.closing(self._stream(asked, remote, kept)) as blocks:
                        for block in blocks:
                            if block is None:  # the server starts again from the first byte
                                file.truncate(0)
                                meter.moved(-kept)
                                kept, digest = 0, Digest(remote.size)
                                continue
                            if kept + len(block) > remote.size:
                                file.truncate(0)
                                raise _too_long(asked, remote)
                            file.write(block)
                            digest.update(block)
                            kept += len(block)
                            meter.done += len(block)
                            yield from meter.report()
                    trouble = Trouble(f"it ended after {human(kept)} of {human(remote.size)}")
                except Trouble as caught:
                    trouble = caught
                if kept >= remote.size:
                    break
                # Only bytes never reached before count as progress: a server may start over for ever.
                failures = 1 if kept > furthest else failures + 1
                furthest = max(furthest, kept)
                if failures >= self.patience.attempts:
                    raise gave_up(trouble, asked, failures, kept)
                yield from self._wait(trouble, failures, meter)
            file.flush()
            os.fsync(file.fileno())
        return digest

    def _stream(self, asked: Asked, remote: Remote, start: int) -> Generator[bytes | None, None, None]:
        """Bytes from `start` on, as they arrive; None = forget what you have, it begins at zero. Raises Trouble."""
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        headers = build_hf_headers(token=self.token) | {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            with get_session().stream(
                "GET", remote.url, headers=headers, follow_redirects=True, timeout=self.patience.read_timeout
            ) as response:
                if response.status_code == 416:
                    yield None
                    return
                if response.status_code >= 400:
                    response.read()
                    hf_raise_for_status(response)
                if start and not _continues(response, start):
                    yield None
                yield from response.iter_raw()
        except (AppError, Trouble, GeneratorExit):
            raise
        except Exception as error:
            raise _trouble(error, asked) from error

    def _wait(self, trouble: Trouble, failures: int, meter: Meter) -> Iterator[Progress]:
        """Sleep in slices short enough for a cancel to feel immediate."""
        pause = min(self.patience.longest_wait, self.patience.first_wait * 2 ** (failures - 1))
        until = time.monotonic() + min(120.0, max(pause, trouble.wait))
        while (left := until - time.monotonic()) > 0:
            yield from meter.report(f"{trouble.reason}; trying again in {duration(left)}", force=True)
            time.sleep(min(0.2, left))


def _continues(response: Any, start: int) -> bool:
    return response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _too_long(asked: Asked, remote: Remote) -> AppError:
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
