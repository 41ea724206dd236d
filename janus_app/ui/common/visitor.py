"""Who asks: the browser session of the event that is being handled."""

from __future__ import annotations

from gradio.context import LocalContext


def visitor() -> str:
    """The session of the browser tab or API client whose request is being handled, "" outside of a request."""
    request = LocalContext.request.get(None)
    return str(getattr(request, "session_hash", None) or "")
