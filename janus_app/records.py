"""Kept for scripts that were exported by earlier versions; new code imports `janus_app` itself."""

from janus_app.outputs.metadata import metadata_of as record_of
from janus_app.outputs.metadata import output_path, save_png
from janus_app.outputs.metadata import read_metadata as read_record

__all__ = ["output_path", "read_record", "record_of", "save_png"]
