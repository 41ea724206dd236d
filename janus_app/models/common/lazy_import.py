"""Importing from packages that read their modules at first use, safely in several threads.

`from diffusers import X` in two threads at once fails in one of them with an ImportError: the package's module object
is still being exchanged for its lazy one (diffusers 0.42). A page loads a model in one thread while another counts what
the next would need, so every such import of ours is done under this lock.
"""

from __future__ import annotations

from threading import RLock

importing = RLock()
