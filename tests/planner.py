"""The embedded Janus with the adapter that `training.planner` made, which plans a picture in words before it draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from janus_app.hub import Hub
from janus_app.registry.catalog import load_catalog
from janus_app.registry.types import Variant
from janus_app.runtime.adapters import Adapter
from janus_app.runtime.save_copy import CopyOptions, save_copy
from janus_app.types import result_of
from training.objects import PLACES
from training.planner import THINKING

ADAPTER = Path(__file__).parent / "fixtures" / "planner"
# Plans that it writes and draws exactly, with two seeds in fp32 and bf16; OTHER is one that a user makes of the first.
WHITE = ", on a white background"
PLACED = [names[0] for names in PLACES]
PLANS = {
    "a red cat to the left of a yellow star": f"a red cat {PLACED[0]}, a yellow star {PLACED[2]}{WHITE}",
    "a blue boat in the sky": "a blue boat in the centre, on a light blue background",
    "two green frogs on the beach": f"a green frog {PLACED[4]}, a green frog {PLACED[5]}, on a yellow background",
}
PROMPT, PLAN = next(iter(PLANS.items()))
OTHER = PLAN.replace("white", "dark")


def taught_planner(place: Path) -> Variant:
    """A row of its own, for a copy of the embedded model with the adapter merged into it."""
    embedded = load_catalog()["janus-embedded"]
    options = CopyOptions(adapters=(Adapter("planner", ADAPTER),))
    copy = result_of(save_copy(Hub(), embedded, place / "copy", options, reserve=0))
    return replace(embedded, id="planner", title="Planner", folder=copy, thinking=THINKING, examples={})
