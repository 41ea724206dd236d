"""Bytes and seconds as people write them; the same words on the page, in the terminal and in errors."""

from __future__ import annotations


def size_text(count: float) -> str:
    """Bytes in the largest decimal unit that keeps a digit before the point, as download pages write them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}" if count < 10 * scale else f"{count / scale:.0f} {unit}"
    return f"{count:.0f} B"


def time_text(seconds: float) -> str:
    """A duration, coarser the longer it is."""
    if seconds < 60:
        return f"{max(seconds, 1):.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def estimate_text(seconds: float) -> str:
    """A duration that is only roughly known: two digits, above a quarter of an hour whole minutes."""
    return time_text(float(f"{seconds:.2g}")) if seconds < 900 else f"{seconds / 60:.0f} min"


def share_text(done: float, total: float) -> tuple[str, str]:
    """How much of how much: 3.1 and 4.2 GB. The unit is left out of the first where both have the same."""
    first, second = size_text(done), size_text(total)
    number, _, unit = first.partition(" ")
    return (number if second.endswith(f" {unit}") else first), second
