"""The picture editor of the edit tab: the picture to edit and, for methods that read a mask, a brush."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageChops, ImageOps

from janus_app.errors import AppError
from janus_app.outputs.image_io import open_picture
from janus_app.paths import ASSETS
from janus_app.ui.common.html import data_uri

BRUSH = "rgba(255, 64, 129, 0.6)"
EXAMPLES = ASSETS / "examples"
FIRST_EXAMPLE = "frogs_and_house"  # the picture to try with
MIN_PAINTED_ALPHA = 8  # below it a pixel belongs to the soft rim of the brush and does not count as painted


def picture_editor(label: Callable[[str], Any]) -> gr.ImageEditor:
    return gr.ImageEditor(
        for_editor(str(example_file(FIRST_EXAMPLE))),
        label=label("picture_to_edit"),
        show_label=False,
        type="pil",
        image_mode="RGBA",
        sources=["upload", "webcam", "clipboard"],
        brush=gr.Brush(default_size=10, colors=[BRUSH], default_color=BRUSH, color_mode="fixed"),
        transforms=(),
        layers=False,
        buttons=[],
        format="png",
        elem_id="edit-editor",
        height=520,
        canvas_size=(384, 384),
        placeholder=label("editor_hint"),
    )


def example_names() -> list[str]:
    """The example pictures, the one that the editor opens with first."""
    return sorted((file.stem for file in EXAMPLES.glob("*.png")), key=lambda name: (name != FIRST_EXAMPLE, name))


def example_file(name: str) -> Path:
    return EXAMPLES / f"{name}.png"


def start_html(page_says: Callable[[str], str], drawn: bool | None) -> str:
    """Pictures to start with: the last one that was `drawn`, None where the page keeps none, and examples.

    Where nothing was drawn yet, assets/style/ shows its button once the draw tab has a picture.
    """
    kind = "last" if drawn else "last not-yet"
    last = f'<button type="button" class="{kind}" data-start="">{escape(page_says("start_last"))}</button>'
    examples = "".join(
        f'<button type="button" data-start="{name}" title="{escape(page_says("start_example"), quote=True)} {number}" '
        f'aria-label="{escape(page_says("start_example"), quote=True)} {number}">'
        f'<img src="{data_uri(Image.open(example_file(name)), quality=85)}" alt=""></button>'
        for number, name in enumerate(example_names(), 1)
    )
    hint, last = escape(page_says("start_hint")), "" if drawn is None else last
    return f'<div class="start"><span>{hint}</span>{last}{examples}</div>'


def for_editor(path: str) -> Any:
    """The value of the editor for a served picture with nothing painted on it."""
    return {"background": path, "layers": [], "composite": None}


def picture_and_mask(value: dict[str, Any] | None) -> tuple[Image.Image, Image.Image | None]:
    """The editor's picture, and a mask that is white where it is painted over, or None where nothing is painted.

    Raises AppError where there is no picture.
    """
    background = (value or {}).get("background")
    if background is None:
        raise AppError("editor_empty")
    picture = open_picture(background)
    painted = Image.new("L", picture.size, 0)
    for layer in (value or {}).get("layers") or ():
        if layer is None:
            continue
        alpha = layer.convert("RGBA").getchannel("A").point(lambda a: 255 if a >= MIN_PAINTED_ALPHA else 0)
        painted = ImageChops.lighter(painted, alpha.resize(picture.size, Image.Resampling.NEAREST))
    return picture, painted if painted.getbbox() else None


def more_pictures(value: list[Any] | None) -> tuple[Image.Image, ...]:
    """The pictures of a gallery of files. Raises AppError where one cannot be opened."""
    return tuple(open_picture(one[0] if isinstance(one, (tuple, list)) else one) for one in value or ())


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of the picture at the size of the result, so that the before/after slider aligns them."""
    return picture if picture.size == size else ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
