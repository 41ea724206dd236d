"""A sheet of pictures to look at: the same prompts and seeds, one block of rows for each number of steps.

    python -m benchmarks.grid --model janusflow-embedded --steps 10,30 --out docs/flow_grid.png
    python -m benchmarks.grid --model janus-embedded --steps 0 --n 64 --prompts --out docs/embedded_grid.png

Prompts come from the seeds of benchmarks.quality, so what is looked at is what was counted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.quality import SEED, Settings
from benchmarks.running import finished, open_model
from janus_app.registry.catalog import load_catalog
from training.captions import caption
from training.scenes import plan

COLUMNS, GAP, LINE = 8, 4, 14
TEXT = 66  # width beside, and height under a picture for its prompt
FONT = "NotoSansCJK-Regular.ttc"  # where the system has none, Chinese prompts are boxes


def sheet(name: str, steps: list[int], n: int, guidance: float | None, prompts: bool) -> Image.Image:
    """`n` pictures for each of `steps` (0: the model knows no steps), a line above each block saying which it is;
    prompts are written under the pictures, or printed."""
    variant = load_catalog().resolve(name)
    numbers = {k: float(v.default) for k, v in variant.settings.items()}
    if guidance is not None:
        numbers["guidance"] = guidance
    model = open_model(variant, "fp32")
    side = model.capabilities.size[0]
    wide, high = side + GAP + prompts * TEXT, side + GAP + prompts * TEXT
    rows = -(-n // COLUMNS)
    page = Image.new("RGB", (COLUMNS * wide + GAP, len(steps) * (rows * high + LINE + GAP)), "lightgrey")
    draw = ImageDraw.Draw(page)
    for block, count in enumerate(steps):
        top = block * (rows * high + LINE + GAP)
        said = f"{count} steps, " if count else ""
        draw.text((GAP, top + 1), f"{said}guidance {numbers['guidance']:g}", fill="black")
        settings = Settings(numbers | ({"steps": float(count)} if count else {}), n)
        rng = np.random.default_rng(SEED)
        for i in range(n):
            prompt = caption(plan(rng), rng)
            picture = finished(model.generate(settings.draw(prompt, i))).pictures[0].image
            x, y = GAP + i % COLUMNS * wide, top + LINE + GAP + i // COLUMNS * high
            page.paste(picture, (x, y))
            if prompts:
                draw.multiline_text((x, y + side + 2), wrapped(prompt, wide - 2 * GAP), fill="black", font=font())
            elif block == 0:
                print(f"row {i // COLUMNS + 1}, {i % COLUMNS + 1}: {prompt}")
    return page


def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.truetype(FONT, 11)
    except OSError:
        return ImageFont.load_default(11)


def wrapped(text: str, width: int) -> str:
    """The text in lines of at most `width` pixels; Chinese breaks anywhere, English between words."""
    lines = [""]
    for word in text.split(" ") if text.isascii() else text:
        longer = f"{lines[-1]} {word}".strip() if text.isascii() else lines[-1] + word
        if font().getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="janusflow-embedded")
    parser.add_argument("--steps", default="10,30", help="one or several, with commas")
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--guidance", type=float, help="instead of the variant's own setting")
    parser.add_argument("--prompts", action="store_true", help="write each prompt under its picture")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    steps = [int(s) for s in args.steps.split(",")]
    sheet(args.model, steps, args.n, args.guidance, args.prompts).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
