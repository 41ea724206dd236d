"""Pictures of the picture world: stickers on four scenes, 192 x 192 pixels.

Every object is a vector icon with a white edge and a soft shadow, so that it stands out from any scene. Nothing of a
sticker leaves its tiles. A pixel is therefore determined by one tile number and the place of that tile: the picture of
36 tile numbers is a look-up in a table of stickers over a scene.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from torch import Tensor

from training.objects import BACKGROUNDS, COLOURS, FIRST_SHAPE, N_BACKGROUNDS, N_COLOURS, N_THINGS, THINGS
from training.world import GRID, PARTS, SMALL, Scene, grid, tile_factors

TILE = 32
SIDE = TILE * GRID
TOWER_SIDE = SIDE // 2  # vision towers read pictures of this size
ATLAS = 128  # pixels of an icon in icons.png
_FINE = 2  # stickers are made so many times as large, scenes twice that
_ICON, _EDGE, _DROP, _BLUR = 0.86, 0.036, 0.022, 0.024  # parts of a sticker's side


# Stickers


def _shape(name: str, size: int) -> Image.Image:
    """A grey shape on a transparent background, with a light from above; anti-aliased by drawing it larger."""
    big = 4 * size
    mask = Image.new("L", (big, big))
    draw = ImageDraw.Draw(mask)
    low, high, middle = 0.04 * big, 0.96 * big, 0.5 * big
    if name == "circle":
        draw.ellipse((low, low, high, high), fill=255)
    elif name == "square":
        draw.rounded_rectangle((0.08 * big, 0.08 * big, 0.92 * big, 0.92 * big), 0.06 * big, fill=255)
    elif name == "triangle":
        draw.polygon([(middle, low), (high, 0.9 * big), (low, 0.9 * big)], fill=255)
    elif name == "diamond":
        draw.polygon([(middle, 0), (0.88 * big, middle), (middle, big), (0.12 * big, middle)], fill=255)
    elif name == "star":
        angles = [-np.pi / 2 + k * np.pi / 5 for k in range(10)]
        radii = [0.51 * big if k % 2 == 0 else 0.23 * big for k in range(10)]
        draw.polygon(
            [(middle + r * np.cos(a), 0.54 * big + r * np.sin(a)) for a, r in zip(angles, radii, strict=True)], fill=255
        )
    else:
        t = np.linspace(0, 2 * np.pi, 200)
        x, y = 16 * np.sin(t) ** 3, 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        draw.polygon(
            [(middle + 0.03 * big * a, 0.46 * big - 0.03 * big * b) for a, b in zip(x, y, strict=True)], fill=255
        )
    alpha = mask.resize((size, size), Image.Resampling.BOX)
    light = np.linspace(168, 92, size)[:, None] + np.linspace(14, -14, size)[None]
    grey = Image.fromarray(np.clip(light, 0, 255).astype(np.uint8))
    return Image.merge("RGBA", (grey, grey, grey, alpha))


def _tinted(sprite: Image.Image, colour: int, shape: bool) -> Image.Image:
    """The sprite in a colour: its brightness, with the median in the middle, is mapped to the ramp of the colour."""
    if colour == 0 and not shape:
        return sprite
    pixels = np.asarray(sprite, dtype=np.float32) / 255
    light = pixels[..., :3] @ np.array([0.3, 0.59, 0.11], dtype=np.float32)
    low, median, high = np.percentile(light[pixels[..., 3] > 0.5], [2, 50, 98])
    reach = 0.22 if shape else 0.42
    below = 0.5 + reach * (light - median) / max(median - low, 0.2)
    above = 0.5 + reach * (light - median) / max(high - median, 0.2)
    level = np.clip(np.where(light < median, below, above), 0, 1)
    ramp = np.array(COLOURS[colour].ramp, dtype=np.float32)
    rgb = np.stack([np.interp(level, [0, 0.5, 1], ramp[:, k]) for k in range(3)], axis=-1)
    made = Image.fromarray(np.round(rgb).astype(np.uint8)).convert("RGBA")
    made.putalpha(sprite.getchannel("A"))
    return made


def _sticker(icon: Image.Image, side: int) -> np.ndarray:
    """[side, side, 4] float32 in 0..1, not premultiplied: the icon with its edge and shadow."""
    big = _FINE * side
    small = icon.resize((round(_ICON * big),) * 2, Image.Resampling.LANCZOS)
    at = ((big - small.width) // 2, (big - small.height) // 2 - round(_DROP * big / 2))
    drawn = Image.new("RGBA", (big, big))
    drawn.paste(small, at)
    alpha = drawn.getchannel("A")
    radius = _EDGE * big
    edge = alpha.filter(ImageFilter.GaussianBlur(radius)).point(lambda v: min(255, max(0, (v - 26) * 8)))
    edge = ImageChops.lighter(edge, alpha)
    shadow = ImageChops.offset(edge.filter(ImageFilter.GaussianBlur(_BLUR * big)), 0, round(_DROP * big))
    a, e, s = (np.asarray(one, dtype=np.float32)[..., None] / 255 for one in (alpha, edge, shadow))
    rgb = np.asarray(drawn, dtype=np.float32)[..., :3] / 255
    s = 0.30 * s * (1 - e)
    colour = a * rgb + (e - a) * 1.0 + s * np.array([0.08, 0.09, 0.2], dtype=np.float32)
    whole = np.concatenate([colour, e + s], axis=-1)  # premultiplied
    whole = whole.reshape(side, _FINE, side, _FINE, 4).mean((1, 3))
    fade = np.minimum(1, np.minimum(np.arange(side), np.arange(side)[::-1]) / 2)  # nothing at the outermost pixels
    whole *= (fade[:, None] * fade[None])[..., None]
    whole[..., :3] /= np.maximum(whole[..., 3:], 1e-6)
    return whole


@lru_cache(maxsize=1)
def sticker_table() -> np.ndarray:
    """[1 + N_THINGS * PARTS * N_COLOURS, 32, 32, 4] uint8: nothing, then every part of every object in every colour."""
    atlas = Image.open(Path(__file__).parent / "icons.png").convert("RGBA")
    table = np.zeros((1 + N_THINGS * PARTS * N_COLOURS, TILE, TILE, 4), dtype=np.uint8)
    for t, thing in enumerate(THINGS):
        shape = t >= FIRST_SHAPE
        plain = _shape(thing.name, ATLAS) if shape else atlas.crop((ATLAS * t, 0, ATLAS * (t + 1), ATLAS))
        for c in range(N_COLOURS):
            icon = _tinted(plain, c, shape)
            large, small = (np.round(255 * _sticker(icon, side)).astype(np.uint8) for side in (2 * TILE, TILE))
            for part in range(4):
                y, x = TILE * (part // 2), TILE * (part % 2)
                table[1 + (t * PARTS + part) * N_COLOURS + c] = large[y : y + TILE, x : x + TILE]
            table[1 + (t * PARTS + SMALL) * N_COLOURS + c] = small
    return table


# Scenes


def _gradient(*stops: tuple[float, tuple[int, int, int]]) -> Image.Image:
    """A picture whose rows go through the colours `stops`, each at its height in 0..1 from the top."""
    big = 2 * _FINE * SIDE
    heights, colours = [at for at, _ in stops], np.array([rgb for _, rgb in stops], dtype=np.float32)
    rows = np.stack([np.interp(np.linspace(0, 1, big), heights, colours[:, k]) for k in range(3)], axis=-1)
    return Image.fromarray(np.broadcast_to(np.round(rows).astype(np.uint8)[:, None], (big, big, 3)).copy())


def _hill(image: Image.Image, points: list[tuple[float, float]], rgb: tuple[int, int, int]) -> None:
    """Fill everything below a smooth line through `points` (x and y in 0..1)."""
    big = image.width
    x = np.linspace(0, 1, 257)
    y = np.interp(x, [p[0] for p in points], [p[1] for p in points])
    kernel = np.hanning(65)
    y = np.convolve(np.pad(y, 32, mode="edge"), kernel / kernel.sum(), mode="valid")
    line = list(zip(x * big, y * big, strict=True))
    ImageDraw.Draw(image).polygon([*line, (big, big), (0, big)], fill=rgb)


def _cloud(image: Image.Image, x: float, y: float, size: float, rgb: tuple[int, int, int]) -> None:
    draw, big = ImageDraw.Draw(image), image.width
    for dx, dy, r in ((-0.9, 0.12, 0.42), (-0.3, -0.14, 0.6), (0.4, -0.02, 0.5), (0.95, 0.16, 0.36)):
        cx, cy, cr = (x + dx * size) * big, (y + dy * size) * big, r * size * big
        draw.ellipse((cx - cr, cy - cr, cx + cr, cy + cr), fill=rgb)
    left, right, low = (x - 0.95 * size) * big, (x + 1.0 * size) * big, (y + 0.5 * size) * big
    draw.rounded_rectangle((left, (y + 0.02 * size) * big, right, low), 0.25 * size * big, fill=rgb)


def _snow() -> Image.Image:
    image = _gradient((0, (236, 243, 251)), (0.6, (250, 252, 255)), (1, (255, 255, 255)))
    _hill(image, [(0, 0.62), (0.3, 0.50), (0.62, 0.66), (1, 0.54)], (243, 248, 254))
    _hill(image, [(0, 0.78), (0.45, 0.70), (0.75, 0.62), (1, 0.72)], (248, 251, 255))
    _hill(image, [(0, 0.80), (0.3, 0.84), (0.7, 0.90), (1, 0.84)], (255, 255, 255))
    return image


def _sky() -> Image.Image:
    image = _gradient((0, (120, 194, 250)), (0.85, (204, 234, 254)), (1, (214, 240, 254)))
    _cloud(image, 0.20, 0.14, 0.085, (255, 255, 255))
    _cloud(image, 0.76, 0.24, 0.105, (246, 251, 255))
    _cloud(image, 0.42, 0.50, 0.07, (236, 247, 255))
    _hill(image, [(0, 0.84), (0.3, 0.78), (0.6, 0.88), (1, 0.80)], (150, 210, 140))
    _hill(image, [(0, 0.96), (0.4, 0.92), (0.7, 0.86), (1, 0.93)], (116, 190, 110))
    return image


def _beach() -> Image.Image:
    image = _gradient((0, (255, 226, 168)), (0.34, (255, 244, 214)), (1, (255, 244, 214)))
    draw, big = ImageDraw.Draw(image), image.width
    draw.ellipse((0.70 * big, 0.05 * big, 0.88 * big, 0.23 * big), fill=(255, 250, 226))
    draw.rectangle((0, 0.34 * big, big, 0.55 * big), fill=(112, 200, 206))
    draw.rectangle((0, 0.34 * big, big, 0.40 * big), fill=(92, 184, 200))
    _hill(image, [(0, 0.50), (0.25, 0.54), (0.5, 0.50), (0.75, 0.55), (1, 0.51)], (252, 252, 240))
    _hill(image, [(0, 0.525), (0.25, 0.565), (0.5, 0.525), (0.75, 0.575), (1, 0.535)], (250, 226, 164))
    _hill(image, [(0, 0.90), (0.4, 0.82), (0.8, 0.88), (1, 0.84)], (244, 214, 146))
    return image


def _night() -> Image.Image:
    image = _gradient((0, (20, 24, 58)), (0.75, (58, 56, 108)), (1, (84, 74, 128)))
    draw, big = ImageDraw.Draw(image), image.width
    rng = np.random.default_rng(4)
    for x, y, r in zip(rng.random(26), 0.72 * rng.random(26), rng.choice([0.004, 0.006, 0.009], 26), strict=True):
        draw.ellipse(((x - r) * big, (y - r) * big, (x + r) * big, (y + r) * big), fill=(244, 240, 214))
    moon = Image.new("L", image.size)
    pen = ImageDraw.Draw(moon)
    pen.ellipse((0.80 * big, 0.05 * big, 0.95 * big, 0.20 * big), fill=255)
    pen.ellipse((0.765 * big, 0.03 * big, 0.905 * big, 0.17 * big), fill=0)
    image.paste((255, 244, 200), mask=moon)
    _hill(image, [(0, 0.86), (0.25, 0.80), (0.55, 0.90), (0.85, 0.80), (1, 0.84)], (40, 42, 86))
    _hill(image, [(0, 0.96), (0.3, 0.92), (0.6, 0.97), (1, 0.90)], (26, 28, 62))
    return image


@lru_cache(maxsize=1)
def scene_table() -> np.ndarray:
    """[N_BACKGROUNDS, 192, 192, 3] uint8: the scenes behind the stickers, in the order of `objects.BACKGROUNDS`."""
    made = {"white": _snow, "light blue": _sky, "yellow": _beach, "dark": _night}
    return np.stack([np.asarray(made[b.name]().resize((SIDE, SIDE), Image.Resampling.BOX)) for b in BACKGROUNDS])


# Pictures


def resizing(*steps: tuple[int, Image.Resampling]) -> Tensor:
    """[last side, 192]: the linear map of resizing a column of a picture to one side after the other."""
    column = Image.fromarray(np.eye(SIDE, dtype=np.float32))
    for side, how in steps:
        column = column.resize((SIDE, side), how)
    return torch.from_numpy(np.array(column))


class Painter:
    """Draws the pictures of tile numbers, on a device."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        stickers = torch.from_numpy(sticker_table()).permute(0, 3, 1, 2).float().div(255).to(device)
        self.alpha = stickers[:, 3:]
        self.colour = stickers[:, :3].mul(2).sub(1) * self.alpha
        scenes = torch.from_numpy(scene_table()).permute(0, 3, 1, 2).float().div(127.5).sub(1).to(device)
        self.scenes = F.unfold(scenes, TILE, stride=TILE).view(N_BACKGROUNDS, 3, TILE, TILE, -1).permute(0, 4, 1, 2, 3)
        kind, colour, background = torch.from_numpy(tile_factors()).to(device).unbind(1)
        self.sticker_of = torch.where(kind > 0, 1 + (kind - 1) * N_COLOURS + colour, 0)
        self.scene_of = background
        self.shrink = resizing((TOWER_SIDE, Image.Resampling.BICUBIC)).to(device)

    def draw(self, tokens: Tensor) -> Tensor:
        """Tile numbers [n, 36] to pictures [n, 3, 192, 192] in -1..1."""
        which, cells = self.sticker_of[tokens], torch.arange(GRID * GRID, device=tokens.device)
        tiles = self.scenes[self.scene_of[tokens], cells] * (1 - self.alpha[which]) + self.colour[which]
        return tiles.view(-1, GRID, GRID, 3, TILE, TILE).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, SIDE, SIDE)

    def seen(self, tokens: Tensor) -> Tensor:
        """Tile numbers [n, 36] to pictures [n, 3, 96, 96] in -1..1, as vision towers read them."""
        return self.shrink @ self.draw(tokens) @ self.shrink.T


@lru_cache(maxsize=1)
def painter() -> Painter:
    return Painter()


def render_grid(tokens: np.ndarray) -> np.ndarray:
    """36 tile numbers to pixels, uint8 [192, 192, 3]."""
    pixels = painter().draw(torch.from_numpy(np.asarray(tokens).reshape(1, -1)))[0]
    return pixels.add(1).mul(127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def render(scene: Scene) -> Image.Image:
    return Image.fromarray(render_grid(grid(scene)))
