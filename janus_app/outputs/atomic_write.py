"""Writing small files so that they are whole or not there, and saying in a sentence why one could not be written."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from janus_app.errors import AppError

WAIT_FOR_LOCK = 10.0  # seconds; a holder writes one small file, so who takes longer is stuck


@contextmanager
def os_errors_as_app_errors(what: str, folder: Path) -> Iterator[None]:
    """Turn an OSError inside into an AppError: "`what`: no space left in `folder` ..."."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise AppError(f"{what}: no space left in {folder}. Free some and try again.") from None
        reason = error.strerror or "unknown reason"
        raise AppError(f"{what}: {folder} cannot be written ({reason}). Make the folder writable.") from None


def write_whole(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: a reader, or a power cut, meets the old file or the new one. Raises OSError."""
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(part, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes out of what the lock file `path` stands for. Raises AppError where it stays taken."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(path, timeout=WAIT_FOR_LOCK):
            yield
    except Timeout:
        raise AppError(f"{path} is held by another program. Close other copies of this app and try again.") from None
