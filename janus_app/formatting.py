"""Bytes and seconds as people write them; the same words on the page, in the terminal and in errors."""

from __future__ import annotations

from janus_app.errors import Message


def size_text(count: float) -> str:
    """Bytes in the largest decimal unit that keeps a digit before the point, as download pages write them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}" if count < 10 * scale else f"{count / scale:.0f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> Message:
    """A duration, coarser the longer it is."""
    if seconds < 60:
        return Message("duration_seconds", seconds=round(max(seconds, 1)))
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return Message("duration_minutes_seconds", minutes=minutes, seconds=rest)
    return Message("duration_hours_minutes", hours=minutes // 60, minutes=minutes % 60)


def estimate(seconds: float) -> Message:
    """A duration that is only roughly known: two digits, above a quarter of an hour whole minutes."""
    if seconds < 900:
        return duration(float(f"{seconds:.2g}"))
    return Message("duration_minutes", minutes=round(seconds / 60))


def share_text(done: float, total: float) -> tuple[str, str]:
    """How much of how much: 3.1 and 4.2 GB. The unit is left out of the first where both have the same."""
    first, second = size_text(done), size_text(total)
    number, _, unit = first.partition(" ")
    return (number if second.endswith(f" {unit}") else first), second
