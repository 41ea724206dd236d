"""From the language model's states at the learned queries to what the transformer reads in place of a text.

A bidirectional transformer over the queries, without positions, without a mask and without a last norm; then one
projection a query, and one of the mean of all. Module names are the checkpoint's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.models.unipic2.config import ConditionerConfig

EPS = 1e-6  # of the published code; no config names it


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner_width)
        self.fc2 = nn.Linear(inner_width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class _Layer(nn.Module):
    def __init__(self, config: ConditionerConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.width, eps=EPS)
        self.self_attn = _Attention(config.width, config.heads)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=EPS)
        self.mlp = _MLP(config.width, config.inner_width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Connector(nn.Module):
    def __init__(self, config: ConditionerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.layers)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Conditioner(nn.Module):
    """States [rows, N, language_width] to captions [rows, N, caption_width] and pooled ones [rows, pooled_width]."""

    def __init__(self, config: ConditionerConfig) -> None:
        super().__init__()
        self.meta_queries = nn.Parameter(torch.zeros(config.queries, config.language_width))
        self.projector_1 = nn.Linear(config.language_width, config.width)
        self.connector = _Connector(config)
        self.projector_2 = nn.Linear(config.width, config.pooled_width)
        self.projector_3 = nn.Linear(config.width, config.caption_width)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        x = self.connector(self.projector_1(states))
        return self.projector_3(x), self.projector_2(x.mean(1))
