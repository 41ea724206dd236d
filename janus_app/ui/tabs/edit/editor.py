"""The editor of the edit tab: the picture to edit and, for methods that read a mask, strokes painted over it.

No component of Gradio's paints a mask on one picture without an image editor's layers, papers and uploads, so this is
one of our own: a gr.HTML that assets/page/editor.js fills. Its value names the picture by the address of a served file
and holds the mask as a PNG. The server alone knows which picture is edited; from the browser it takes only the mask.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageOps

from janus_app.errors import LANGUAGES, AppError
from janus_app.outputs.image_io import open_bytes, open_picture
from janus_app.paths import ASSETS
from janus_app.ui.common.html import data_uri
from janus_app.ui.common.pictures import address
from janus_app.ui.i18n import Texts

EXAMPLES = ASSETS / "examples"
FIRST_EXAMPLE = "frogs_and_house"  # the picture to try with
MIN_PAINTED_ALPHA = 128  # below it a pixel belongs to the soft rim of a stroke and does not count as painted
MAX_MASK_SIDE = 1024  # assets/page/strokes.js
PNG = "data:image/png;base64,"
# What is in the row of tools: those that paint, how large the picture is shown, and which picture it is.
PAINTING, ZOOMING = ("brush", "eraser", "size", "undo", "redo", "invert", "wipe"), ("out", "fit", "in")
CHOOSING = ("open", "photo", "empty")
PHOTO = ("photo_take", "photo_cancel", "photo_none")
SCRIPT = "window.janus.editor(element, props, trigger, watch);"


def picture_editor(texts: Texts) -> gr.HTML:
    languages = LANGUAGES if texts.forced is None else (texts.forced,)
    names = ("canvas", "hint", "tools", *PAINTING, *ZOOMING, *CHOOSING, *PHOTO)
    words = {language: {name: texts.say(f"editor_{name}", language) for name in names} for language in languages}
    return gr.HTML(opening(), html_template=_template(words), js_on_load=SCRIPT, elem_id="edit-editor")


def _template(words: dict[str, dict[str, str]]) -> str:
    """The parts of the editor; assets/page/editor.js gives them their names, which are `words` by language."""

    def button(name: str, inside: str = "") -> str:
        return f'<button type="button" class="glyph tool-{name}" data-act="{name}" data-word="{name}">{inside}</button>'

    spoken = escape(json.dumps(words, ensure_ascii=False), quote=True)
    spoken = spoken.replace("{", "&#123;").replace("}", "&#125;")  # Gradio would take braces for its own
    size = '<input type="range" min="1" max="40" value="8" data-word="size">'
    painting = "".join(size if name == "size" else button(name) for name in PAINTING)
    zooming = "".join(button(name, "<output>100 %</output>" if name == "fit" else "") for name in ZOOMING)
    file = '<input type="file" accept="image/*" data-word="open">'
    hint = f'<label class="drop-here"><b class="glyph tool-open" data-word="hint"></b>{file}</label>'
    choosing = f'<label class="glyph tool-open">{file}</label>{button("photo")}{button("empty")}'
    return (
        f'<div class="canvas" data-words="{spoken}"><div class="board"><div class="sheet">'
        f'<img data-word="canvas" alt=""><canvas></canvas><i class="cursor" hidden></i></div></div>{hint}'
        f'<div class="tools" role="toolbar" data-word="tools"><span class="painting">{painting}</span>'
        f'<span class="zooming">{zooming}</span><span class="choosing">{choosing}</span></div>'
        '<dialog><video autoplay muted playsinline></video><p><b data-word="photo_none"></b></p>'
        '<form method="dialog"><button value="take" class="primary"><b data-word="photo_take"></b></button>'
        '<button value=""><b data-word="photo_cancel"></b></button></form></dialog></div>'
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


def for_editor(path: str) -> dict[str, str]:
    """The value of the editor for a served picture with nothing painted on it."""
    return {"picture": address(path)}


@lru_cache
def opening() -> dict[str, str]:
    """The value with which the editor opens: an example."""
    return {"picture": PNG + base64.b64encode(example_file(FIRST_EXAMPLE).read_bytes()).decode("ascii")}


def painted(value: dict[str, Any] | None, shown: dict[str, str], size: tuple[int, int]) -> Image.Image | None:
    """What is painted on the picture `shown` of that size: white in an "L" mask; None where nothing is.

    `value` is that of the editor, from the browser. Strokes on another picture, which has just gone, do not count.
    Raises AppError where the mask is no picture of an editor.
    """
    value = value or {}
    if not value.get("mask") or value.get("picture") != shown["picture"]:
        return None
    alpha = (
        _layer(str(value["mask"])).convert("RGBA").getchannel("A").point(lambda a: 255 if a >= MIN_PAINTED_ALPHA else 0)
    )
    return alpha.resize(size, Image.Resampling.NEAREST) if alpha.getbbox() else None


def _layer(mask: str) -> Image.Image:
    """The PNG of a mask, bounded in size before it is decoded. Raises AppError."""
    try:
        layer = open_bytes(base64.b64decode(mask.removeprefix(PNG), validate=True))
        if max(layer.size) > MAX_MASK_SIDE:
            raise AppError("editor_mask_damaged")
        layer.load()
    except (AppError, OSError, SyntaxError, ValueError):
        raise AppError("editor_mask_damaged") from None
    return layer


def more_pictures(value: list[Any] | None) -> tuple[Image.Image, ...]:
    """The pictures of a gallery of files. Raises AppError where one cannot be opened."""
    return tuple(open_picture(one[0] if isinstance(one, (tuple, list)) else one) for one in value or ())


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of the picture at the size of the result, so that the before/after slider aligns them."""
    return picture if picture.size == size else ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
