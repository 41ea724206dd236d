"""The judge: finds the objects in a picture of the picture world.

It compares every slot of 32 pixels with every object in every colour and size on every background. A slot that matches
none of them is reported as unclear.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from training.objects import N_BACKGROUNDS, N_COLOURS, N_THINGS
from training.world import SIDE, SMALL, TILE, Item, Scene, tile_id, tile_table

SLOT = 2 * TILE
UNCLEAR = 0.02  # mean squared difference (pixels in 0..1) above which a slot matches nothing


@dataclass(frozen=True)
class Verdict:
    """The recognised objects as a scene and the unclear slots."""

    scene: Scene
    unclear: tuple[int, ...]

    @property
    def clear(self) -> bool:
        return not self.unclear


@lru_cache(maxsize=1)
def _templates() -> tuple[np.ndarray, list[tuple[int, int, bool] | None]]:
    """[backgrounds, kinds, 32 * 32 * 3] float32 in 0..1, and what each kind is (None = an empty slot)."""
    kinds: list[tuple[int, int, bool] | None] = [None]
    kinds += [(t, c, small) for t in range(N_THINGS) for c in range(N_COLOURS) for small in (False, True)]
    table = tile_table()
    slots = np.empty((N_BACKGROUNDS, len(kinds), SLOT, SLOT, 3), dtype=np.float32)
    for b in range(N_BACKGROUNDS):
        slots[b] = np.tile(table[b], (2, 2, 1))
        for k, kind in enumerate(kinds):
            if kind is None:
                continue
            thing, colour, small = kind
            if small:
                slots[b, k, :TILE, :TILE] = table[tile_id(thing, SMALL, colour, b)]
                continue
            for part in range(4):
                y, x = TILE * (part // 2), TILE * (part % 2)
                slots[b, k, y : y + TILE, x : x + TILE] = table[tile_id(thing, part, colour, b)]
    return slots.reshape(N_BACKGROUNDS, len(kinds), -1) / 255, kinds


def look(picture: Image.Image | np.ndarray) -> Verdict:
    """Judge a 96 x 96 picture; others are resized."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    slots = pixels.reshape(3, SLOT, 3, SLOT, 3).transpose(0, 2, 1, 3, 4).reshape(9, -1)
    templates, kinds = _templates()
    distance = (
        (slots**2).mean(1)[None, :, None]
        + (templates**2).mean(2)[:, None, :]
        - 2 * np.einsum("sd,bkd->bsk", slots, templates, optimize=True) / slots.shape[1]
    )
    best = distance.min(2)
    background = int(best.sum(1).argmin())
    choice = distance[background].argmin(1)
    items, unclear = [], []
    for slot in range(9):
        kind = kinds[int(choice[slot])]
        if best[background, slot] > UNCLEAR:
            unclear.append(slot)
        elif kind is not None:
            items.append(Item(kind[0], kind[1], slot, kind[2]))
    return Verdict(Scene.of(background, items), tuple(unclear))
