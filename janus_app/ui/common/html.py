"""The small pieces of HTML that the page builds itself. Everything that comes from outside is escaped here."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL.Image import Image


def message(text: str, kind: str = "note") -> str:
    """A line for the user; `kind` is note, done, warning or error. An empty text gives an empty string."""
    if not text:
        return ""
    role = "alert" if kind == "error" else "status"
    return f'<div class="message {kind}" role="{role}">{escape(text)}</div>'


def messages(texts: Sequence[str], kind: str = "note") -> str:
    return "\n".join(message(text, kind) for text in texts)


def bar(line: str, share: float | None, label: str) -> str:
    """A line of plain text above a progress bar; `share` is 0..1, or None while the end is unknown."""
    if share is None:
        fill, now = '<div class="fill unknown"></div>', ""
    else:
        percent = 100 * min(max(share, 0.0), 1.0)
        fill, now = f'<div class="fill" style="width:{percent:.1f}%"></div>', f' aria-valuenow="{percent:.0f}"'
    return (
        f'<div class="progress"><div class="progress-line">{escape(line)}</div><div class="track" role="progressbar" '
        f'aria-label="{escape(label, quote=True)}" aria-valuemin="0" aria-valuemax="100"{now}>{fill}</div></div>'
    )


def meter(line: str, share: float, label: str) -> str:
    """A thin meter with its reading, for the context of a conversation; `share` is 0..1."""
    percent = 100 * min(max(share, 0.0), 1.0)
    level = " full" if percent >= 90 else ""
    return (
        f'<div class="meter{level}"><div class="track" role="meter" aria-label="{escape(label, quote=True)}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent:.0f}"><div class="fill" '
        f'style="width:{percent:.1f}%"></div></div><span>{escape(line)}</span></div>'
    )


def data_uri(image: Image, quality: int = 80) -> str:
    """The picture as a JPEG in a data URI, so that a preview needs no file and no second request."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def preview_grid(pictures: Sequence[Image], captions: Sequence[str], alt: Sequence[str], quality: int = 80) -> str:
    """The pictures being drawn, side by side, in their current state."""
    figures = "".join(
        f'<figure><img src="{data_uri(picture, quality)}" alt="{escape(words, quote=True)}" '
        f'width="{picture.width}" height="{picture.height}"><figcaption>{escape(caption)}</figcaption></figure>'
        for picture, caption, words in zip(pictures, captions, alt, strict=True)
    )
    return f'<div class="easel n{min(len(pictures), 4)}">{figures}</div>'


def blank_preview_grid(count: int, size: tuple[int, int], captions: Sequence[str]) -> str:
    """Empty placeholders of the right shape, so that the layout does not move when the first rows appear."""
    ratio = f"{size[0]} / {size[1]}"
    figures = "".join(
        f'<figure><div class="sheet" style="aspect-ratio:{ratio}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption in captions
    )
    return f'<div class="easel n{min(count, 4)}">{figures}</div>'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """A small table of name and value."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs if value)
    return f'<dl class="facts">{rows}</dl>'


def empty(title: str, hint: str) -> str:
    """A placeholder where nothing is shown yet: what will be here, and what to do."""
    return f'<div class="empty"><strong>{escape(title)}</strong><span>{escape(hint)}</span></div>'
