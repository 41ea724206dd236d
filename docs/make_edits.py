"""Draw docs/editing.png: each way of editing of the embedded models, before and after.

python docs/make_edits.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.editing import mask_of  # noqa: E402
from benchmarks.running import finished, open_model  # noqa: E402
from janus_app.registry.catalog import load_catalog  # noqa: E402
from janus_app.types import EditRequest  # noqa: E402
from training.objects import COLOURS, INDEX  # noqa: E402
from training.pictures import SIDE, render  # noqa: E402
from training.world import Item, Scene  # noqa: E402

GAP, LINE = 12, 34
HUE = {c.name: i for i, c in enumerate(COLOURS)}
CAT, STAR = Item(INDEX["cat"], HUE["red"], 3), Item(INDEX["star"], HUE["yellow"], 5)
BEFORE = "a red cat to the left of a yellow star"
# model, method, strength, prompt, the slot that is painted
EDITS = (
    ("janus-embedded", "region", 0.6, "a red cat to the left of a blue house", 5),
    ("janusflow-embedded", "masked", 0.6, "a red cat to the left of a blue house", 5),
    ("janusflow-embedded", "flowedit", 0.9, "a blue cat to the left of a yellow star", None),
    ("janusflow-embedded", "image to image", 0.7, "a red cat to the left of a yellow star at night", None),
    ("metaquery-embedded", "instruct", 0.6, "make the cat blue", None),
    ("metaquery-embedded", "instruct", 0.6, "remove the star", None),
    ("metaquery-embedded", "instruct", 0.6, "move the cat so that it is at the bottom", None),
)


def main() -> None:
    source = render(Scene.of(0, [CAT, STAR]))
    catalog = load_catalog()
    edits = [edit for edit in EDITS if edit[0] in catalog]
    page = Image.new("RGB", (len(edits) * (SIDE + GAP) + GAP, 2 * (SIDE + LINE) + 2 * GAP), "white")
    draw = ImageDraw.Draw(page)
    for column, (name, method, strength, prompt, slot) in enumerate(edits):
        variant = catalog[name]
        model = open_model(variant, "fp32")
        wanted = ("guidance", "temperature", "image_guidance") if method == "instruct" else ("guidance", "temperature")
        numbers = {k: v.default for k, v in variant.settings.items() if k in wanted}
        request = EditRequest(
            prompt,
            source,
            mask_of((slot,)) if slot is not None else None,
            method,
            strength=strength,
            source_prompt=BEFORE if method == "flowedit" else "",
            steps=30,
            seed=3,
            **numbers,
        )
        after = finished(model.edit(request)).pictures[0].image
        x = GAP + column * (SIDE + GAP)
        for row, (picture, text) in enumerate(((source, f"{method}:"), (after, prompt))):
            y = GAP + row * (SIDE + LINE)
            page.paste(picture, (x, y))
            cut = text.find(" ", len(text) // 2) if len(text) > 30 else -1
            lines = text if cut < 0 else f"{text[:cut]}\n{text[cut + 1 :]}"
            draw.multiline_text((x, y + SIDE + 2), lines, fill="black")
        if slot is not None:
            left, top = x + (slot % 3) * SIDE // 3, GAP + (slot // 3) * SIDE // 3
            draw.rectangle((left, top, left + SIDE // 3 - 1, top + SIDE // 3 - 1), outline="magenta", width=2)
    page.save(ROOT / "docs" / "editing.png", optimize=True)


if __name__ == "__main__":
    main()
