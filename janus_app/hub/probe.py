"""Whether the Hub answers, asked before a download so that a machine without a network learns it at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

from janus_app.errors import AppError, Message
from janus_app.hub.errors import proxy_refusal, server_error, unreachable
from janus_app.hub.proxies import check_endpoint, open_client, proxy_of
from janus_app.types import Progress

PATIENCE = 2.0  # seconds
_TICK = 0.1


def hub_problem(endpoint: str, timeout: float) -> Message | None:
    """Why the Hub gives no answer, None where it gives one. Connecting and answering may take `timeout` seconds each.

    Raises AppError for an address or a proxy that cannot be used at all.
    """
    from huggingface_hub import get_session

    check_endpoint(endpoint)
    client, proxied = open_client(get_session), proxy_of(endpoint) is not None
    try:
        answer = client.head(endpoint, timeout=timeout)  # any answer of the server is a good one
        if proxied and answer.status_code == 407:
            answer.raise_for_status()
        if proxied and answer.status_code >= 500:
            return server_error(endpoint, answer.status_code)
    except Exception as error:  # the client's own types, OSError, ValueError
        if proxied:
            return proxy_refusal(endpoint, error) or unreachable(endpoint, error)
        return Message("doctor_hub_unreachable", host=host_of(endpoint))
    return None


def host_of(endpoint: str) -> str:
    return urlsplit(endpoint).hostname or "?"


def reach(endpoint: str, patience: float = PATIENCE) -> Iterator[Progress]:
    """Ask the Hub for an answer, for at most `patience` seconds. Raises AppError where there is no way to it.

    Where it is only slow, the download goes on: that tries again for longer.
    """
    found: list[Message | AppError | None] = []

    def ask() -> None:
        try:
            found.append(hub_problem(endpoint, patience))
        except AppError as error:
            found.append(error)

    thread = threading.Thread(target=ask, name="hub-probe", daemon=True)  # finding an address may take long
    thread.start()
    for _ in range(round(patience / _TICK)):
        yield Progress("connect", 0, 0, detail=host_of(endpoint))
        thread.join(_TICK)
        if found:
            break
    problem = found[0] if found else None
    if isinstance(problem, AppError):
        raise problem
    if problem is not None:
        raise AppError("download_unreachable", reason=problem)
