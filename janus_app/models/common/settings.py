"""First values and ranges of the settings that several families share, for checkpoints without a row of their own."""

from __future__ import annotations

from janus_app.types import Setting

COUNT = Setting(1, 1, 16, 1)
STEPS = Setting(30, 1, 100, 1)
STRENGTH = Setting(0.6, 0.05, 1.0, 0.05)
CHAT = {
    "chat_temperature": Setting(0.1, 0.0, 2.0, 0.05),
    "top_p": Setting(0.95, 0.05, 1.0, 0.05),
    "max_new_tokens": Setting(512, 16, 2048, 16),
}


def guidance(default: float) -> Setting:
    """A weight of classifier-free guidance; 1 switches it off."""
    return Setting(default, 1.0, 10.0, 0.5)
