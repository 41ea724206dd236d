"""What can go wrong between here and the Hub, each as a sentence with a remedy."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from janus_app.errors import AppError
from janus_app.formatting import size_text

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class Trouble(Exception):
    """A failure worth another try. `wait` is the seconds the server asked for, 0 if it did not say."""

    def __init__(self, reason: str, wait: float = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


@dataclass(frozen=True)
class Asked:
    """What was asked for, for the sentences."""

    repo: str
    revision: str
    path: str
    endpoint: str


def explain_network(error: Exception, asked: Asked) -> AppError | Trouble:
    """An exception of the client or of HTTP as what to tell the user, or as Trouble where waiting may help."""
    from huggingface_hub import errors as hub

    page = f"{asked.endpoint}/{asked.repo}"
    if isinstance(error, hub.OfflineModeIsEnabled):
        return AppError(
            f"{asked.path} of {asked.repo} is not on this machine and offline mode is on. "
            "Unset HF_HUB_OFFLINE to download it."
        )
    if isinstance(error, hub.GatedRepoError):
        return AppError(
            f"{asked.repo} asks for its terms to be accepted first. Accept them at {page}, "
            "log in with `hf auth login`, and try again."
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return AppError(
            f"Revision {asked.revision[:12]} of {asked.repo} does not exist at {asked.endpoint}. "
            "The repository may have been rewritten; look at its history and correct the model list."
        )
    if isinstance(error, hub.RemoteEntryNotFoundError):
        return AppError(
            f"{asked.repo} has no file {asked.path} at revision {asked.revision[:12]}. "
            "Correct the files of this row in the model list."
        )
    if isinstance(error, hub.RepositoryNotFoundError):
        return AppError(
            f"{asked.repo} does not exist at {asked.endpoint}, or is private. Check the name; "
            "if you have access to it, log in with `hf auth login`."
        )
    if isinstance(error, hub.HfHubHTTPError):
        response = error.response
        status = response.status_code if response is not None else 0
        if status == 429 or status >= 500:
            wait = response.headers.get("Retry-After", "") if response is not None else ""
            seconds = _seconds(wait)
            if status == 429:
                return Trouble(f"{asked.endpoint} asks to slow down (HTTP {status})", seconds)
            return Trouble(f"{asked.endpoint} has a problem of its own (HTTP {status})", seconds)
        if status in (401, 403):
            return AppError(
                f"{asked.endpoint} refuses access to {asked.repo} (HTTP {status}). "
                "If it needs an account, log in with `hf auth login`; behind a company proxy, ask its keeper."
            )
        return AppError(f"{asked.endpoint} answered HTTP {status} for {asked.path}. Try again later.")
    if not isinstance(error, OSError) and not type(error).__module__.startswith("httpx"):
        raise error  # not the network's doing: a bug of ours must stay visible
    return Trouble(f"{asked.endpoint} cannot be reached or broke off ({type(error).__name__})")


def gave_up(trouble: Trouble, asked: Asked, attempts: int, kept: int) -> AppError:
    """After the last try."""
    if not kept:
        return AppError(
            f"Downloading {asked.path} of {asked.repo} failed {attempts} times: {trouble.reason}. "
            "Check the network (and HTTPS_PROXY or HF_ENDPOINT if you use them), then try again."
        )
    return AppError(
        f"Downloading {asked.path} of {asked.repo} failed {attempts} times: {trouble.reason}. "
        f"{size_text(kept)} of it are kept and the next try goes on from there. "
        "Check the network (and HTTPS_PROXY or HF_ENDPOINT if you use them), then try again."
    )


def _seconds(retry_after: str) -> float:
    """The wait a Retry-After header asks for: seconds, or a date; 0 where it says nothing that can be read."""
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0


def explain_disk(error: OSError, folder: Path, needed: int) -> AppError:
    """A failed write into the cache."""
    if error.errno in FULL:
        return AppError(
            f"The disk of {folder} is full; {size_text(needed)} more are needed. What arrived is kept. "
            "Free some space, or set HF_HOME to a folder on a larger disk, and start the download again."
        )
    if error.errno in READ_ONLY:
        return AppError(
            f"The model cache {folder} cannot be written: {error.strerror}. "
            "Make it writable, or set HF_HOME to a folder that is."
        )
    return AppError(
        f"Writing to the model cache {folder} failed: {error.strerror or error}. Check that disk, then try again."
    )


def no_room(folder: Path, needed: int, reserve: int, free: int) -> AppError:
    """Found before the first byte."""
    return AppError(
        f"Not enough disk space: the download needs {size_text(needed)} and {size_text(reserve)} should stay free, "
        f"but {folder} has {size_text(free)}. Free some space, or set HF_HOME to a folder on a larger disk."
    )
