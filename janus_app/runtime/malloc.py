"""Makes glibc return freed memory to the system, so that the memory shown and predicted is what a model takes.

glibc keeps blocks below a threshold that grows with every large block freed, up to 32 MB; feature maps and weights
below it then leave gaps that nothing can use. With other C libraries these functions do nothing.
"""

from __future__ import annotations

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 4 << 20  # bytes from which a block gets its own mapping: blocks below it need no system call


def set_malloc_threshold() -> None:
    """Give every large block its own mapping from now on (mallopt(3))."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)


def trim() -> None:
    """Return free memory to the system (malloc_trim(3))."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
