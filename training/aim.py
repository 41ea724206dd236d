"""Auxiliary heads for what an instruction is about, and which cells it changes.

Without them every object of a picture is changed, because the attention from a word to its cells is learned late. They
are not exported.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.joint import SLOTS
from training.world import GRID, PARTS


class Aim(nn.Module):
    """The slots of the thing a word names, the slots an instruction is about, and whether a cell changes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seek, self.look, self.touched = nn.Linear(width, SLOTS), nn.Linear(width, SLOTS), nn.Linear(width, 1)

    def forward(
        self, found: Tensor, named: Tensor, asked: Tensor, states: Tensor, before: Tensor, after: Tensor
    ) -> Tensor:
        """The loss of predicting these from the language model's states.

        found [n, L, width]: after the layer `joint.FOUND`; named [n, L]: the things that words name, or -1; asked
        [n, width]: after the layer `joint.ASKED`, at the end of the instruction; states [n, 36, width]: final ones of
        the cells; before, after [n, 36, 3]: factors of the tiles.
        """
        changed = (before != after).any(-1)
        loss = self.seeking(found, named, before)
        loss = loss + F.binary_cross_entropy_with_logits(self.look(asked), by_slot(changed))
        return loss + F.binary_cross_entropy_with_logits(self.touched(states)[..., 0], changed.float())

    def seeking(self, found: Tensor, named: Tensor, picture: Tensor) -> Tensor:
        """The loss of finding the thing that a word names in the picture [n, 36, 3] before it; 0 without such words."""
        rows, places = torch.nonzero(named >= 0, as_tuple=True)
        if not len(rows):
            return found.new_zeros(())
        thing = torch.where(picture[..., 0] > 0, (picture[..., 0] - 1) // PARTS, -1)[rows]
        stands = thing == named[rows, places, None]
        return F.binary_cross_entropy_with_logits(self.seek(found[rows, places]), by_slot(stands))


def by_slot(cells: Tensor) -> Tensor:
    """Marked slots [n, 9] of marked cells [n, 36]: 1 where any of its cells is marked."""
    return cells.view(-1, GRID // 2, 2, GRID // 2, 2).any(-1).any(2).flatten(1).float()
