"""Token heat maps: the requests that a picture's metadata allows, and the model's answer as an image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw, ImageFont

from janus_app.errors import AppError
from janus_app.outputs.metadata import ImageMetadata, request_of
from janus_app.types import GenerateRequest, Inspection, InspectRequest, TokenFacts

# From dark blue to yellow with rising lightness: readable with any colour vision and in print.
RAMP = ((13, 33, 84), (62, 84, 122), (122, 124, 121), (186, 167, 96), (253, 229, 74))
SIDE = 576  # smallest side of a heat map, in pixels
_NUMBERED = 44  # smallest side of a patch in which a number can be read, in pixels
_OPACITY = 0.72  # of the colours over the picture


@dataclass(frozen=True)
class Measure:
    """A number by which patches are coloured: bits from 0 to the picture's maximum, or a share from 0 to 1."""

    value: Callable[[TokenFacts], float]
    unit: str  # "bits" or "%"

    def top(self, inspection: Inspection) -> float:
        """The upper end of the scale for this picture, always above 0."""
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


def inspection_request(record: ImageMetadata, alternatives: int = 8) -> InspectRequest:
    """The request that inspects the tokens of a picture. Raises AppError where they cannot be recomputed."""
    request = _text_to_image_request(record)
    return InspectRequest(
        request.prompt,
        request.image_tokens,
        request.negative,
        request.guidance,
        request.temperature,
        alternatives,
        request.plan,
    )


def continued_request(record: ImageMetadata, keep: int, seed: int, token: int | None = None) -> GenerateRequest:
    """The request that keeps the first `keep` tokens of a picture and samples the rest from `seed`.

    `token` is put behind the kept tokens, and sampling begins after it. Raises AppError for a picture that was not
    drawn from text alone and for a `keep` outside the picture.
    """
    request = _text_to_image_request(record)
    tokens = request.image_tokens
    if token is not None and 0 <= keep < len(tokens):
        tokens, keep = (*tokens[:keep], token, *tokens[keep + 1 :]), keep + 1
    return replace(request, image_tokens=tokens, keep=keep, seed=seed)


def _text_to_image_request(record: ImageMetadata) -> GenerateRequest:
    if record.settings.get("method") == "instruct":
        raise AppError("tokens_of_instruct_edit")
    if record.settings.get("think") and not record.plan:  # perhaps drawn behind a first attempt, which is not recorded
        raise AppError("tokens_of_judged_picture")
    if not record.image_tokens:
        raise AppError("picture_without_tokens", title=record.title)
    return request_of(record)


def patch_side(inspection: Inspection) -> int:
    """The side of a patch on its heat map, in pixels."""
    return max(inspection.image.width // inspection.columns, math.ceil(SIDE / inspection.columns))


def heatmap(inspection: Inspection, measure: Measure, chosen: int | None = None) -> Image.Image:
    """The picture in grey under one colour per patch, numbered if large enough, with a frame around `chosen`."""
    picture, columns = inspection.image, inspection.columns
    rows = len(inspection.cells) // columns
    cell = patch_side(inspection)
    size = (cell * columns, cell * rows)
    colours = Image.new("RGB", (columns, rows))
    top = measure.top(inspection)
    shares = [measure.value(facts) / top for facts in inspection.cells]
    colours.putdata([colour(share) for share in shares])
    grey = picture.convert("L").resize(size, Image.Resampling.LANCZOS).convert("RGB")
    image = Image.blend(grey, colours.resize(size, Image.Resampling.NEAREST), _OPACITY)
    draw = ImageDraw.Draw(image)
    if cell >= _NUMBERED:
        font = ImageFont.load_default(size=max(11, cell // 4))
        for place, facts in enumerate(inspection.cells):
            x, y = cell * (place % columns), cell * (place // columns)
            ink = "black" if sum(image.getpixel((x + cell // 2, y + 4))) > 330 else "white"  # type: ignore[arg-type]
            text = measure.text(measure.value(facts))
            draw.text((x + cell / 2, y + cell / 2), text, ink, font, "mm", stroke_width=1, stroke_fill=_other(ink))
    if chosen is not None:
        x, y = cell * (chosen % columns), cell * (chosen // columns)
        for inset, ink in ((0, "black"), (2, "white"), (5, "black")):
            box = (x + inset, y + inset, x + cell - 1 - inset, y + cell - 1 - inset)
            draw.rectangle(box, outline=ink, width=3 if ink == "white" else 2)
    return image


def colour(share: float) -> tuple[int, int, int]:
    """The colour of the ramp at `share`, clamped to 0..1."""
    place = min(max(share, 0.0), 1.0) * (len(RAMP) - 1)
    low = min(int(place), len(RAMP) - 2)
    red, green, blue = (round(a + (b - a) * (place - low)) for a, b in zip(RAMP[low], RAMP[low + 1], strict=True))
    return red, green, blue


def _other(ink: str) -> str:
    return "black" if ink == "white" else "white"
