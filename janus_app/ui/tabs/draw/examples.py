"""The picture on the canvas before anything is drawn: one that the model at hand drew from the prompt beneath it."""

from __future__ import annotations

from pathlib import Path

from janus_app.errors import AppError
from janus_app.outputs.metadata import read_metadata
from janus_app.paths import ASSETS
from janus_app.registry.types import Variant
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import PageContext

FOLDER = ASSETS / "drawn"  # docs/make_examples.py draws them


def example(page: PageContext, variant: Variant, language: str) -> SavedImage | None:
    """The example of a variant in a language; None for variants without one.

    What may be saved beside a picture, as its description, goes beside the copy that the page serves.
    """
    file = FOLDER / f"{variant.id}.{language}.png"
    if variant.id not in page.catalog or not file.is_file():
        return None
    try:
        copy = page.images.serve_again(file)
        return SavedImage(Path(copy), copy, read_metadata(file), example=True)
    except (AppError, OSError):  # without a picture the page says what to do
        return None
