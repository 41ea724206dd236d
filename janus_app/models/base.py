"""Kept for scripts that were exported by earlier versions; new code imports `janus_app` itself."""

from janus_app.types import ChatRequest, EditRequest, Finished, GenerateRequest, Turn

__all__ = ["ChatRequest", "EditRequest", "Finished", "GenerateRequest", "Turn"]
