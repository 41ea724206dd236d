"""The latents of the embedded JanusFlow: 16 numbers for every 8 x 8 patch of the picture world.

A tile is 2 x 2 patches. Its numbers say which object (7 numbers), which half of the object down and across (2), which
half of the tile (2), which colour (3) and which background (2). So a scene's latents are a table look-up, the flow
model learns factors instead of pixels, and the decoder of the autoencoder can read each patch alone.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from training.objects import N_THINGS
from training.world import GRID, PARTS, SMALL, tile_factors

LATENT_CHANNELS = 16
SIDE_LATENTS = 2 * GRID
SCALE = 0.5  # of latents in the flow; with 1 the noise would stop hiding the objects within the first steps
_OBJECT = 7


def spread(points: int, dims: int) -> Tensor:
    """`points` well separated vectors of length sqrt(dims): some hundred steps of repulsion from a fixed start."""
    x = torch.randn(points, dims, generator=torch.Generator().manual_seed(0))
    for step in range(600):
        x = F.normalize(x, dim=1)
        push = torch.exp(8 * (x @ x.T - 1)).fill_diagonal_(0)
        x = x - (0.3 if step < 500 else 0.05) * (push @ x)
    return F.normalize(x, dim=1) * dims**0.5


def corners(count: int, dims: int) -> Tensor:
    """The first `count` corners of the cube of -1 and 1."""
    return torch.stack([(torch.arange(count) >> bit & 1) * 2.0 - 1 for bit in range(dims)], dim=1)


@lru_cache(maxsize=1)
def latent_table() -> Tensor:
    """[N_TILES, 16, 2, 2]: the latents of every tile, all within about -2 to 2; not yet scaled by SCALE."""
    kind, colour, background = torch.from_numpy(tile_factors()).unbind(1)
    drawn = (kind > 0).float()[:, None]
    thing, part = (kind - 1).clamp(min=0) // PARTS, (kind - 1).clamp(min=0) % PARTS
    halves = torch.stack([part // 2 * 2.0 - 1, part % 2 * 2.0 - 1], dim=1) * (part != SMALL)[:, None]
    what = torch.cat([spread(N_THINGS, _OBJECT)[thing], halves, corners(8, 3)[colour]], dim=1) * drawn
    out = torch.empty(len(kind), LATENT_CHANNELS, 2, 2)
    for y in range(2):
        for x in range(2):
            where = torch.tensor([[2.0 * y - 1, 2.0 * x - 1]]).expand(len(kind), -1)
            out[:, :, y, x] = torch.cat([what, where, corners(4, 2)[background]], dim=1)
    return out


def latents_of(tokens: Tensor, table: Tensor) -> Tensor:
    """Tile numbers [n, 36] to unscaled latents [n, 16, 12, 12]; table from `latent_table`."""
    tiles = table[tokens].view(-1, GRID, GRID, LATENT_CHANNELS, 2, 2)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(-1, LATENT_CHANNELS, SIDE_LATENTS, SIDE_LATENTS)


def weights(truth: Tensor, side: int) -> Tensor:
    """How much errors of latents [n, C, side, side] count, 1 on average: [n, 1, side, side]. truth [n, 36, 3]: factors.

    Most cells are empty, and small things are rare: without this they are not drawn, though the states of their cells
    know them. All four cells that a large thing would fill count, or it is drawn there beside the small one.
    """
    kind = truth[..., 0].view(-1, 1, GRID, GRID)
    small = ((kind > 0) & ((kind - 1) % PARTS == SMALL)).float()
    slots = F.interpolate(F.max_pool2d(small, 2), scale_factor=2.0)
    cells = 1 + 3 * (kind > 0).float() + 16 * slots
    return F.interpolate(cells / cells.mean(), size=(side, side))
