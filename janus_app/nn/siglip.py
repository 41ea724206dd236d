"""The SigLIP vision tower (Zhai et al. 2023): a ViT without class token; its features are the normed patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.nn.fast.linear import Linear


@dataclass(frozen=True)
class VisionConfig:
    """separate_qkv: the checkpoint has q, k and v as three linears, and no first axis of the position table.

    gelu: "none" is the exact function, "tanh" the approximation that the published SigLIP computes. normed: whether
    the features are those behind the last norm.
    """

    image_size: int
    width: int
    layers: int
    heads: int
    patch_size: int
    mlp_ratio: float
    separate_qkv: bool = False
    gelu: str = "none"
    normed: bool = True

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, *, separate: bool) -> None:
        super().__init__()
        self.heads = heads
        if separate:
            self.q, self.k, self.v = (Linear(width, width) for _ in range(3))
        else:
            self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def join(self) -> None:
        """Make one linear of q, k and v, once their weights are there."""
        if not hasattr(self, "q"):
            return
        parts, width = (self.q, self.k, self.v), self.proj.in_features
        self.qkv = Linear(width, 3 * width, device="meta")
        self.qkv.weight = nn.Parameter(torch.cat([part.weight for part in parts]), requires_grad=False)
        self.qkv.bias = nn.Parameter(torch.cat([part.bias for part in parts]), requires_grad=False)
        del self.q, self.k, self.v

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, width = x.shape
        q, k, v = self.qkv(x).view(rows, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(rows, tokens, width))


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int, gelu: str) -> None:
        super().__init__()
        self.gelu = gelu
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate=self.gelu))


class _Block(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = _Attention(config.width, config.heads, separate=config.separate_qkv)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = _MLP(config.width, int(config.width * config.mlp_ratio), config.gelu)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _PatchEmbed(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)


class SigLIP(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = _PatchEmbed(config)
        table = (config.patches, config.width)
        self.pos_embed = nn.Parameter(torch.empty(table if config.separate_qkv else (1, *table)))
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=1e-6) if config.normed else nn.Identity()

    def join_qkv(self) -> None:
        for module in self.modules():
            if isinstance(module, _Attention):
                module.join()

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [n, 3, S, S] in -1..1 to features [n, patches, width]."""
        x = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
