"""A lock for imports from packages that load their modules lazily (diffusers, transformers).

`from diffusers import X` in two threads at once fails in one of them with an ImportError, because the package replaces
its module object by a lazy one meanwhile (diffusers 0.42). The page loads a model in one thread while another computes
the memory of the next, so every such import is done under this lock.
"""

from __future__ import annotations

from threading import RLock

importing = RLock()
