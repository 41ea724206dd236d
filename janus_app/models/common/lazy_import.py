"""A lock for imports from packages that load their modules lazily (diffusers, transformers).

`from diffusers import X` in two threads at once fails in one of them with an ImportError, because the package replaces
its module object by a lazy one meanwhile (diffusers 0.42). The page loads a model in one thread while another computes
the memory of the next, so every such import is done under this lock. It also keeps what they import from talking to
the user: bitsandbytes warns of optional kernels.
"""

from __future__ import annotations

import logging
from threading import RLock


class _Importing:
    def __init__(self) -> None:
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._lock.release()


importing = _Importing()
