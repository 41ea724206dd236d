"""The connector between the language model's query states and the diffuser's conditioning (MetaQuery, section 3.2).

A bidirectional transformer over the queries, then a projection to the width of the diffuser's captions. Module names
are the checkpoint's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_DIM = 64
ENCODER_EPS = 1e-6
OUTPUT_EPS = 1e-5  # of the last norm alone
ROPE_BASE = 10_000.0


def rotate(x: Tensor) -> Tensor:
    """Rotary positions 0..N-1 (Su et al. 2021) on [rows, heads, N, 64], halves paired, angles in float32."""
    half = x.shape[-1] // 2
    steps = torch.arange(half, device=x.device, dtype=torch.float32) * (-2 / x.shape[-1])
    angles = torch.outer(torch.arange(x.shape[-2], device=x.device, dtype=torch.float32), ROPE_BASE**steps)
    cos, sin = angles.cos().repeat(1, 2).to(x.dtype), angles.sin().repeat(1, 2).to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class HeadNorm(nn.Module):
    """x / |x| * gamma * sqrt(64) for every head: lengths leave attention, directions and gamma stay."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, 1, HEAD_DIM))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * self.gamma * HEAD_DIM**0.5


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_DIM
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.q_norm = HeadNorm(self.heads)
        self.k_norm = HeadNorm(self.heads)

    def forward(self, x: Tensor) -> Tensor:
        rows, steps, width = x.shape
        q, k, v = (
            projection(x).view(rows, steps, self.heads, HEAD_DIM).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        # Positions first: gamma differs from channel to channel, so norm and rotation do not commute.
        q, k = self.q_norm(rotate(q)), self.k_norm(rotate(k))
        out = F.scaled_dot_product_attention(q, k, v)  # no mask: every query sees every other
        return self.o_proj(out.transpose(1, 2).reshape(rows, steps, width))


class _MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, 4 * width, bias=False)
        self.up_proj = nn.Linear(width, 4 * width, bias=False)
        self.down_proj = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class _Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(width, eps=ENCODER_EPS)
        self.self_attn = _Attention(width)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=ENCODER_EPS)
        self.mlp = _MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class _Encoder(nn.Module):
    """The layers alone: there is no norm behind the last."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer(width) for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def connector(width: int, layers: int, caption_width: int) -> nn.Sequential:
    """Query states [rows, N, width] to the diffuser's conditioning [rows, N, caption_width]. width % 64 == 0."""
    return nn.Sequential(
        _Encoder(width, layers),
        nn.Linear(width, caption_width),
        nn.GELU(approximate="tanh"),
        nn.Linear(caption_width, caption_width),
        nn.RMSNorm(caption_width, eps=OUTPUT_EPS),
    )
