"""From the vectors of a picture to the conditions of the diffusion model: the projector of a visualiser folder."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.models.regression.config import AdapterConfig


class Adapter(nn.Module):
    """Vectors [n, V, width] to conditions [n, tokens, out].

    Zeros fill the conditions up where there are fewer vectors than tokens, as in the published code. Names of the
    modules are those of its checkpoints.
    """

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        if config.mode == "mlp":
            widths = [config.width, *[config.hidden] * (config.layers - 1), config.out]
            self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
            self.norms = nn.ModuleList(map(nn.LayerNorm, widths[1:]))
        elif config.mode == "linear":
            self.proj = nn.Linear(config.width, config.out)
        else:
            self.token_embeddings = nn.Parameter(torch.empty(1, config.tokens, config.out))
            self.proj, self.input_norm = nn.Linear(config.width, config.out), nn.LayerNorm(config.out)
            blocks = (_Block(config.out, config.heads, config.mode == "xattnffn") for _ in range(config.layers))
            self.cross_attn_layers = nn.ModuleList(blocks)
        self.pooled_proj = nn.Linear(config.width, config.pooled) if config.pooled else None

    def pooled(self, vectors: Tensor) -> Tensor | None:
        """The condition [n, pooled] of the mean of vectors [n, V, width]; None where the diffusion model reads none."""
        return None if self.pooled_proj is None else self.pooled_proj(vectors.mean(1))

    def forward(self, vectors: Tensor) -> Tensor:
        if self.config.mode == "linear":
            tokens = self.proj(vectors)
        else:
            tokens = self._mlp(vectors) if self.config.mode == "mlp" else self._attended(vectors)
        return F.pad(tokens, (0, 0, 0, max(0, self.config.tokens - tokens.shape[1])))

    def _mlp(self, x: Tensor) -> Tensor:
        last = len(self.layers) - 1
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = norm(layer(x))
            x = x if number == last else F.relu(x)
        return x

    def _attended(self, vectors: Tensor) -> Tensor:
        seen = self.input_norm(self.proj(vectors))
        tokens = self.token_embeddings.expand(len(vectors), -1, -1)
        for block in self.cross_attn_layers:
            tokens = block(tokens, seen)
        return tokens


class _Block(nn.Module):
    """Tokens attend to what is seen, then optionally an MLP; norms behind the residual sums."""

    def __init__(self, width: int, heads: int, has_mlp: bool) -> None:
        super().__init__()
        self.cross_attn = _Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.has_mlp = has_mlp
        if has_mlp:
            self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
            self.norm2 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:
        tokens = self.norm1(tokens + self.cross_attn(tokens, seen))
        return self.norm2(tokens + self.ffn(tokens)) if self.has_mlp else tokens


class _Attention(nn.Module):
    """The parameters of PyTorch's own module of this kind."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        inputs = (tokens, seen, seen)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip(inputs, weights, biases, strict=True)
        )
        out: Tensor = self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out
