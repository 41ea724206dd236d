"""A labelled sheet: pictures in rows and columns with the values of the axes beside them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from janus_app.workflows.axes import Axis, value_text

PAPER, INK, FAINT = "#ffffff", "#1c1917", "#57534e"
GAP = 8  # pixels between pictures
LEAST = 160  # pixels a small picture's cell is wide, so that labels can be read; the picture is not enlarged
# Pillow's own font has Latin letters only; the first of these that is installed has the Chinese ones.
CHINESE = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Regular.otf",
    "NotoSerifCJK-Regular.ttc",
    "NotoSerifCJK-Bold.ttc",
    "wqy-microhei.ttc",
    "msyh.ttc",
    "simsun.ttc",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def sheet(x: Axis, y: Axis | None, pictures: Sequence[Sequence[Image.Image]], note: str = "") -> Image.Image:
    """The pictures at native size under x's values, beside y's; `pictures[r][c]`, the note in the last line."""
    wide = max(LEAST, max(p.width for row in pictures for p in row))
    tall = max(p.height for row in pictures for p in row)
    small = 14 if wide < 300 else 18
    columns = [_label(x, value, number) for number, value in enumerate(x.values, 1)]
    rows = [_label(y, value, number) for number, value in enumerate(y.values, 1)] if y else []
    columns_lines = [_wrapped(text, wide - GAP, small) for text in columns]
    rows_lines = [_wrapped(text, 150, small) for text in rows]
    step = round(small * 1.35)
    top = GAP + step * max(len(lines) for lines in columns_lines) + GAP
    left = (150 + 2 * GAP) if rows else GAP
    width = left + len(columns) * (wide + GAP)
    note_lines = _wrapped(note, width - 2 * GAP, small) if note else []
    height = top + len(pictures) * (tall + GAP) + step * len(note_lines) + (GAP if note_lines else 0)
    paper = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(paper)
    for c, lines in enumerate(columns_lines):
        _write(pen, (left + c * (wide + GAP), GAP), lines, small, INK)
    for r, row in enumerate(pictures):
        y0 = top + r * (tall + GAP)
        if rows:
            _write(pen, (GAP, y0), rows_lines[r], small, INK)
        for c, picture in enumerate(row):
            paper.paste(picture.convert("RGB"), (left + c * (wide + GAP), y0))
    _write(pen, (GAP, top + len(pictures) * (tall + GAP)), note_lines, small, FAINT)
    return paper


def _label(axis: Axis, value: object, number: int) -> str:
    """The value with its setting; words no font here can write are named by their number instead."""
    text = value_text(value)  # type: ignore[arg-type]
    if axis.name in ("prompt", "negative"):
        return (text or "(none)") if _font_for(text, 14) else f"{axis.name} {number}"
    return f"{axis.name} {text}"


@lru_cache
def _font(chinese: bool, size: int) -> Font | None:
    if not chinese:
        return ImageFont.load_default(size)
    for name in CHINESE:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return None


def _font_for(text: str, size: int) -> Font | None:
    """A font that can write the text, None where this machine has none."""
    return _font(any(ord(character) >= 0x2E80 for character in text), size)


def _wrapped(text: str, width: int, size: int, most: int = 4) -> list[str]:
    """The text in at most `most` lines of `width` pixels, cut with an ellipsis; breaks between words or characters."""
    text = "".join(c if c.isprintable() else " " for c in text)
    font = _font_for(text, size) or _font(False, size)
    assert font is not None
    pieces = [w + " " for w in text.split(" ")] if " " in text else list(text)
    lines, line = [], ""
    for piece in pieces:
        if line and font.getlength((line + piece).rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        while font.getlength(piece.rstrip()) > width and len(piece) > 1:  # a word wider than the line
            cut = next((n for n in range(len(piece) - 1, 0, -1) if font.getlength(piece[:n]) <= width), 1)
            lines.append(piece[:cut])
            piece = piece[cut:]
        line += piece
    lines.append(line.rstrip())
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1].rstrip()[:-1] + "…"]
    return lines


def _write(pen: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], size: int, ink: str) -> None:
    x, y = place
    for line in lines:
        font = _font_for(line, size) or _font(False, size)
        pen.text((x, y), line, fill=ink, font=font)
        y += round(size * 1.35)
