"""The C library's heap: memory that was freed goes back to the system, so that what is shown and predicted is true.

glibc keeps blocks below a threshold that grows with every large block freed, up to 32 MB; feature maps and weights
below it then leave holes nobody can use. Elsewhere than on glibc nothing is done.
"""

from __future__ import annotations

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 4 << 20  # bytes from which a block is mapped alone: large enough that small steps need no system call


def set_malloc_threshold() -> None:
    """Give every large block a mapping of its own from now on."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)


def trim() -> None:
    """Hand what is free back to the system."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
