"""A lock for imports from packages that load their modules lazily (diffusers, transformers).

`from diffusers import X` in two threads at once fails in one of them with an ImportError, because the package replaces
its module object by a lazy one meanwhile (diffusers 0.42). The page loads a model in one thread while another computes
the memory of the next, so every such import is done under this lock. It also keeps what they import from talking to
the user, bitsandbytes warns of optional kernels, and from the package `kernels`: where that is installed, it fetches
compiled code from the Hub, without being asked.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import RLock


@contextmanager
def not_importable(name: str) -> Iterator[None]:
    """Inside the block, a package seems not to be installed."""
    missing = object()
    before = sys.modules.get(name, missing)
    sys.modules[name] = None  # type: ignore[assignment]  # an import raises ImportError
    try:
        yield
    finally:
        sys.modules.pop(name, None)
        if before is not missing:
            sys.modules[name] = before  # type: ignore[assignment]


class _Importing:
    def __init__(self) -> None:
        self._lock = RLock()
        self._hidden: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        self._lock.acquire()
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        self._hidden.append(not_importable("kernels"))
        self._hidden[-1].__enter__()

    def __exit__(self, *_: object) -> None:
        self._hidden.pop().__exit__(None, None, None)
        self._lock.release()


importing = _Importing()
