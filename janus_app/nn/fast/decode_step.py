"""A decode step: one new position for every row of a KV cache, over buffers that stay at their addresses.

A step reads and writes only tensors that were allocated before, never waits for the device and has the same shapes
every time, so that a CUDA graph can capture it (`cuda_graphs.py`). A CPU runs it as it is. docs/engine.md draws the
flow of the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from janus_app.nn.fast.cuda_graphs import BUCKET
from janus_app.nn.fast.kernels import Kernels, attend_reference, bitsandbytes_int8, kernels_for
from janus_app.nn.fast.linear import (
    MAX_DECODE_ROWS,
    LinearFunction,
    UnfusedLinear,
    has_offload_hooks,
    linear_function,
    residual_function,
)
from janus_app.nn.llama import Block, KVCache, LlamaModel, RMSNorm, rms_norm, rotary_table

# (residual stream, what a linear is applied to) -> the new residual stream and its norm, which the next linear reads
AddAndNorm = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _BlockFunctions:
    """A block as functions, without its modules."""

    qkv: LinearFunction
    out: AddAndNorm
    gate_up: LinearFunction
    down: AddAndNorm


class DecodeStep:
    """A Llama decoder for one new position of every row; the position is a tensor, so one graph serves all positions.

    `step(x, span)` takes the inputs [rows, hidden] and returns the final hidden states [rows, hidden]. Attention looks
    at the first `span` cache slots: exactly the filled ones and the new one (no mask is needed), or more, up to a
    bucket's end (masked by the position). The caller adds 1 to `cache.length` after each call. The cache's buffer must
    stay the same object for as long as the step is used.
    """

    def __init__(self, model: LlamaModel, cache: KVCache) -> None:
        config, device, dtype = model.config, cache.device, model.norm.weight.dtype
        self.cache = cache
        self.position = torch.tensor([cache.length], device=device)
        self._slots = torch.arange(cache.capacity, device=device)
        self._kernels = kernels_for(device, dtype)
        self._stops_at_position = self._kernels.attend is not attend_reference
        # Of the CUDA graphs: one serves all spans where the kernel ends at the filled slots by itself.
        self.bucket = cache.capacity if self._stops_at_position else BUCKET
        blocks = list(model.blocks)
        norms = [*(block.input_layernorm for block in blocks), model.norm]
        self._norm = norms[0]
        self._blocks = [
            _block_functions(block, next_norm, self._kernels)
            for block, next_norm in zip(blocks, norms[1:], strict=True)
        ]
        self._head_dim, self._kv_heads = config.head_dim, config.num_key_value_heads
        self._groups = config.num_attention_heads // self._kv_heads + 2
        padding = cache.padding_lengths()
        positions = self._slots[None] if padding is None else (self._slots - padding).clamp(min=0)
        self._rope_table = self._make_rope_table(positions, config.rope_theta, dtype)
        self._not_padding = None if cache.padding_mask is None else ~cache.padding_mask[:, None, None]

    def _make_rope_table(self, positions: Tensor, theta: float, dtype: torch.dtype) -> Tensor:
        """cos and sin [2, rows or 1, capacity, groups, 1, head_dim]: for queries and keys; values are not rotated."""
        angles = torch.stack(rotary_table(positions, self._head_dim, theta, dtype))[:, :, 0]
        identity = torch.zeros_like(angles)
        identity[0] = 1
        return torch.stack([angles] * (self._groups - 1) + [identity], dim=3)[:, :, :, :, None]

    def __call__(self, x: Tensor, span: int) -> Tensor:
        cos, sin = self._rope_table.index_select(2, self.position).squeeze(2).unbind()
        mask, kernels = self.mask(span), self._kernels
        normed = self._norm(x)
        for block, kv in zip(self._blocks, self.cache.kv, strict=True):
            heads = block.qkv(normed).view(x.shape[0], self._groups, self._kv_heads, self._head_dim)
            query = kernels.apply_rope_and_cache(heads, cos, sin, self.position, kv)
            x, normed = block.out(x, kernels.attend(query, kv, self.position, mask, span))
            x, normed = block.down(x, kernels.silu_mul(block.gate_up(normed)))
        self.position.add_(1)
        return normed

    def mask(self, span: int) -> Tensor | None:
        """The slots that may be attended to, [rows or 1, 1, 1, span]; None where attention may look at all of them."""
        if self._stops_at_position or span == self.cache.length + 1:
            return None if self._not_padding is None else self._not_padding[..., :span]
        filled = (self._slots[:span] <= self.position)[None, None, None]
        return filled if self._not_padding is None else filled & self._not_padding[..., :span]


class ModuleDecodeStep:
    """As DecodeStep, through the modules themselves: for weights that accelerate's hooks move between devices."""

    bucket = BUCKET

    def __init__(self, model: LlamaModel, cache: KVCache) -> None:
        self._model, self.cache = model, cache
        self.position = torch.tensor([cache.length], device=cache.device)
        self._padding = cache.padding_lengths()

    def __call__(self, x: Tensor, span: int) -> Tensor:
        positions = None if self._padding is None else self.position - self._padding
        length = self.cache.length
        hidden = self._model(x[:, None], positions, self.cache)[:, 0]
        self.cache.length = length  # the caller counts
        self.position.add_(1)
        return hidden


def make_decode_step(model: LlamaModel, cache: KVCache) -> DecodeStep | ModuleDecodeStep:
    """The fastest step for a model, given where its weights are."""
    return ModuleDecodeStep(model, cache) if has_offload_hooks(model) else DecodeStep(model, cache)


def can_capture(network: nn.Module, device: torch.device, x: Tensor | None = None) -> bool:
    """Whether a CUDA graph can capture a step of the network: on CUDA, with all weights there and no linear that waits.

    bitsandbytes' int8 linears ask the GPU whether an activation is an outlier, unless a kernel replaces them: that is
    for the inputs `x` [rows, hidden] of a DecodeStep.
    """
    if device.type != "cuda" or has_offload_hooks(network):
        return False
    if x is not None and len(x) <= MAX_DECODE_ROWS and kernels_for(device, x.dtype).int8_linear is not None:
        return True
    return not any(type(module).__name__ == "Linear8bitLt" for module in network.modules())


def _block_functions(block: Block, next_norm: RMSNorm, kernels: Kernels) -> _BlockFunctions:
    """`next_norm` is that of the next block's attention, or the model's last one."""
    attention, mlp = block.self_attn, block.mlp
    return _BlockFunctions(
        attention.project if attention.qkv is None else _linear_function(attention.qkv, kernels),
        _add_and_norm(attention.o_proj, block.post_attention_layernorm, kernels),
        mlp.project if mlp.gate_up is None else _linear_function(mlp.gate_up, kernels),
        _add_and_norm(mlp.down_proj, next_norm, kernels),
    )


def _add_and_norm(linear: nn.Module, norm: RMSNorm, kernels: Kernels) -> AddAndNorm:
    weight, eps, add_rms_norm = norm.weight, norm.eps, kernels.add_rms_norm
    function = _linear_function(linear, kernels)
    if add_rms_norm is not None:
        return lambda residual, x: add_rms_norm(residual, function(x), weight, eps)
    add, eps_tensor = residual_function(linear, function), torch.tensor(eps, device=weight.device)

    def add_and_norm(residual: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        total = add(residual, x)
        return total, rms_norm(total, weight, eps_tensor)

    return add_and_norm


def _linear_function(linear: nn.Module, kernels: Kernels) -> LinearFunction:
    """The linear as a function, for bitsandbytes' int8 through the kernel where there is one."""
    int8_linear = kernels.int8_linear
    if int8_linear is None:
        return linear_function(linear)
    if isinstance(linear, UnfusedLinear):
        parts = [_linear_function(part, kernels) for part in linear.parts]
        return lambda x: torch.cat([part(x) for part in parts], dim=-1)
    if (int8 := bitsandbytes_int8(linear)) is None:
        return linear_function(linear)
    weight, scale = int8
    return lambda x: int8_linear(x, weight, scale) if len(x) <= MAX_DECODE_ROWS else linear(x)
