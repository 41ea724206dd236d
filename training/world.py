"""Scenes of the picture world as 6 x 6 tile numbers; `pictures` draws them.

A picture has nine slots, each of four tiles; one tile is one token of the picture tokenizer. The set of tiles is
finite, so 36 tile numbers are a scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from training.objects import N_BACKGROUNDS, N_COLOURS, N_THINGS

GRID = 6
PARTS = 5  # top left, top right, bottom left, bottom right of a large object; a whole small object
SMALL = 4
KINDS = 1 + N_THINGS * PARTS  # tile kinds before colour and background; kind 0 is an empty tile
N_TILES = N_BACKGROUNDS + N_THINGS * PARTS * N_COLOURS * N_BACKGROUNDS


@dataclass(frozen=True)
class Item:
    thing: int
    colour: int
    slot: int  # 0..8 in raster order
    small: bool = False

    @property
    def row(self) -> int:
        return self.slot // 3

    @property
    def column(self) -> int:
        return self.slot % 3


@dataclass(frozen=True)
class Scene:
    background: int
    items: tuple[Item, ...]  # in raster order

    @staticmethod
    def of(background: int, items: list[Item]) -> Scene:
        return Scene(background, tuple(sorted(items, key=lambda item: item.slot)))


def tile_id(thing: int, part: int, colour: int, background: int) -> int:
    return N_BACKGROUNDS + ((thing * PARTS + part) * N_COLOURS + colour) * N_BACKGROUNDS + background


@lru_cache(maxsize=1)
def tile_factors() -> np.ndarray:
    """[N_TILES, 3] int64: kind (0 = empty, else 1 + thing * PARTS + part), colour, background of every tile."""
    rows = [(0, 0, b) for b in range(N_BACKGROUNDS)]
    for kind in range(1, KINDS):
        rows += [(kind, c, b) for c in range(N_COLOURS) for b in range(N_BACKGROUNDS)]
    return np.array(rows, dtype=np.int64)


def grid(scene: Scene) -> np.ndarray:
    """The scene's 36 tile numbers in raster order, int64."""
    cells = np.full((GRID, GRID), scene.background, dtype=np.int64)
    for item in scene.items:
        y, x = 2 * item.row, 2 * item.column
        if item.small:
            cells[y, x] = tile_id(item.thing, SMALL, item.colour, scene.background)
        else:
            for part in range(4):
                cells[y + part // 2, x + part % 2] = tile_id(item.thing, part, item.colour, scene.background)
    return cells.reshape(-1)


def read_grid(tokens: np.ndarray) -> Scene | None:
    """The scene of 36 tile numbers, or None if they are not one (half an object, mixed backgrounds)."""
    factors = tile_factors()[np.asarray(tokens).reshape(-1)]
    items = []
    for slot in range(9):
        kind, colour, _ = factors[12 * (slot // 3) + 2 * (slot % 3)]
        if kind:
            thing, part = divmod(int(kind) - 1, PARTS)
            items.append(Item(thing, int(colour), slot, part == SMALL))
    scene = Scene.of(int(factors[0, 2]), items)
    return scene if np.array_equal(grid(scene), np.asarray(tokens).reshape(-1)) else None
