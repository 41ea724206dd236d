"""Takes a checkpoint folder into the user's own list, after a look at the names and shapes in its weight files."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from janus_app.hub import Hub
from janus_app.registry.checkpoint_folder import variant_of_path
from janus_app.registry.types import Variant
from janus_app.registry.user_models import register
from janus_app.types import Notice


def add_own_model(hub: Hub, path: Path, title: str = "") -> Generator[Notice, None, Variant]:
    """Add the checkpoint in a folder, or of a file, to the user's list and return its row.

    Reads headers, no tensors. A Notice says what a load will mend. Raises AppError, before the list is changed, for
    weights that cannot be loaded.
    """
    from janus_app.runtime.loader import compare

    variant = variant_of_path(path.expanduser())
    components = {role: folder for role, folder in hub.part_folders(variant).items() if folder.is_dir()}
    yield from compare(variant, components)
    assert variant.folder is not None
    return register(variant.folder, title)
