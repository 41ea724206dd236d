"""The HTML of pictures. Everything that comes from outside is escaped here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from urllib.parse import quote

from janus_app.outputs.metadata import ImageMetadata
from janus_app.ui.common.alt_text import alt_of
from janus_app.ui.common.saved_images import THUMBNAIL_SIDE, SavedImage
from janus_app.ui.context import PageContext

ROOT = "page-root:"  # stands for the address of the page, which the browser knows
# The template of a gr.HTML with pictures. Gradio evaluates it in the browser.
ADDRESSED = "${(value || '').replaceAll('" + ROOT + "', (window.gradio_config?.root ?? '').replace(/\\/$/, ''))}"
# The script of a gr.HTML with pictures: it reports the number, and the name if any, of the picture that was clicked.
PICKED = """element.addEventListener("click", (event) => {
  const picture = event.target.closest("[data-picture]")?.dataset;
  if (picture) trigger("select", { picture: Number(picture.picture), name: picture.name ?? "" });
});"""


def address(file: str) -> str:
    """The address of a file in the served folder, for a component with the template ADDRESSED."""
    return f"{ROOT}/gradio_api/file={quote(file)}"


def runs(items: Sequence[ImageMetadata], ranked: Sequence[bool] = ()) -> list[tuple[int, int]]:
    """Where each run of `items` begins and ends: neighbours that one job could have drawn.

    Those have the same model, words and settings, and consecutive seeds; `ranked` pictures are not in that order any
    more, so for them the words alone decide.
    """
    if not items:
        return []
    starts = [0]
    for place in range(1, len(items)):
        one, other = items[place - 1], items[place]
        together = _asked(one) == _asked(other) and abs(one.seed - other.seed) == 1
        if ranked and ranked[place - 1] and ranked[place]:
            together = one.prompt == other.prompt
        if not together:
            starts.append(place)
    return list(zip(starts, [*starts[1:], len(items)], strict=True))


def _asked(record: ImageMetadata) -> tuple[object, ...]:
    settings = sorted((name, str(value)) for name, value in record.settings.items())
    return record.model, record.verb, record.prompt, record.negative, record.source_prompt, record.plan, settings


def tile(
    number: int,
    thumbnail: str,
    full: str,
    alt: str,
    size: tuple[int, int],
    *,
    line: str = "",
    current: bool = False,
    mark: str = "",
    name: str = "",
) -> str:
    """A small picture that can be chosen.

    `thumbnail` and `full` are addresses, `size` is (width, height) of the whole picture in pixels, `line` stands below
    it, and `mark` ("★") before that. The script PICKED reports `name` when the picture is clicked.
    """
    here = ' aria-current="true"' if current else ""
    called = f' data-name="{escape(name, quote=True)}"' if name else ""
    words = f'<span class="line">{escape(f"{mark} {line}".strip())}</span>' if line or mark else ""
    return (
        f'<li><button type="button" class="tile" data-picture="{number}" data-full="{escape(full, quote=True)}" '
        f'data-width="{size[0]}" data-height="{size[1]}" title="{escape(line, quote=True)}"{called}{here}>'
        f'<img src="{escape(thumbnail, quote=True)}" alt="{escape(alt, quote=True)}" width="{size[0]}" '
        f'height="{size[1]}" loading="lazy" decoding="async"></button>{words}</li>'
    )


def tiles(
    page: PageContext, items: Sequence[SavedImage], first: int, chosen: int, caption: Callable[[SavedImage], str]
) -> str:
    """`items`, whose first has the number `first`, as tiles in a list."""
    parts = []
    for number, item in enumerate(items, first):
        size = item.metadata.size
        small = item.shown if max(size) <= THUMBNAIL_SIDE else page.images.thumbnail(item.file)
        where = address(small), address(item.shown)
        parts.append(tile(number, *where, alt_of(item), size, line=caption(item), current=number == chosen))
    return f'<ol class="tiles">{"".join(parts)}</ol>'


def run_heading(prompt: str, about: str) -> str:
    return f'<h3 class="run-heading"><span>{escape(prompt)}</span><small>{escape(about)}</small></h3>'


def figure(
    source: str,
    alt: str,
    size: tuple[int, int],
    below: str,
    *,
    kind: str = "",
    label: str = "",
    number: int | None = None,
    key: str = "",
) -> str:
    """A picture as every tab shows it: a click on it opens the lightbox. `below` is HTML, the rest is escaped here.

    `source` is an address, `size` (width, height) in pixels, `kind` a class for the style sheet, and `label` says what
    a click does. The page hears which picture it was by its `number` (script PICKED) or its `key` (chat.js).
    """
    width, height = size
    which = {"data-picture": "" if number is None else str(number), "data-key": key, "title": label}
    given = {"data-full": source, "data-width": str(width), "data-height": str(height), **which}
    known = "".join(f' {name}="{escape(value, quote=True)}"' for name, value in given.items() if value)
    image = (
        f'<img src="{escape(source, quote=True)}" alt="{escape(alt, quote=True)}" width="{width}" height="{height}">'
    )
    button = f'<button type="button" data-enlarge{known}>{image}</button>'
    shape = f'class="picture {kind}" style="--ratio:{width / height:.4f}"'
    return f"<figure {shape}>{button}<figcaption>{below}</figcaption></figure>"


def large(number: int, image: SavedImage, label: str, line: str) -> str:
    """The chosen picture."""
    source, size = address(image.shown), image.metadata.size
    return figure(source, alt_of(image), size, escape(line), kind="large", label=label, number=number)
