"""A name becomes a Variant: an id of the catalog, or the path of a folder that holds a checkpoint."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from janus_app.errors import AppError
from janus_app.registry.checkpoint_folder import variant_of_folder, with_own_components
from janus_app.registry.types import Variant


def resolve(name: str, variants: Mapping[str, Variant]) -> Variant:
    """A variant by id, in any case, or the checkpoint in the folder `name`.

    Raises AppError with the closest ids where it is neither.
    """
    wanted = name.strip()
    if wanted.lower() in variants:
        return with_own_components(variants[wanted.lower()], variants.values())
    if wanted and _is_folder(wanted):
        return variant_of_folder(Path(wanted).expanduser(), variants.values())
    close = difflib.get_close_matches(wanted.lower(), variants, n=3, cutoff=0.5)
    given, known = repr(wanted[:200]), ", ".join(variants)
    if close:
        raise AppError("model_unknown_similar", given=given, known=known, similar=", ".join(close))
    raise AppError("model_unknown", given=given, known=known)


def _is_folder(name: str) -> bool:
    try:
        return Path(name).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):  # too long for a path, a NUL byte, an unknown ~user
        return False
