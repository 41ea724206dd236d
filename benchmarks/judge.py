"""The judge: finds the objects in a picture of the picture world.

It halves the picture and compares every slot with every object in every colour and size in every scene. A
slot that matches none of them is reported as unclear.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from training.objects import N_COLOURS, N_THINGS
from training.pictures import SIDE, TILE, scene_table, sticker_table
from training.world import PARTS, SMALL, Item, Scene

SLOTS = 9
SLOT = SIDE // 6  # pixels a side of a slot at half the size
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
def _stickers() -> tuple[list[tuple[int, int, bool] | None], np.ndarray, np.ndarray]:
    """What each kind is (None = an empty slot), and what it hides and shows: [kinds, SLOT * SLOT * 3] float32."""
    kinds: list[tuple[int, int, bool] | None] = [None]
    kinds += [(t, c, small) for t in range(N_THINGS) for c in range(N_COLOURS) for small in (False, True)]
    table, whole = sticker_table().astype(np.float32) / 255, np.zeros((len(kinds), 2 * TILE, 2 * TILE, 4), np.float32)
    for number, kind in enumerate(kinds):
        if kind is None:
            continue
        thing, colour, small = kind
        for part in (SMALL,) if small else range(SMALL):
            y, x = (0, 0) if small else (TILE * (part // 2), TILE * (part % 2))
            whole[number, y : y + TILE, x : x + TILE] = table[1 + (thing * PARTS + part) * N_COLOURS + colour]
    hidden = whole[..., 3:].repeat(3, axis=-1)
    shown = whole[..., :3] * hidden
    return kinds, *(_shrunken(one).reshape(len(kinds), -1) for one in (hidden, shown))


@lru_cache(maxsize=1)
def _scenes() -> np.ndarray:
    """[backgrounds, slots, SLOT * SLOT * 3] float32."""
    return np.stack([_slots(_shrunken(scene.astype(np.float32) / 255)) for scene in scene_table()])


def _shrunken(pixels: np.ndarray) -> np.ndarray:
    """[..., H, W, 3] to half of the height and width."""
    height, width = (side // 2 for side in pixels.shape[-3:-1])
    halves: np.ndarray = pixels.reshape(*pixels.shape[:-3], height, 2, width, 2, 3).mean((-4, -2))
    return halves


def _slots(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(3, SLOT, 3, SLOT, 3).transpose(0, 2, 1, 3, 4).reshape(SLOTS, -1)


def look(picture: Image.Image | np.ndarray) -> Verdict:
    """Judge a picture; one of another size is resized."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    slots = _slots(_shrunken(np.asarray(image.convert("RGB"), dtype=np.float32) / 255))
    kinds, hidden, shown = _stickers()
    scenes = _scenes()
    apart = slots - scenes  # the squared distance to scene * (1 - hidden) + shown, multiplied out
    distance = (
        (apart**2).sum(2)[..., None]
        + 2 * (apart * scenes) @ hidden.T
        - 2 * apart @ shown.T
        + scenes**2 @ (hidden**2).T
        - 2 * scenes @ (hidden * shown).T
        + (shown**2).sum(1)
    ) / slots.shape[1]
    best = distance.min(2)
    background = int(best.sum(1).argmin())
    choice = distance[background].argmin(1)
    items, unclear = [], []
    for slot in range(SLOTS):
        kind = kinds[int(choice[slot])]
        if best[background, slot] > UNCLEAR:
            unclear.append(slot)
        elif kind is not None:
            items.append(Item(kind[0], kind[1], slot, kind[2]))
    return Verdict(Scene.of(background, items), tuple(unclear))
