"""A name becomes a Variant: an id of the catalog, or the path of a folder that holds a checkpoint, or of its file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from janus_app.errors import AppError
from janus_app.files import typed_path
from janus_app.registry.checkpoint_folder import variant_of_path, with_own_components
from janus_app.registry.types import Variant


def resolve(name: str, variants: Mapping[str, Variant]) -> Variant:
    """A variant by id, in any case, or the checkpoint in the folder `name` or of the file `name`.

    The folder of a row is that row: it knows more than the files say.
    Raises AppError with the closest ids where it is neither, or with what the file or folder is.
    """
    stripped = name.strip()
    if stripped.lower() in variants:
        return with_own_components(variants[stripped.lower()], variants.values())
    if stripped and _exists(stripped):
        found = variant_of_path(typed_path(stripped).expanduser(), variants.values())
        rows = (row for row in variants.values() if row.folder and row.folder.resolve() == found.folder)
        row = next(rows, None)
        return found if row is None else with_own_components(row, variants.values())
    close = difflib.get_close_matches(stripped.lower(), variants, n=3, cutoff=0.5)
    shortened, known = repr(stripped[:200]), ", ".join(variants)
    if close:
        raise AppError("model_unknown_similar", given=shortened, known=known, similar=", ".join(close))
    raise AppError("model_unknown", given=shortened, known=known)


def _exists(name: str) -> bool:
    try:
        return typed_path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long for a path, a NUL byte, an unknown ~user
        return False
