"""Draw docs/token_view.png: a picture of the embedded Janus, its three heat maps, and what one patch could have been.

python docs/make_token_view.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.running import finished, open_model  # noqa: E402
from janus_app.registry.catalog import load_catalog  # noqa: E402
from janus_app.types import GenerateRequest, InspectRequest, SwapRequest, TokenView  # noqa: E402
from janus_app.workflows.token_heatmap import MEASURES, heatmap  # noqa: E402

PROMPT, SEED = "a blue cat above two red stars", 547_265_805
SIDE, GAP, LINE = 232, 12, 24
TITLES = {
    "entropy": "entropy, 0 to {} bits",
    "probability": "probability, 0 to 100 %",
    "gap": "guidance gap, 0 to {} bits",
}


def main() -> None:
    variant = load_catalog()["janus-embedded"]
    model = open_model(variant, "fp32")
    assert isinstance(model, TokenView)
    guidance, temperature = (float(variant.settings[name].default) for name in ("guidance", "temperature"))
    drawn = finished(
        model.generate(GenerateRequest(PROMPT, guidance=guidance, temperature=temperature, seed=SEED))
    ).pictures[0]
    asked = InspectRequest(PROMPT, drawn.image_tokens, guidance=guidance, temperature=temperature, alternatives=4)
    found = finished(model.inspect(asked)).inspection
    assert found is not None
    place = max(range(len(found.cells)), key=lambda number: found.cells[number].entropy)
    first = [(drawn.image, PROMPT)]
    for name, measure in MEASURES.items():
        first.append((heatmap(found, measure, place), TITLES[name].format(measure.text(measure.top(found)))))
    others = found.cells[place].alternatives
    swaps = finished(model.swap(SwapRequest(drawn.image_tokens, place, tuple(token for token, _ in others)))).pictures
    second = [
        (swap.image, f"patch {place + 1}: token {token}, {100 * share:.1f} %")
        for swap, (token, share) in zip(swaps, others, strict=True)
    ]
    page = Image.new("RGB", (4 * (SIDE + GAP) + GAP, 2 * (SIDE + LINE + GAP) + GAP), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=13)
    for row, line in enumerate((first, second)):
        for column, (picture, title) in enumerate(line):
            x, y = GAP + column * (SIDE + GAP), GAP + row * (SIDE + LINE + GAP)
            page.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y))
            pen.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), outline="#b8b4ae")
            pen.text((x, y + SIDE + 4), title, "black", font)
    page.save(ROOT / "docs" / "token_view.png", optimize=True)


if __name__ == "__main__":
    main()
