"""Small files: read as JSON, written so that a reader meets the old content or the new one, and why a write failed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from janus_app.errors import AppError, Message
from janus_app.file_kinds import what_it_is_instead_of_text

LOCK_TIMEOUT = 10.0  # seconds; the other process writes one small file, so a longer wait means it is stuck
DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def typed_path(text: str | Path) -> Path:
    """The path a person typed or pasted, without file:// and the quotes that "copy as path" puts around it.

    A file that really has such a name is found too. `~` stays, for a caller that allows it.
    """
    path = Path(text)
    if isinstance(text, Path) or _exists(path):
        return path
    plain = text.strip()
    for opening, closing in ('""', "''", "“”", "‘’"):
        if len(plain) > 1 and plain[0] == opening and plain[-1] == closing:
            plain = plain[1:-1].strip()
    if plain[:7].lower() == "file://":
        try:
            parts = urlsplit(plain.replace("?", "%3F").replace("#", "%23"))
        except ValueError:  # a bracket that is not closed
            return Path(plain)
        host = "" if parts.netloc.lower() in ("", "localhost") else f"//{parts.netloc}"
        plain = host + (url2pathname(parts.path))
    return Path(plain)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a path, a NUL byte
        return False


def is_disk_full(error: OSError) -> bool:
    """Whether the error says that the disk, the user's quota or the file system's largest file size is reached."""
    return error.errno in DISK_FULL_ERRNOS


def file_size(path: Path) -> int | None:
    """The size of a file in bytes, None if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def read_json(path: Path, max_bytes: int = 50_000_000) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint: UTF-8 or UTF-16, with or without a byte order mark.

    Raises AppError, which names the file, if it is missing, broken or larger than `max_bytes`.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise AppError("json_file_too_large", file=path)
        value = json.loads(path.read_bytes())  # finds the encoding itself
    except FileNotFoundError:
        raise AppError("json_file_missing", file=path.name, folder=path.parent) from None
    except (OSError, ValueError, RecursionError) as error:
        if refused := what_it_is_instead_of_text(path):
            raise refused from None
        raise AppError("json_file_unreadable", file=path.name, reason=error) from None
    if not isinstance(value, dict):
        raise AppError("json_file_not_an_object", file=path.name)
    return value


def read_weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> name of the weight file that holds it, from the index of a checkpoint in several files.

    Raises AppError if the index is broken or names a file outside its own folder.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise AppError("weight_index_without_map", file=index.name)
    for name in weight_map.values():
        if name != Path(name).name or "\\" in name or name in ("", ".", ".."):
            raise AppError("weight_index_leaves_folder", file=index.name, name=repr(name))
    return weight_map


@contextmanager
def os_errors_as_app_errors(what: Message, folder: Path) -> Iterator[None]:
    """Turn an OSError inside the block into an AppError. `what` names what did not happen: "The vote was not kept"."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise AppError("write_disk_full", what=what, folder=folder) from error
        reason = error.strerror or str(error)
        raise AppError("write_failed", what=what, folder=folder, reason=reason) from error


@contextmanager
def read_errors_as_app_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while files of a model at `path` are read into an AppError that names the file."""
    try:
        yield
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else path
        raise AppError("model_file_unreadable", path=name, reason=error.strerror or error) from error


def write_atomically(path: Path, content: bytes, keep_existing: bool = False) -> Path:
    """Write a file that a reader meets whole or not at all, also if the program ends in between. Returns its path.

    The file replaces `path`; with `keep_existing` it is written beside it as "name-2.png" where "name.png" exists (a
    file system without hard links shows it empty for a moment). The content is on the disk before the file gets its
    name. The folder is not flushed, so a power cut soon after may take the file back, or leave the one it replaced.
    Raises OSError.
    """
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(part, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep_existing:
            return _take_free_name(part, path)
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return path


def _take_free_name(part: Path, path: Path) -> Path:
    """Give the file `part` the first free name of path, path-2, path-3 ...: only one of two writers can get each."""
    number = 1
    while True:
        name = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        try:
            _take_name(part, name)
            return name
        except FileExistsError:
            number += 1


def _take_name(part: Path, name: Path) -> None:
    """Raises FileExistsError where the name is taken."""
    try:
        os.link(part, name)
        return
    except FileExistsError:
        raise
    except OSError:  # no hard links here, as on FAT; any other reason is met again below
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        os.replace(part, name)
    except OSError:
        name.unlink(missing_ok=True)
        raise


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Exclude other processes by the lock file `path`. Raises AppError if another one keeps it for LOCK_TIMEOUT."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(path, timeout=LOCK_TIMEOUT):
            yield
    except Timeout:
        raise AppError("lock_timeout", path=path) from None
