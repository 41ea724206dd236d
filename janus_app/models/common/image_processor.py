"""Pictures to the tensors a SigLIP tower was trained on, and tensors back to pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from janus_app.errors import AppError
from janus_app.nn.sampling import non_finite_error

BLANK = (236, 236, 240)  # the grey of the part that is not drawn yet


@dataclass(frozen=True)
class ImageProcessor:
    """The fields of preprocessor_config.json that change a pixel."""

    size: int
    min_size: int = 14
    background: tuple[int, int, int] = (127, 127, 127)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    rescale: float = 1 / 255
    normalize: bool = True

    def square(self, picture: Image.Image) -> Image.Image:
        """Fit the longer side to `size` and pad to a square with the background, as the models were trained.

        The shorter side is truncated, not rounded: `int()` in the reference decides the last pixel row.
        """
        picture = picture.convert("RGB")
        longest = max(picture.size)
        width, height = (max(int(side / longest * self.size), self.min_size) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        canvas = Image.new("RGB", (self.size, self.size), self.background)
        canvas.paste(picture, ((self.size - width) // 2, (self.size - height) // 2))
        return canvas

    def __call__(self, picture: Image.Image) -> Tensor:
        """A picture of any size and mode to float32 [3, size, size]."""
        pixels = torch.from_numpy(np.array(self.square(picture))).permute(2, 0, 1).float() * self.rescale
        if not self.normalize:
            return pixels
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


def to_picture(pixels: Tensor) -> Image.Image:
    """One picture [3, H, W] in -1..1 to 8-bit RGB; fractions are cut, not rounded, as in the code of Janus.

    Raises AppError where values are not finite: the picture would be black.
    """
    return _picture(((_finite(pixels) + 1) / 2 * 255).clamp(0, 255))


def to_rounded_picture(pixels: Tensor) -> Image.Image:
    """As `to_picture`, but rounded as diffusers does."""
    return _picture(((_finite(pixels) / 2 + 0.5).clamp(0, 1) * 255).round())


def _finite(pixels: Tensor) -> Tensor:
    if not bool(torch.isfinite(pixels).all()):
        raise non_finite_error(pixels.dtype)
    return pixels.float().cpu()


def _picture(levels: Tensor) -> Image.Image:
    return Image.fromarray(levels.to(torch.uint8).permute(1, 2, 0).numpy())


def to_pixels(picture: Image.Image) -> Tensor:
    """A picture in RGB to float32 [3, H, W] in -1..1."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255 * 2 - 1


def fit_square(picture: Image.Image, side: int) -> Image.Image:
    """The middle square of a picture at `side` pixels, kept as it is when it already has that size."""
    if picture.mode != "L":
        picture = picture.convert("RGB")
    if picture.size == (side, side):
        return picture
    return ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)


def painted_pixels(mask: Image.Image) -> np.ndarray:
    """Where a mask is painted (white = draw anew): bool [H, W]."""
    return np.array(mask.convert("L")) > 127


def masked_cells(mask: Image.Image, grid: int) -> Tensor:
    """Which of the grid * grid cells of a square mask hold any painted pixel: bool [grid * grid], row by row.

    Raises AppError where none does.
    """
    painted = torch.from_numpy(painted_pixels(mask))
    if not painted.any():
        raise AppError("mask_empty")
    cell = mask.width // grid
    return painted.view(grid, cell, grid, cell).permute(0, 2, 1, 3).flatten(2).any(-1).flatten()


def paste_back(drawn: Image.Image, original: Image.Image, mask: Image.Image) -> Image.Image:
    """`drawn` where the mask is painted, `original` bit for bit everywhere else.

    The edge is hard: a soft one would change unpainted pixels or let painted ones show through. The latents were
    blended already, so the only seam left is the error of the autoencoder.
    """
    where = painted_pixels(mask)[..., None]
    return Image.fromarray(np.where(where, np.asarray(drawn), np.asarray(original)))
