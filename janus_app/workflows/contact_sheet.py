"""A contact sheet: pictures in rows and columns with a label for each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

BACKGROUND, LABEL, NOTE = "#ffffff", "#1c1917", "#57534e"
GAP = 8  # pixels between pictures
LEAST = 160  # smallest width of a cell in pixels, so that labels can be read; a smaller picture is not enlarged
ROW_LABEL = 150  # width of the labels beside the rows, in pixels
# Pillow's own font has Latin letters only; Chinese is written with the first of these that is installed.
CHINESE_FONTS = (
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


def contact_sheet(
    columns: Sequence[str], rows: Sequence[str], pictures: Sequence[Sequence[Image.Image]], note: str = ""
) -> Image.Image:
    """The pictures at native size, `pictures[r][c]`, with labels above the columns and left of the rows.

    `rows` may be empty; `note` is written below everything.
    """
    cell_width = max(LEAST, max(picture.width for row in pictures for picture in row))
    cell_height = max(picture.height for row in pictures for picture in row)
    font_size = 14 if cell_width < 300 else 18
    column_lines = [wrap_text(text, cell_width - GAP, font_size) for text in columns]
    row_lines = [wrap_text(text, ROW_LABEL, font_size) for text in rows]
    line_height = round(font_size * 1.35)
    top = GAP + line_height * max(len(lines) for lines in column_lines) + GAP
    left = (ROW_LABEL + 2 * GAP) if rows else GAP
    width = left + len(columns) * (cell_width + GAP)
    note_lines = wrap_text(note, width - 2 * GAP, font_size) if note else []
    bottom = top + len(pictures) * (cell_height + GAP)
    height = bottom + line_height * len(note_lines) + (GAP if note_lines else 0)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for c, lines in enumerate(column_lines):
        write_lines(draw, (left + c * (cell_width + GAP), GAP), lines, font_size, LABEL)
    for r, row in enumerate(pictures):
        y = top + r * (cell_height + GAP)
        if rows:
            write_lines(draw, (GAP, y), row_lines[r], font_size, LABEL)
        for c, picture in enumerate(row):
            sheet.paste(picture.convert("RGB"), (left + c * (cell_width + GAP), y))
    write_lines(draw, (GAP, bottom), note_lines, font_size, NOTE)
    return sheet


def has_font(text: str) -> bool:
    """Whether a font installed here can write the text."""
    return _font_for(text, 14) is not None


@lru_cache
def _font(chinese: bool, size: int) -> Font | None:
    if not chinese:
        return ImageFont.load_default(size)
    for name in CHINESE_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return None


def _font_for(text: str, size: int) -> Font | None:
    """A font that can write the text, or None."""
    return _font(any(ord(character) >= 0x2E80 for character in text), size)


def wrap_text(text: str, width: int, size: int, most: int = 4) -> list[str]:
    """The text in at most `most` lines of `width` pixels, broken between words or characters, longer text cut."""
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


def write_lines(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], size: int, colour: str
) -> None:
    """Write the lines below each other; `place` is the top left corner of the first."""
    x, y = place
    for line in lines:
        font = _font_for(line, size) or _font(False, size)
        draw.text((x, y), line, fill=colour, font=font)
        y += round(size * 1.35)
