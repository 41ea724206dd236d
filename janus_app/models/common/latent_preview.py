"""Cheap previews of latents: a linear map from the channels of a latent to the colours of the pixels under it.

Nobody has published such a map for every autoencoder, so it is fitted to latents whose pictures are known.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from janus_app.models.common.image_processor import to_picture

_RIDGE = 1e-3  # keeps channels without influence on the picture from getting colours by chance


class LatentPreview:
    """Latents [n, c, h, w] to pictures of `scale` times their height and width, after `fit` was called once."""

    def __init__(self, scale: int) -> None:
        self.scale = scale
        self._colours: Tensor | None = None

    @property
    def fitted(self) -> bool:
        return self._colours is not None

    @torch.inference_mode()
    def fit(self, latents: Tensor, pixels: Tensor) -> None:
        """Fit the map, by ridge regression, to latents and their pictures [n, 3, H, W] in -1..1."""
        inputs = _with_offset(latents)
        cells = (latents.shape[-2], latents.shape[-1])
        targets = F.adaptive_avg_pool2d(pixels.float().cpu(), cells).permute(0, 2, 3, 1).flatten(0, 2)
        square = inputs.T @ inputs + _RIDGE * len(inputs) * torch.eye(inputs.shape[1])
        self._colours = torch.linalg.solve(square, inputs.T @ targets)

    @torch.inference_mode()
    def __call__(self, latents: Tensor) -> list[Image.Image]:
        assert self._colours is not None
        count, _, height, width = latents.shape
        pixels = (_with_offset(latents) @ self._colours).view(count, height, width, 3).permute(0, 3, 1, 2)
        size = (width * self.scale, height * self.scale)
        return [to_picture(row).resize(size, Image.Resampling.BICUBIC) for row in pixels]


def _with_offset(latents: Tensor) -> Tensor:
    """[n, c, h, w] to float32 [n * h * w, c + 1]: a row for each cell, and a 1 for the offset."""
    cells = latents.float().cpu().permute(0, 2, 3, 1).flatten(0, 2)
    return torch.cat([cells, torch.ones(len(cells), 1)], dim=1)
