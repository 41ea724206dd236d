"""Failures of requests to the Hub and of writes to the cache, as sentences with a remedy."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from janus_app.errors import AppError, Message
from janus_app.files import is_disk_full
from janus_app.formatting import size_text
from janus_app.hub.proxies import proxy_of, without_login

READ_ONLY_ERRNOS = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class FileRequest:
    """One file of a repository at an endpoint."""

    repo: str
    revision: str
    path: str
    endpoint: str


class RetryableError(Exception):
    """A failure worth another attempt. `wait` is the seconds that the server asked for, 0 if it did not say."""

    def __init__(self, reason: Message, wait: float = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


def explain_network_error(error: Exception, request: FileRequest) -> AppError | RetryableError:
    """An exception of huggingface_hub or httpx as an AppError, or as a RetryableError if waiting may help.

    Any other exception is a bug and is raised again.
    """
    from huggingface_hub import errors as hub

    repo, revision, path, endpoint = request.repo, request.revision[:12], request.path, request.endpoint
    asked = _asked(error, endpoint)
    if refusal := proxy_refusal(asked, error):
        return AppError(refusal)
    if isinstance(error, hub.OfflineModeIsEnabled):
        return AppError("download_offline", path=path, repo=repo)
    if isinstance(error, hub.GatedRepoError):
        return AppError("download_terms_not_accepted", repo=repo, endpoint=endpoint)
    if isinstance(error, hub.RevisionNotFoundError):
        return AppError("download_revision_unknown", revision=revision, repo=repo, endpoint=endpoint)
    if isinstance(error, hub.RemoteEntryNotFoundError):
        return AppError("download_file_unknown", repo=repo, path=path, revision=revision)
    if isinstance(error, hub.RepositoryNotFoundError):
        return AppError("download_repo_unknown", repo=repo, endpoint=endpoint)
    if isinstance(error, hub.HfHubHTTPError):
        status = error.response.status_code if error.response is not None else 0
        if status == 429 or status >= 500:
            wait = _seconds(error.response.headers.get("Retry-After", ""))
            if status == 429:
                return RetryableError(Message("hub_rate_limited", endpoint=endpoint, http_status=status), wait)
            return RetryableError(server_error(asked, status), wait)
        if status in (401, 403):
            return AppError("download_access_refused", endpoint=endpoint, repo=repo, http_status=status)
        return AppError("download_http_error", endpoint=endpoint, path=path, http_status=status)
    if not isinstance(error, OSError) and not type(error).__module__.startswith("httpx"):
        raise error
    return RetryableError(unreachable(asked, error))


def _asked(error: Exception, endpoint: str) -> str:
    """The server that a failed request was for: files come from other hosts than the Hub's own."""
    try:
        url = error.request.url  # type: ignore[attr-defined]
        return f"{url.scheme}://{url.netloc.decode()}"
    except (AttributeError, RuntimeError):
        return endpoint


def proxy_refusal(asked: str, error: Exception) -> Message | None:
    """That the proxy on the way to `asked` refuses requests, so that another attempt is no use."""
    proxy, text = proxy_of(asked), str(error)
    status = int(getattr(getattr(error, "response", None), "status_code", 0))
    if type(error).__name__ == "ProxyError":  # of a tunnel: its text begins with the status, of SOCKS with other words
        wants_login = text.startswith(("Requested", "Invalid username"))
        status = 407 if wants_login else int(text[:3]) if text[:3].isdigit() else 0
    elif status != 407:
        return None
    if proxy is None or not 400 <= status < 500:
        return None
    code = "proxy_login_refused" if status == 407 else "proxy_refused"
    values = {"variable": proxy.name, "proxy": proxy.shown, "server": without_login(asked)}
    return Message(code, http_status=status, **values)


def unreachable(asked: str, error: Exception) -> Message:
    """That a request got no answer; if it went through a proxy, with the variable that asks for it."""
    if (proxy := proxy_of(asked)) is None:
        return Message("hub_unreachable", endpoint=without_login(asked), error=type(error).__name__)
    values = {"endpoint": without_login(asked), "variable": proxy.name, "proxy": proxy.shown}
    return Message("hub_unreachable_through_proxy", error=str(error) or type(error).__name__, **values)


def server_error(asked: str, http_status: int) -> Message:
    """That the answer was an error of a server. An https address is asked by itself, an http one by the proxy."""
    proxy = proxy_of(asked) if asked.startswith("http:") else None
    if proxy is None:
        return Message("hub_server_error", endpoint=asked, http_status=http_status)
    values = {"endpoint": without_login(asked), "variable": proxy.name, "proxy": proxy.shown}
    return Message("hub_server_error_through_proxy", http_status=http_status, **values)


def download_failed(error: RetryableError, request: FileRequest, attempts: int, on_disk: int) -> AppError:
    """The error that ends a download after its last attempt, with `on_disk` bytes on disk."""
    values = {"path": request.path, "repo": request.repo, "attempts": attempts, "reason": error.reason}
    if not on_disk:
        return AppError("download_failed", **values)
    return AppError("download_failed_part_kept", kept=size_text(on_disk), **values)


def _seconds(retry_after: str) -> float:
    """The wait that a Retry-After header asks for, in seconds or as a date; 0 if it cannot be read."""
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0


def explain_cache_error(error: OSError, folder: Path, needed: int) -> AppError:
    """A failed write of a download into the cache; `needed` bytes were still to come."""
    if is_disk_full(error):
        return AppError("cache_disk_full", folder=folder, needed=size_text(needed))
    if error.errno in READ_ONLY_ERRNOS:
        return AppError("cache_read_only", folder=folder, reason=error.strerror)
    return AppError("cache_write_failed", folder=folder, reason=error.strerror or error)
