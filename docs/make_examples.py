"""Draw anew assets/drawn/, what the draw tab shows before anything is drawn, and assets/examples/.

    python docs/make_examples.py

The seeds are fixed, so the pictures change only when the weights do. Look at each: it must show its prompt. The
examples to ask about and to edit are scenes of the picture world and are drawn by no model.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SEED = 1
SCENES = {  # of assets/examples: the background, and the objects as (name, colour, slot)
    "beach": (2, (("boat", "blue", 2), ("umbrella", "", 3), ("dog", "", 4))),
    "cat_and_balloons": (1, (("balloon", "red", 0), ("balloon", "green", 2), ("cat", "", 4))),
    "frogs_and_house": (0, (("frog", "green", 0), ("house", "red", 5), ("frog", "green", 6))),
    "night_rocket": (3, (("star", "yellow", 0), ("star", "yellow", 2), ("rocket", "", 4), ("star", "yellow", 8))),
}


def draw_scenes() -> None:
    from training.objects import COLOURS, INDEX
    from training.pictures import render
    from training.world import Item, Scene

    colours = [colour.name for colour in COLOURS]
    for name, (background, things) in SCENES.items():
        items = [Item(INDEX[thing], colours.index(colour), slot) for thing, colour, slot in things]
        render(Scene.of(background, items)).save(ROOT / "assets" / "examples" / f"{name}.png", optimize=True)


def main() -> None:
    from janus_app.hub import Hub
    from janus_app.outputs.metadata import metadata_of
    from janus_app.outputs.store import save_picture
    from janus_app.registry.catalog import load_catalog
    from janus_app.runtime.session import ModelSession
    from janus_app.types import Finished, GenerateRequest, drain
    from janus_app.workflows.settings import generate_settings

    draw_scenes()
    catalog = load_catalog()
    session = ModelSession(catalog, Hub())
    for row in (one for one in catalog.values() if one.id.endswith("-embedded")):
        drain(session.load(row.id, device="cpu"))
        for language in ("en", "zh-CN"):
            settings = generate_settings({"seed": SEED}, row)
            request = GenerateRequest(prompt=row.prompts("generate", language)[0], **settings)
            (finished,) = (event for event in session.run(request) if isinstance(event, Finished))
            assert finished.provenance is not None
            (picture,) = finished.pictures
            file = ROOT / "assets" / "drawn" / f"{row.id}.{language}.png"
            file.unlink(missing_ok=True)
            save_picture(file, picture.image, metadata_of(picture, finished.provenance))
            print(file.relative_to(ROOT))


if __name__ == "__main__":
    main()
