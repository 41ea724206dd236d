"""VQ-16, the image tokenizer of the Janus token models (LlamaGen, Sun et al. 2024, after Esser et al. 2021).

A convolutional encoder makes one vector a cell; its token is the nearest row of an L2-normalised codebook; a decoder
makes pixels of it again. Module names and nesting are the checkpoint's: `conv_blocks` of the decoder begin at the
lowest resolution, and `mid` is a list of block, attention, block.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.types import result_of

LARGE = 1 << 20  # values in a layer's output from which the decoder pauses after it, so that it can be stopped
Layers = Generator[None, None, Tensor]  # pauses after large layers, and returns what the last one made


@dataclass(frozen=True)
class VQConfig:
    codebook_size: int
    code_dim: int
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 256

    @property
    def cell(self) -> int:
        """The side in pixels of the square that one token represents."""
        return 2 ** (len(self.ch_mult) - 1)


def _pause(made: Tensor) -> Generator[None]:
    if made.numel() >= LARGE:
        yield


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class _ResBlock(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.norm1 = _norm(inner)
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1)
        self.norm2 = _norm(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1)
        if inner != outer:
            self.nin_shortcut = nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        return result_of(self.layers(x))

    def layers(self, x: Tensor) -> Layers:
        h = self.conv1(F.silu(self.norm1(x)))
        yield from _pause(h)
        h = self.conv2(F.silu(self.norm2(h)))
        yield from _pause(h)
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class _AttnBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (conv(h).flatten(2).transpose(1, 2) for conv in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.proj_out(out.transpose(1, 2).view_as(x))


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Level(nn.Module):
    """One resolution: residual blocks, with attention after each if `attend`, then a change of resolution."""

    def __init__(self, inner: int, outer: int, blocks: int, *, attend: bool) -> None:
        super().__init__()
        self.res = nn.ModuleList(_ResBlock(inner if i == 0 else outer, outer) for i in range(blocks))
        self.attn = nn.ModuleList(_AttnBlock(outer) for _ in range(blocks if attend else 0))
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return result_of(self.layers(x))

    def layers(self, x: Tensor) -> Layers:
        block: Any  # a _ResBlock
        for i, block in enumerate(self.res):
            x = yield from block.layers(x)
            if self.attn:
                x = self.attn[i](x)
        x = self.upsample(self.downsample(x))
        yield from _pause(x)
        return x


def _middle(channels: int) -> nn.ModuleList:
    return nn.ModuleList([_ResBlock(channels, channels), _AttnBlock(channels), _ResBlock(channels, channels)])


class Encoder(nn.Module):
    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, config.ch, 3, padding=1)
        self.conv_blocks = nn.ModuleList()
        inner = config.ch
        last = len(config.ch_mult) - 1
        for i, mult in enumerate(config.ch_mult):
            outer = config.ch * mult
            level = _Level(inner, outer, config.num_res_blocks, attend=i == last)
            if i != last:
                level.downsample = _Downsample(outer)
            self.conv_blocks.append(level)
            inner = outer
        self.mid = _middle(inner)
        self.norm_out = _norm(inner)
        self.conv_out = nn.Conv2d(inner, config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in (*self.conv_blocks, *self.mid):
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        inner = config.ch * config.ch_mult[-1]
        self.conv_in = nn.Conv2d(config.z_channels, inner, 3, padding=1)
        self.mid = _middle(inner)
        self.conv_blocks = nn.ModuleList()
        for i, mult in reversed(list(enumerate(config.ch_mult))):
            outer = config.ch * mult
            level = _Level(inner, outer, config.num_res_blocks + 1, attend=i == len(config.ch_mult) - 1)
            if i != 0:
                level.upsample = _Upsample(outer)
            self.conv_blocks.append(level)
            inner = outer
        self.norm_out = _norm(inner)
        self.conv_out = nn.Conv2d(inner, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        return result_of(self.layers(z))

    def layers(self, z: Tensor) -> Layers:
        x = self.conv_in(z)
        for block in self.mid:
            x = block(x)
        level: Any  # a _Level
        for level in self.conv_blocks:
            x = yield from level.layers(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class _Codebook(nn.Module):
    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.codebook_size, config.code_dim)


class VQModel(nn.Module):
    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantize = _Codebook(config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.code_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.code_dim, config.z_channels, 1)
        self.decoder = Decoder(config)

    def latents(self, pixels: Tensor) -> Tensor:
        """Pixels [n, 3, S, S] in -1..1 to latents before quantisation, [n, code_dim, g, g]."""
        return self.quant_conv(self.encoder(pixels))

    def nearest(self, latents: Tensor) -> Tensor:
        """Latents [n, code_dim, g, g] to token ids [n, g * g] in raster order.

        Both sides are L2-normalised, so the nearest row is the one of the largest cosine (Yu et al. 2021).
        """
        flat = F.normalize(latents.flatten(2).transpose(1, 2), dim=-1)
        return (flat @ self.codebook().T).argmax(-1)

    def codebook(self) -> Tensor:
        """The L2-normalised codes, [codebook_size, code_dim]."""
        return F.normalize(self.quantize.embedding.weight, dim=-1)

    def lookup(self, tokens: Tensor) -> Tensor:
        """Token ids [n, g * g] to normalised codes [n, code_dim, g, g]."""
        side = round(tokens.shape[1] ** 0.5)
        codes = F.embedding(tokens, self.codebook())
        return codes.transpose(1, 2).reshape(tokens.shape[0], -1, side, side)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [n, 3, S, S] in -1..1 to token ids [n, g * g]."""
        return self.nearest(self.latents(pixels))

    def decode(self, tokens: Tensor) -> Tensor:
        """Token ids [n, g * g] to pixels [n, 3, S, S], nominally in -1..1."""
        return result_of(self.decoding(tokens))

    def decoding(self, tokens: Tensor) -> Layers:
        """`decode` layer by layer: seconds pass on a CPU, and whoever waits may want to stop."""
        return (yield from self.decoder.layers(self.post_quant_conv(self.lookup(tokens))))
