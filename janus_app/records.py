"""Kept for scripts that were exported by earlier versions; new code imports `janus_app` itself."""

from janus_app.outputs.metadata import ImageMetadata, metadata_of
from janus_app.outputs.metadata import read_metadata as read_record
from janus_app.outputs.store import output_path, save_png
from janus_app.registry.types import Variant
from janus_app.runtime.session import SessionState, provenance_of
from janus_app.types import EditRequest, GenerateRequest, Picture

__all__ = ["output_path", "read_record", "record_of", "save_png"]


def record_of(
    picture: Picture, request: GenerateRequest | EditRequest, variant: Variant, state: SessionState
) -> ImageMetadata:
    """The metadata of a picture, from the session's state while or after it was drawn."""
    return metadata_of(picture, provenance_of(variant, state.precision, state.device, request))
