"""Previews at next to no cost: the linear map from a latent's channels to the colours of the pixels under it.

Nobody published one for every autoencoder, so it is fitted to pictures that were decoded anyway, and to one decode
of the first preview before there is any.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from janus_app.models.common.image_processor import to_picture

_RIDGE = 1e-3  # channels a picture does not move must not be given colours by accident


class Sketch:
    """Latents [n, c, S, S] to small pictures, enlarged to `side` pixels, once it has seen what latents become."""

    def __init__(self, side: int) -> None:
        self.side = side
        self._colours: Tensor | None = None

    @property
    def ready(self) -> bool:
        return self._colours is not None

    @torch.inference_mode()
    def learn(self, latents: Tensor, pixels: Tensor) -> None:
        """Fit the map to latents and the pictures [n, 3, H, W] in -1..1 they were decoded to."""
        known = _with_one(latents)
        cells = (latents.shape[-2], latents.shape[-1])
        wanted = F.adaptive_avg_pool2d(pixels.float().cpu(), cells).permute(0, 2, 3, 1).flatten(0, 2)
        square = known.T @ known + _RIDGE * len(known) * torch.eye(known.shape[1])
        self._colours = torch.linalg.solve(square, known.T @ wanted)

    @torch.inference_mode()
    def __call__(self, latents: Tensor) -> list[Image.Image]:
        assert self._colours is not None
        count, _, height, width = latents.shape
        pixels = (_with_one(latents) @ self._colours).view(count, height, width, 3).permute(0, 3, 1, 2)
        return [to_picture(row).resize((self.side, self.side), Image.Resampling.BICUBIC) for row in pixels]


def _with_one(latents: Tensor) -> Tensor:
    """[n, c, S, S] to [n * S * S, c + 1] float32: a cell a row, and a one for the offset."""
    cells = latents.float().cpu().permute(0, 2, 3, 1).flatten(0, 2)
    return torch.cat([cells, torch.ones(len(cells), 1)], dim=1)
