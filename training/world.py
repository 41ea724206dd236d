"""Scenes of the picture world, and their pictures as 6 x 6 tiles of 16 pixels.

A picture is 96 x 96: nine slots of 32 px, each four tiles; one tile is one token of the picture tokenizer. The set of
tiles is finite, so 36 tile numbers are a scene, and drawing it means looking them up in a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from training.objects import BACKGROUNDS, COLOURS, FIRST_SHAPE, N_BACKGROUNDS, N_COLOURS, N_THINGS, THINGS

TILE = 16
GRID = 6
SIDE = TILE * GRID
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


def _shape(name: str, size: int) -> Image.Image:
    """A grey shape on a transparent background, anti-aliased by drawing it eight times as large."""
    big = 8 * size
    mask = Image.new("L", (big, big))
    draw = ImageDraw.Draw(mask)
    low, high, middle = 0.08 * big, 0.92 * big, 0.5 * big
    if name == "circle":
        draw.ellipse((low, low, high, high), fill=255)
    elif name == "square":
        draw.rectangle((0.12 * big, 0.12 * big, 0.88 * big, 0.88 * big), fill=255)
    elif name == "triangle":
        draw.polygon([(middle, low), (high, 0.88 * big), (low, 0.88 * big)], fill=255)
    elif name == "diamond":
        draw.polygon([(middle, 0.04 * big), (0.86 * big, middle), (middle, 0.96 * big), (0.14 * big, middle)], fill=255)
    elif name == "star":
        angles = [-np.pi / 2 + k * np.pi / 5 for k in range(10)]
        radii = [0.48 * big if k % 2 == 0 else 0.2 * big for k in range(10)]
        draw.polygon(
            [(middle + r * np.cos(a), 0.53 * big + r * np.sin(a)) for a, r in zip(angles, radii, strict=True)], fill=255
        )
    else:
        t = np.linspace(0, 2 * np.pi, 200)
        x, y = 16 * np.sin(t) ** 3, 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        draw.polygon(
            [(middle + 0.027 * big * a, 0.46 * big - 0.027 * big * b) for a, b in zip(x, y, strict=True)], fill=255
        )
    alpha = mask.resize((size, size), Image.Resampling.BOX)
    image = Image.merge("RGBA", (*[Image.new("L", (size, size), 128)] * 3, alpha))
    return image


@lru_cache(maxsize=1)
def _sprites() -> list[tuple[np.ndarray, np.ndarray]]:
    """Every object as RGBA float arrays in 0..1: [32, 32, 4] and [16, 16, 4]."""
    atlas = Image.open(Path(__file__).parent / "icons.png").convert("RGBA")
    sprites = []
    for i, thing in enumerate(THINGS):
        if i < FIRST_SHAPE:
            pair = (atlas.crop((32 * i, 0, 32 * i + 32, 32)), atlas.crop((32 * i, 32, 32 * i + 16, 48)))
        else:
            pair = (_shape(thing.name, 32), _shape(thing.name, 16))
        sprites.append(tuple(np.asarray(p, dtype=np.float32) / 255 for p in pair))
    return sprites  # type: ignore[return-value]


def _tinted(sprite: np.ndarray, colour: int, shape: bool) -> np.ndarray:
    """The sprite in a colour: its brightness, with the median in the middle, is mapped to the ramp of the colour."""
    if colour == 0 and not shape:
        return sprite
    light = sprite[..., :3] @ np.array([0.3, 0.59, 0.11], dtype=np.float32)
    solid = light[sprite[..., 3] > 0.5]
    low, median, high = np.percentile(solid, [2, 50, 98])
    below = 0.5 + 0.42 * (light - median) / max(median - low, 0.2)
    above = 0.5 + 0.42 * (light - median) / max(high - median, 0.2)
    level = np.clip(np.where(light < median, below, above), 0, 1)
    stops = np.array(COLOURS[colour].ramp, dtype=np.float32) / 255
    rgb = np.stack([np.interp(level, [0, 0.5, 1], stops[:, k]) for k in range(3)], axis=-1)
    return np.concatenate([rgb.astype(np.float32), sprite[..., 3:]], axis=-1)


@lru_cache(maxsize=1)
def tile_table() -> np.ndarray:
    """[N_TILES, 16, 16, 3] uint8: the pixels of every tile."""
    table = np.empty((N_TILES, TILE, TILE, 3), dtype=np.uint8)
    grounds = [np.array(b.rgb, dtype=np.float32) / 255 for b in BACKGROUNDS]
    for b, ground in enumerate(grounds):
        table[b] = np.round(255 * ground)
    for t in range(N_THINGS):
        for c in range(N_COLOURS):
            large, small = (_tinted(s, c, t >= FIRST_SHAPE) for s in _sprites()[t])
            for b, ground in enumerate(grounds):
                big, little = (
                    np.round(255 * (s[..., :3] * s[..., 3:] + ground * (1 - s[..., 3:]))).astype(np.uint8)
                    for s in (large, small)
                )
                for part in range(4):
                    y, x = TILE * (part // 2), TILE * (part % 2)
                    table[tile_id(t, part, c, b)] = big[y : y + TILE, x : x + TILE]
                table[tile_id(t, SMALL, c, b)] = little
    return table


def render_grid(tokens: np.ndarray) -> np.ndarray:
    """36 tile numbers to pixels, uint8 [96, 96, 3]."""
    tiles = tile_table()[np.asarray(tokens).reshape(GRID, GRID)]
    return tiles.transpose(0, 2, 1, 3, 4).reshape(SIDE, SIDE, 3)


def render(scene: Scene) -> Image.Image:
    return Image.fromarray(render_grid(grid(scene)))
