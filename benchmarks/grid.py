"""A sheet of pictures to look at: the same prompts and seeds, one block of rows for each number of steps.

    python -m benchmarks.grid --model janusflow-embedded --steps 10,30 --out docs/flow_grid.png

Prompts come from the seeds of benchmarks.quality, so what is looked at is what was counted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.quality import SEED, Settings
from benchmarks.running import finished, open_model
from janus_app.catalog import load_catalog
from training.captions import caption
from training.scenes import plan

COLUMNS, GAP, LINE = 8, 4, 14


def sheet(name: str, steps: list[int], n: int, guidance: float | None) -> Image.Image:
    """`n` pictures for each of `steps`, a line above each block saying which it is; prompts are printed."""
    variant = load_catalog().resolve(name)
    numbers = {k: float(v.default) for k, v in variant.settings.items()}
    if guidance is not None:
        numbers["guidance"] = guidance
    model = open_model(variant, "fp32")
    side = model.capabilities.size[0] + GAP
    rows = -(-n // COLUMNS)
    page = Image.new("RGB", (COLUMNS * side + GAP, len(steps) * (rows * side + LINE + GAP)), "lightgrey")
    draw = ImageDraw.Draw(page)
    for block, count in enumerate(steps):
        top = block * (rows * side + LINE + GAP)
        draw.text((GAP, top + 1), f"{count} steps, guidance {numbers['guidance']:g}", fill="black")
        settings = Settings(numbers | {"steps": float(count)}, n)
        rng = np.random.default_rng(SEED)
        for i in range(n):
            prompt = caption(plan(rng), rng)
            if block == 0:
                print(f"row {i // COLUMNS + 1}, {i % COLUMNS + 1}: {prompt}")
            picture = finished(model.generate(settings.draw(prompt, i))).pictures[0].image
            page.paste(picture, (GAP + i % COLUMNS * side, top + LINE + GAP + i // COLUMNS * side))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="janusflow-embedded")
    parser.add_argument("--steps", default="10,30", help="one or several, with commas")
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--guidance", type=float, help="instead of the variant's own setting")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    sheet(args.model, [int(s) for s in args.steps.split(",")], args.n, args.guidance).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
