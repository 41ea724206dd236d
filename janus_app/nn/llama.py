"""The language model shared by the Janus families: a Llama decoder over a static key/value cache.

Pre-norm blocks with RMSNorm, rotary positions and SwiGLU (Touvron et al. 2023, section 2.2). Parameter names are the
Hub's (`model.layers.0.self_attn.q_proj.weight`, ...), so a checkpoint streams in without renaming.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.nn.fast.linear import Linear, fuse_linears, has_bfloat16_instructions


@dataclass(frozen=True)
class RopeScaling:
    """Rotary angles of Llama 3.1, for contexts `factor` times as long as the `original` one of the pretraining.

    Wavelengths above original / low_freq are stretched by the factor, those below original / high_freq are kept, and
    those between are blended.
    """

    factor: float
    low_freq: float
    high_freq: float
    original: int

    def apply(self, inverse: Tensor) -> Tensor:
        """Inverse frequencies [n] as scaled ones."""
        turns = self.original * inverse / (2 * math.pi)  # of each frequency within the original context
        kept = ((turns - self.low_freq) / (self.high_freq - self.low_freq)).clamp(0, 1)
        return inverse / self.factor * (1 - kept) + inverse * kept


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the decoder. The defaults are LlamaConfig's: the 7B checkpoint leaves them out of its config.json."""

    vocab_size: int
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False  # of Qwen2
    extra_rows: int = 0  # of the embedding, behind those of words: no word is written with them

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


class KVCache:
    """Keys and values of all layers in one buffer, `kv` [layers, 2, rows, kv_heads, capacity, head_dim].

    `dtype` is the model's; `cache_dtype` chooses the buffer's. The first `length` slots are filled. `padding_mask`
    [rows, capacity] is True at the left padding of shorter rows, which no query may attend to; None without padding.
    """

    def __init__(
        self, config: DecoderConfig, rows: int, capacity: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.num_hidden_layers, 2, rows, config.num_key_value_heads, capacity, config.head_dim)
        self.kv = torch.zeros(shape, device=device, dtype=cache_dtype(device, dtype))
        self.length = 0
        self.padding_mask: Tensor | None = None

    @property
    def keys(self) -> Tensor:
        """[layers, rows, kv_heads, capacity, head_dim]; `values` alike."""
        return self.kv[:, 0]

    @property
    def values(self) -> Tensor:
        return self.kv[:, 1]

    @property
    def rows(self) -> int:
        return self.kv.shape[2]

    @property
    def capacity(self) -> int:
        return self.kv.shape[4]

    @property
    def device(self) -> torch.device:
        return self.kv.device

    def repeat_rows(self, times: int) -> None:
        """Repeat rows [a, b] as [a] * times + [b] * times: one prefill serves all pictures of a prompt."""
        if times == 1:
            return
        self.kv = self.kv.repeat_interleave(times, dim=2)
        if self.padding_mask is not None:
            self.padding_mask = self.padding_mask.repeat_interleave(times, dim=0)

    def padding_lengths(self) -> Tensor | None:
        """How many slots of padding each row begins with, [rows, 1]; None without padding."""
        return None if self.padding_mask is None else self.padding_mask.sum(-1, keepdim=True)

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values [rows, kv_heads, T, head_dim] behind the filled slots; return those of all slots then
        filled, [rows, kv_heads, length + T, head_dim] each. `advance` counts them, after the last layer."""
        end = self.length + key.shape[2]
        keys, values = self.kv[layer]
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]

    def mask(self, steps: int) -> Tensor | None:
        """The mask of the next `steps` inputs over the filled slots and themselves; see `attention_mask`."""
        return attention_mask(steps, self.length, self.padding_mask, self.device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Append keys and values, and return the attention of the queries, [rows, heads, T, head_dim] as they are."""
        key, value = self.append(layer, key, value)
        return causal_attention(query, key, value, mask)

    def advance(self, steps: int) -> None:
        self.length += steps


class Cache(Protocol):
    """What LlamaModel needs of a cache. KVCache grows; `prefix_cache.SharedPrefixCache` is read-only."""

    @property
    def length(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def mask(self, steps: int) -> Tensor | None: ...

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor: ...

    def advance(self, steps: int) -> None: ...


def cache_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The dtype of cached keys and values: float32 where a processor would convert bfloat16 at every use."""
    emulated = dtype == torch.bfloat16 and device.type == "cpu" and has_bfloat16_instructions() is False
    return torch.float32 if emulated else dtype


def causal_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of queries [rows, heads, T, head_dim] over keys and values of as many heads or fewer (grouped-query).

    Without a mask it is causal, aligned at the upper left. Keys and values may have another dtype than the queries;
    the result has that of the queries.
    """
    return _attention(query, key, value, mask, mask is None and query.shape[2] > 1)


def full_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As `causal_attention`, but every query attends to every key."""
    return _attention(query, key, value, None, False)


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    grouped = query.shape[1] != key.shape[1]
    out = F.scaled_dot_product_attention(
        query.to(key.dtype), key, value, attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )
    return out.to(query.dtype)


class RMSNorm(nn.Module):
    """x / rms(x) * weight, with statistics in float32 (Zhang and Sennrich 2019, eq. 4)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float | Tensor) -> Tensor:
    """RMSNorm of x [..., size] in few operations, whose number decides the time for few rows.

    eps may be a float32 scalar tensor, which saves making one.
    """
    wide = x.float()
    length = torch.linalg.vector_norm(wide, 2, -1, True)
    eps = eps if isinstance(eps, Tensor) else length.new_full((), eps)
    normed = wide * torch.addcmul(eps, length, length, value=1 / x.shape[-1]).rsqrt_()
    return normed.mul_(weight) if normed.dtype == weight.dtype else weight * normed.to(x.dtype)


def rotary_table(positions: Tensor, config: DecoderConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary angles at positions [rows, T], each [rows, 1, T, head_dim] (Su et al. 2021, eq. 34).

    Computed in float32. The first half of the sines is negated, so that `rotate` only adds.
    """
    halves = torch.arange(0, config.head_dim, 2, device=positions.device).float()
    inverse = config.rope_theta ** -(halves / config.head_dim)
    if config.rope_scaling is not None:
        inverse = config.rope_scaling.apply(inverse)
    angles = (positions[..., None].float() * inverse)[:, None]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., head_dim] rotated by the angles of `rotary_table`."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


class Attention(nn.Module):
    """Multi-head attention with rotary positions; grouped-query where there are fewer key and value heads."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        kv = config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.k_proj = Linear(config.hidden_size, kv, bias=config.qkv_bias)
        self.v_proj = Linear(config.hidden_size, kv, bias=config.qkv_bias)
        self.o_proj = Linear(config.hidden_size, config.hidden_size, bias=False)
        self.kv_heads = config.num_key_value_heads
        self.qkv: nn.Module | None = None  # q, k and v as one product, after LlamaModel.fuse

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: Cache | None, mask: Tensor | None) -> Tensor:
        rows, steps, _ = x.shape
        heads = self.project(x).view(rows, steps, -1, self.head_dim).transpose(1, 2)
        rotated, v = rotate(heads[:, : -self.kv_heads], *rotary), heads[:, -self.kv_heads :]
        q, k = rotated[:, : -self.kv_heads], rotated[:, -self.kv_heads :]
        if cache is None:
            out = causal_attention(q, k, v)
        else:  # the cache may be on another device than this layer
            q, k, v = (part.to(cache.device) for part in (q, k, v))
            out = cache.attend(self.layer, q, k, v, None if mask is None else mask.to(cache.device)).to(x.device)
        return self.o_proj(out.transpose(1, 2).reshape(rows, steps, -1))

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side, [..., (heads + 2 kv_heads) * head_dim]."""
        return torch.cat([linear(x) for linear in self.projections], dim=-1) if self.qkv is None else self.qkv(x)

    @property
    def projections(self) -> tuple[Linear, Linear, Linear]:
        return self.q_proj, self.k_proj, self.v_proj


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020): down(silu(gate(x)) * up(x))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.gate_up: nn.Module | None = None  # gate and up as one product, after LlamaModel.fuse

    def project(self, x: Tensor) -> Tensor:
        """Gate and up side by side, [..., 2 * intermediate]."""
        return torch.cat([self.gate_proj(x), self.up_proj(x)], dim=-1) if self.gate_up is None else self.gate_up(x)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.project(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    """Attention and MLP, each behind a norm and with a residual connection."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: Cache | None, mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, cache, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaModel(nn.Module):
    """Embeddings, blocks and the final norm: everything under `language_model.model`."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size + config.extra_rows, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def fuse(self) -> None:
        """Make one product of q, k and v, and one of gate and up. The state dict keeps its names and shapes.

        Call it once the weights are loaded.
        """
        for block in self.blocks:
            attention, mlp = block.self_attn, block.mlp
            if attention.qkv is None:
                attention.qkv = fuse_linears(*attention.projections)
                mlp.gate_up = fuse_linears(mlp.gate_proj, mlp.up_proj)

    @property
    def blocks(self) -> Iterator[Block]:
        return (layer for layer in self.layers if isinstance(layer, Block))

    def forward(self, embeds: Tensor, positions: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Run inputs [rows, T, hidden] through the blocks and the final norm; the result has the same shape.

        With a cache the T new positions follow its filled slots and are appended to it. positions [rows, T] count on
        from the cache's length by default.
        """
        rows, steps, _ = embeds.shape
        past = cache.length if cache is not None else 0
        if positions is None:
            positions = torch.arange(past, past + steps, device=embeds.device).expand(rows, -1)
        rotary = rotary_table(positions, self.config, embeds.dtype)
        mask = cache.mask(steps) if cache is not None else None
        x = embeds
        for layer in self.layers:
            x = layer(x, rotary, cache, mask)
        if cache is not None:
            cache.advance(steps)
        return self.norm(x)


def attention_mask(steps: int, past: int, padding_mask: Tensor | None, device: torch.device) -> Tensor | None:
    """The mask [rows or 1, 1, steps, past + steps], True where a query may attend; None where plain causal attention
    does the same. padding_mask is [rows, at least past + steps], True at padding."""
    if padding_mask is None and (past == 0 or steps == 1):
        return None
    causal = torch.ones(steps, past + steps, dtype=torch.bool, device=device).tril(past)[None, None]
    if padding_mask is None:
        return causal
    visible = causal & ~padding_mask[:, None, None, : past + steps]
    # A query at padding may attend to nothing; attending to itself keeps its (unused) softmax finite.
    itself = torch.eye(past + steps, dtype=torch.bool, device=device)[past:][None, None]
    return visible | itself


class LlamaForCausalLM(nn.Module):
    """`language_model.*`: the model and its untied output head."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.model = LlamaModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
