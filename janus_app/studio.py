"""Kept for scripts that were exported by earlier versions; new code imports `janus_app` itself."""

from janus_app.runtime.session import ModelSession as Studio
from janus_app.types import drain

__all__ = ["Studio", "drain"]
