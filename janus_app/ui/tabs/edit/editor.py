"""The picture editor of the edit tab: a picture to drop and, where the way of editing asks for it, a brush."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from PIL import Image, ImageChops, ImageOps

from janus_app.errors import AppError
from janus_app.outputs.image_io import open_picture

BRUSH = "rgba(255, 64, 129, 0.6)"
PAINTED = 8  # alpha from which a pixel counts as painted: the brush's soft rim does not


def picture_editor(label: Callable[[str], Any]) -> gr.ImageEditor:
    return gr.ImageEditor(
        label=label("picture_to_edit"),
        type="pil",
        image_mode="RGBA",
        sources=["upload", "webcam", "clipboard"],
        brush=gr.Brush(default_size=10, colors=[BRUSH], default_color=BRUSH, color_mode="fixed"),
        transforms=(),
        layers=False,
        buttons=[],
        format="png",
        elem_id="edit-editor",
        height=430,
        canvas_size=(384, 384),
        placeholder=label("editor_hint"),
    )


def for_editor(path: str) -> dict[str, Any]:
    """A served picture as the editor's blank canvas."""
    return {"background": path, "layers": [], "composite": None}


def picture_and_mask(value: dict[str, Any] | None) -> tuple[Image.Image, Image.Image | None]:
    """The editor's picture, and where anything was painted over it (white), or None where nothing was.

    Raises AppError where there is no picture.
    """
    background = (value or {}).get("background")
    if background is None:
        raise AppError("There is no picture to edit. Put one into the editor, or send one over from the draw tab.")
    picture = open_picture(background)
    painted = Image.new("L", picture.size, 0)
    for layer in (value or {}).get("layers") or ():
        if layer is None:
            continue
        alpha = layer.convert("RGBA").getchannel("A").point(lambda a: 255 if a >= PAINTED else 0)
        painted = ImageChops.lighter(painted, alpha.resize(picture.size, Image.Resampling.NEAREST))
    return picture, painted if painted.getbbox() else None


def more_pictures(value: list[Any] | None) -> tuple[Image.Image, ...]:
    """The pictures of a gallery of files. Raises AppError where one cannot be opened."""
    return tuple(open_picture(one[0] if isinstance(one, (tuple, list)) else one) for one in value or ())


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of the picture at the size of the result, so that the slider lays them exactly over each other."""
    return picture if picture.size == size else ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
