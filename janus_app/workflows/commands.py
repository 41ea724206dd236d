"""Messages of a chat that ask for a picture: /draw and /edit, in Chinese also /画 and /改."""

from __future__ import annotations

import re

_COMMAND = re.compile(r"\s*/(?:(draw|edit)(?:\s+|$)|(画|改))(.*)", re.DOTALL | re.IGNORECASE)
_VERBS = {"画": "draw", "改": "edit"}


def command(text: str) -> tuple[str, str] | None:
    """("draw" or "edit", its prompt) if a message is a command, else None."""
    found = _COMMAND.fullmatch(text)
    if not found:
        return None
    return (found[1] or _VERBS[found[2]]).lower(), found[3].strip()
