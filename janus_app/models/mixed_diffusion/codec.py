"""Between latents and positions of the sequence: one linear each way, or a U-Net's way down and up.

Both ways know the time of the noise. `encode` also returns features for `decode`, as the skips of a U-Net.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.models.common.lazy_import import importing
from janus_app.models.mixed_diffusion.config import ImageConfig

Skips = tuple[Tensor, ...]
_DEPTH = 4  # times the sinusoids' width: the time embedding of a U-Net, as is usual


class TimeEmbedding(nn.Module):
    """Times [n], 0 (clean) to 999 (noise), to [n, width]: sinusoids in float32, and two linears with a SiLU."""

    def __init__(self, sinusoids: int, width: int) -> None:
        super().__init__()
        self.sinusoids = sinusoids
        self.linear_1, self.linear_2 = nn.Linear(sinusoids, width), nn.Linear(width, width)

    def forward(self, times: Tensor) -> Tensor:
        with importing:
            from diffusers.models.embeddings import get_timestep_embedding

        waves = get_timestep_embedding(times, self.sinusoids, flip_sin_to_cos=True, downscale_freq_shift=0)
        hidden: Tensor = self.linear_2(F.silu(self.linear_1(waves.to(self.linear_1.weight.dtype))))
        return hidden


class LinearCodec(nn.Module):
    """Each patch of a latent through one linear, its time embedding added before it (Transfusion, section 3)."""

    def __init__(self, config: ImageConfig, hidden: int) -> None:
        super().__init__()
        self.patch = config.patch
        numbers = config.channels * config.patch**2
        self.time = TimeEmbedding(config.time_width, numbers)
        self.encoder, self.decoder = nn.Linear(numbers, hidden), nn.Linear(hidden, numbers)

    def encode(self, latents: Tensor, times: Tensor) -> tuple[Tensor, Skips]:
        """Latents [n, C, h, w] at times [n] to inputs [n, cells, hidden], row by row."""
        patches = F.pixel_unshuffle(latents, self.patch).flatten(2).transpose(1, 2)
        inputs: Tensor = self.encoder(patches + self.time(times)[:, None])
        return inputs, ()

    def decode(self, states: Tensor, skips: Skips, times: Tensor) -> Tensor:
        """Final states [n, cells, hidden] to latents [n, C, h, w]."""
        return F.pixel_shuffle(_as_grid(self.decoder(states)), self.patch)


class UNetCodec(nn.Module):
    """A U-Net whose middle is the transformer (Transfusion, section 3; LMFusion, section 3).

    Each level has `blocks` residual blocks, and half the height and width of the one before it. A block reads the time;
    on the way up it also reads what its counterpart on the way down wrote.
    """

    def __init__(self, config: ImageConfig, hidden: int) -> None:
        super().__init__()
        with importing:
            from diffusers.models.downsampling import Downsample2D
            from diffusers.models.resnet import ResnetBlock2D
            from diffusers.models.upsampling import Upsample2D

        widths, time = config.widths, _DEPTH * config.time_width
        self.time = TimeEmbedding(config.time_width, time)

        def blocks(inner: list[int], outer: int) -> nn.ModuleList:
            made = (
                ResnetBlock2D(in_channels=width, out_channels=outer, temb_channels=time, groups=config.groups)
                for width in inner
            )
            return nn.ModuleList(made)

        self.conv_in = nn.Conv2d(config.channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            before = widths[max(level - 1, 0)]
            self.down.append(blocks([before, *[width] * (config.blocks - 1)], width))
            deeper = widths[min(level + 1, len(widths) - 1)]
            self.up.append(blocks([deeper + width, *[2 * width] * (config.blocks - 1)], width))
            if level:
                self.shrink.append(Downsample2D(before, use_conv=True, name="op"))
                self.grow.append(Upsample2D(width, use_conv=True))
        self.encoder, self.decoder = nn.Linear(widths[-1], hidden), nn.Linear(hidden, widths[-1])
        self.norm_out = nn.GroupNorm(config.groups, widths[0], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[0], config.channels, 3, padding=1)

    def encode(self, latents: Tensor, times: Tensor) -> tuple[Tensor, Skips]:
        """Latents [n, C, h, w] at times [n] to inputs [n, cells, hidden], row by row, and what `decode` reads."""
        time, x = self.time(times), self.conv_in(latents)
        skips = list[Tensor]()
        for level, blocks in enumerate(_modules(self.down)):
            x = self.shrink[level - 1](x) if level else x
            for block in blocks:
                x = block(x, time)
                skips.append(x)
        return self.encoder(x.flatten(2).transpose(1, 2)), tuple(skips)

    def decode(self, states: Tensor, skips: Skips, times: Tensor) -> Tensor:
        """Final states [n, cells, hidden] to latents [n, C, h, w]."""
        time, x, left = self.time(times), _as_grid(self.decoder(states)), list(skips)
        for level, blocks in reversed(list(enumerate(_modules(self.up)))):
            for block in blocks:
                x = block(torch.cat([x, left.pop()], dim=1), time)
            x = self.grow[level - 1](x) if level else x
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out


def make_codec(config: ImageConfig, hidden: int) -> LinearCodec | UNetCodec:
    return UNetCodec(config, hidden) if config.widths else LinearCodec(config, hidden)


def _as_grid(cells: Tensor) -> Tensor:
    """[n, g * g, C] to [n, C, g, g]."""
    side = int(cells.shape[1] ** 0.5)
    return cells.transpose(1, 2).unflatten(2, (side, side))


def _modules(levels: nn.ModuleList) -> list[Any]:
    return list(levels)
