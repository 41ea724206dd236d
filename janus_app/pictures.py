"""Kept for scripts that were exported by earlier versions; new code imports `janus_app` itself."""

from janus_app.outputs.image_io import open_mask, open_picture

__all__ = ["open_mask", "open_picture"]
