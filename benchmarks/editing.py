"""Quality of edits: whether the requested change was made and everything else kept, per method and kind of edit."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from PIL import Image

from benchmarks.judge import Verdict, look
from benchmarks.running import finished
from janus_app.types import EditRequest, Model
from training.captions import caption
from training.edits import KINDS, Edit, edit
from training.pictures import SIDE, render
from training.world import Scene

SLOT = SIDE // 3
LOCAL = ("region", "masked")  # methods with a mask
OTHER = ("variation",)  # not asked for a particular change


class Report(Protocol):
    def add(self, verb: str, metric: str, right: bool) -> None: ...


def judged(made: Edit, verdict: Verdict) -> tuple[bool, bool]:
    """Whether the requested change was made, and whether all else was kept; an unclear slot fails its part."""
    seen = {i.slot: i for i in verdict.scene.items}
    after = {i.slot: i for i in made.after.scene.items}
    changed = set(made.slots)
    right_ground = verdict.scene.background == made.after.background
    if made.kind == "background":
        return right_ground, verdict.clear and seen == after
    there = all(seen.get(s) == after.get(s) for s in changed) and not changed & set(verdict.unclear)
    rest = set(range(9)) - changed
    kept = right_ground and all(seen.get(s) == after.get(s) for s in rest) and not rest & set(verdict.unclear)
    return there, kept


def mask_of(slots: tuple[int, ...]) -> Image.Image:
    """A mask that is white in the given slots."""
    pixels = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for slot in slots:
        y, x = SLOT * (slot // 3), SLOT * (slot % 3)
        pixels[y : y + SLOT, x : x + SLOT] = 255
    return Image.fromarray(pixels)


def request_for(
    made: Edit, method: str, rng: np.random.Generator, settings: dict[str, float], seed: int
) -> EditRequest:
    """The request for this edit with this method; `settings` are fields of EditRequest."""
    read = ("guidance", "image_guidance", "temperature", "strength")
    numbers = {name: settings[name] for name in read if name in settings}
    return EditRequest(
        caption(made.after, rng) if method != "instruct" else made.instruction,
        render(made.before.scene),
        mask_of(made.slots) if method in LOCAL else None,
        method,
        source_prompt=caption(made.before, rng) if method == "flowedit" else "",
        seed=seed,
        steps=int(settings.get("steps", 30)),
        **numbers,
    )


def unmasked_kept(before: Scene, picture: Image.Image, slots: tuple[int, ...]) -> bool:
    """Whether the pixels outside the mask differ by less than 8 of 255 on average."""
    difference = np.abs(np.asarray(picture, float) - np.asarray(render(before), float)).mean(2)
    return float(difference[np.asarray(mask_of(slots)) == 0].mean()) < 8


def measure_edits(model: Model, settings: dict[str, float], seed: int, first: int, n: int, report: Report) -> None:
    """`n` edits of every kind with every method, after the `first` ones."""
    for method in model.capabilities.edit_methods:
        if method in OTHER:
            continue
        for kind in KINDS:
            if method in LOCAL and kind == "background":
                continue  # a region cannot be the background
            rng = np.random.default_rng((seed, KINDS.index(kind)))
            for i in range(first + n):
                made = edit(rng, kind, zh=i % 3 == 2)
                request = request_for(made, method, rng, settings, i)
                if i < first:
                    continue
                picture = finished(model.edit(request)).pictures[0].image
                there, kept = judged(made, look(picture))
                report.add("edit", f"{method}, {kind}: change made", there)
                report.add("edit", f"{method}, {kind}: rest kept", kept)
                report.add("edit", f"{method}: change made", there)
                report.add("edit", f"{method}: rest kept", kept)
                report.add("edit", f"{method}: both", there and kept)
                if method in LOCAL:
                    same = unmasked_kept(made.before.scene, picture, made.slots)
                    report.add("edit", f"{method}: pixels outside within 8 of 255", same)
