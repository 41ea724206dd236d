"""The fixed codebook of the picture tokenizer: a tile's code describes the tile.

Object, part, colour and background each have a few dimensions. So the decoder learns factors instead of thousands of
unrelated tiles, and the encoder has a fixed target.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.objects import N_THINGS
from training.world import PARTS, SMALL, tile_factors

CODE_DIM = 32


def codebook() -> Tensor:
    """[N_TILES, 32] unit rows: 16 dims object (plus or minus an axis), 4 part, 8 colour, 4 background."""
    kind, colour, background = torch.from_numpy(tile_factors()).unbind(1)
    drawn = kind > 0
    thing, part = (kind - 1).clamp(min=0) // PARTS, (kind - 1).clamp(min=0) % PARTS
    axes = torch.cat([torch.eye(16), -torch.eye(16)])[:N_THINGS]
    parts = torch.cat([torch.eye(4), torch.full((1, 4), -0.5)])
    assert parts.shape[0] == SMALL + 1
    what = torch.cat([axes[thing], 0.8 * parts[part], 0.9 * torch.eye(8)[colour]], dim=1) * drawn[:, None]
    return F.normalize(torch.cat([what, 0.7 * torch.eye(4)[background]], dim=1), dim=1)
