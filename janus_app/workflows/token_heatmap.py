"""What a picture's record says about its image tokens: the questions to ask a model, and the answer as a heat map."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw, ImageFont

from janus_app.errors import AppError
from janus_app.outputs.metadata import ImageMetadata, request_of
from janus_app.types import GenerateRequest, Inspection, InspectRequest, TokenFacts

# Dark blue over grey to yellow, ever lighter: the order is seen with any colour vision and in print.
RAMP = ((13, 33, 84), (62, 84, 122), (122, 124, 121), (186, 167, 96), (253, 229, 74))
SIDE = 576  # pixels a heat map has at least
_ROOM = 44  # pixels of a patch in which a number can be read
_COVER = 0.72  # how much of the picture the colour covers


@dataclass(frozen=True)
class Measure:
    """One number a patch is coloured by: bits from 0 to the picture's highest, or a share from 0 to 1."""

    value: Callable[[TokenFacts], float]
    unit: str  # "bits" or "%"

    def top(self, inspection: Inspection) -> float:
        """The end of the scale for this picture; never 0."""
        if self.unit == "%":
            return 1.0
        return max(0.01, *(self.value(cell) for cell in inspection.cells))

    def text(self, value: float) -> str:
        return f"{100 * value:.0f}" if self.unit == "%" else f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


MEASURES = {
    "entropy": Measure(lambda cell: cell.entropy, "bits"),
    "probability": Measure(lambda cell: cell.probability, "%"),
    "gap": Measure(lambda cell: cell.gap, "bits"),
}


def inspection_of(record: ImageMetadata, alternatives: int = 8) -> InspectRequest:
    """What to ask about the tokens of a recorded picture. Raises AppError where there is nothing true to tell."""
    asked = _drawn_by_words(record)
    return InspectRequest(
        asked.prompt, asked.image_tokens, asked.negative, asked.guidance, asked.temperature, alternatives
    )


def drawn_on(record: ImageMetadata, keep: int, seed: int, token: int | None = None) -> GenerateRequest:
    """The request that keeps the first `keep` tokens of a recorded picture and draws the rest from `seed`.

    With `token`, that one stands in the place behind the kept ones and the drawing begins after it. Raises AppError
    for pictures that were not drawn by words alone, and for a number of tokens the picture does not have.
    """
    asked = _drawn_by_words(record)
    tokens = asked.image_tokens
    if token is not None and 0 <= keep < len(tokens):
        tokens, keep = (*tokens[:keep], token, *tokens[keep + 1 :]), keep + 1
    return replace(asked, image_tokens=tokens, keep=keep, seed=seed)


def _drawn_by_words(record: ImageMetadata) -> GenerateRequest:
    if record.settings.get("method") == "instruct":
        raise AppError(
            "The picture follows an instruction about another picture, which its record does not hold, so the odds of "
            "its tokens cannot be worked out again. Choose a drawn picture."
        )
    if not record.image_tokens:
        raise AppError(
            f"The picture was drawn with {record.title}, which does not draw it token by token, so there is no token "
            "view of it. Choose a picture of a Janus model."
        )
    return request_of(record)


def patch_side(inspection: Inspection) -> int:
    """The side of a patch on its heat map, in pixels."""
    return max(inspection.image.width // inspection.columns, math.ceil(SIDE / inspection.columns))


def heat_map(inspection: Inspection, measure: Measure, chosen: int | None = None) -> Image.Image:
    """The picture in grey under one colour a patch; numbers where patches have room, a frame around `chosen`."""
    picture, columns = inspection.image, inspection.columns
    rows = len(inspection.cells) // columns
    cell = patch_side(inspection)
    size = (cell * columns, cell * rows)
    colours = Image.new("RGB", (columns, rows))
    top = measure.top(inspection)
    shares = [measure.value(facts) / top for facts in inspection.cells]
    colours.putdata([colour(share) for share in shares])
    grey = picture.convert("L").resize(size, Image.Resampling.LANCZOS).convert("RGB")
    sheet = Image.blend(grey, colours.resize(size, Image.Resampling.NEAREST), _COVER)
    pen = ImageDraw.Draw(sheet)
    if cell >= _ROOM:
        font = ImageFont.load_default(size=max(11, cell // 4))
        for place, facts in enumerate(inspection.cells):
            x, y = cell * (place % columns), cell * (place // columns)
            ink = "black" if sum(sheet.getpixel((x + cell // 2, y + 4))) > 330 else "white"  # type: ignore[arg-type]
            text = measure.text(measure.value(facts))
            pen.text((x + cell / 2, y + cell / 2), text, ink, font, "mm", stroke_width=1, stroke_fill=_other(ink))
    if chosen is not None:
        x, y = cell * (chosen % columns), cell * (chosen // columns)
        for inset, ink in ((0, "black"), (2, "white"), (5, "black")):
            box = (x + inset, y + inset, x + cell - 1 - inset, y + cell - 1 - inset)
            pen.rectangle(box, outline=ink, width=3 if ink == "white" else 2)
    return sheet


def colour(share: float) -> tuple[int, int, int]:
    """The ramp's colour at 0..1."""
    place = min(max(share, 0.0), 1.0) * (len(RAMP) - 1)
    low = min(int(place), len(RAMP) - 2)
    red, green, blue = (round(a + (b - a) * (place - low)) for a, b in zip(RAMP[low], RAMP[low + 1], strict=True))
    return red, green, blue


def _other(ink: str) -> str:
    return "black" if ink == "white" else "white"
