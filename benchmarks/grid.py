"""A sheet of pictures with the same prompts and seeds, one block of rows for each number of steps.

    python -m benchmarks.grid --model janusflow-embedded --steps 10,30 --out docs/flow_grid.png
    python -m benchmarks.grid --model janus-embedded --steps 0 --n 64 --prompts --out docs/embedded_grid.png
    python -m benchmarks.grid --model metamorph-embedded --steps 10 --n 32 --prompts --out docs/metamorph_grid.png
    python -m benchmarks.grid --model pisces-embedded --steps 10 --n 32 --prompts --out docs/pisces_grid.png
    python -m benchmarks.grid --model transfusion-embedded --steps 20 --n 32 --prompts --out docs/transfusion_grid.png
    python -m benchmarks.grid --model lmfusion-embedded --steps 20 --n 32 --prompts --out docs/lmfusion_grid.png
    python -m benchmarks.grid --model llavafusion-embedded --steps 20 --n 32 --prompts --out docs/llavafusion_grid.png

The prompts are those of benchmarks.quality, so the sheet shows what was measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.quality import SEED, Settings
from benchmarks.running import default_settings, finished, open_model
from janus_app.registry.catalog import load_catalog
from janus_app.workflows.contact_sheet import wrap_text, write_lines
from training.captions import caption
from training.scenes import plan

COLUMNS, GAP, LINE = 8, 4, 14
TEXT = 66  # width beside a picture and height below it for its prompt, in pixels


def sheet(name: str, steps: list[int], n: int, guidance: float | None, prompts: bool) -> Image.Image:
    """`n` pictures for each of `steps` (0 for a model without steps), with a title above each block. Prompts are
    written below the pictures, or printed.
    """
    variant = load_catalog().resolve(name)
    numbers = default_settings(variant)
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
        title = f"{count} steps, " if count else ""
        draw.text((GAP, top + 1), f"{title}guidance {numbers['guidance']:g}", fill="black")
        settings = Settings(numbers | ({"steps": float(count)} if count else {}), n)
        rng = np.random.default_rng(SEED)
        for i in range(n):
            prompt = caption(plan(rng), rng)
            picture = finished(model.generate(settings.draw(prompt, i))).pictures[0].image
            x, y = GAP + i % COLUMNS * wide, top + LINE + GAP + i // COLUMNS * high
            page.paste(picture, (x, y))
            if prompts:
                write_lines(draw, (x, y + side + 2), wrap_text(prompt, wide - 2 * GAP, 11), 11, "black")
            elif block == 0:
                print(f"row {i // COLUMNS + 1}, {i % COLUMNS + 1}: {prompt}")
    return page


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
