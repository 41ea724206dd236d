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
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise AppError(
        f"There is no model called {wanted[:200]!r}, and no folder of that name.{hint} "
        f"Known models: {', '.join(variants)}. Or give the path of a folder holding a checkpoint."
    )


def _is_folder(name: str) -> bool:
    try:
        return Path(name).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):  # too long for a path, a NUL byte, an unknown ~user
        return False
