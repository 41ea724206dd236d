"""A decode step: one new position for every row of a KV cache, over buffers that stay at their addresses.

A step reads and writes only tensors that were allocated before, never waits for the device and has the same shapes
every time, so that a CUDA graph can capture it (`cuda_graphs.py`). A CPU runs it as it is. docs/engine.md draws the
flow of the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from janus_app.nn.fast.cuda_graphs import BUCKET
from janus_app.nn.fast.kernels import Kernels, attend_reference, attention_splits, bitsandbytes_int8, kernels_for
from janus_app.nn.fast.linear import (
    MAX_DECODE_ROWS,
    FusedQuantized,
    LinearFunction,
    UnfusedLinear,
    has_offload_hooks,
    is_plain_linear,
    linear_function,
)
from janus_app.nn.fast.packing import residual_function
from janus_app.nn.llama import DecoderConfig, KVCache, LlamaModel, RMSNorm, rms_norm, rotary_table

# The residual stream [rows, hidden], and its norm where what reads it next does not compute that by itself.
Stream = tuple[Tensor, Tensor | None]
Read = Callable[[Stream], Tensor]
Write = Callable[[Stream, Tensor], Stream]  # adds a linear of the second argument


@dataclass(frozen=True)
class _BlockFunctions:
    """A block as functions, without its modules."""

    qkv: Read
    out: Write
    gate_up: Read  # silu(gate) * up
    down: Write


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
        self._norm, self._blocks = _functions(model, _Builder(self._kernels, cache.rows))
        programs = cache.rows * config.num_attention_heads
        self._splits = attention_splits(programs, cache.capacity, _processors(device)) if self._stops_at_position else 1
        self._head_dim, self._kv_heads = config.head_dim, config.num_key_value_heads
        self._groups = config.num_attention_heads // self._kv_heads + 2
        padding = cache.padding_lengths()
        positions = self._slots[None] if padding is None else (self._slots - padding).clamp(min=0)
        self._rope_table = self._make_rope_table(positions, config, dtype)
        self._not_padding = None if cache.padding_mask is None else ~cache.padding_mask[:, None, None]

    def _make_rope_table(self, positions: Tensor, config: DecoderConfig, dtype: torch.dtype) -> Tensor:
        """cos and sin [2, rows or 1, capacity, groups, 1, head_dim]: for queries and keys; values are not rotated."""
        angles = torch.stack(rotary_table(positions, config, dtype))[:, :, 0]
        identity = torch.zeros_like(angles)
        identity[0] = 1
        return torch.stack([angles] * (self._groups - 1) + [identity], dim=3)[:, :, :, :, None]

    def __call__(self, x: Tensor, span: int) -> Tensor:
        cos, sin = self._rope_table.index_select(2, self.position).squeeze(2).unbind()
        mask, kernels = self.mask(span), self._kernels
        stream = x, None if self._norm is None else self._norm(x)
        for block, kv in zip(self._blocks, self.cache.kv, strict=True):
            heads = block.qkv(stream).view(x.shape[0], self._groups, self._kv_heads, self._head_dim)
            stream = block.out(stream, kernels.attend(heads, cos, sin, self.position, kv, mask, span, self._splits))
            stream = block.down(stream, block.gate_up(stream))
        self.position.add_(1)
        return _normed(stream)

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


def _processors(device: torch.device) -> int:
    """The number of a GPU's multiprocessors; 1 for other devices."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _functions(model: LlamaModel, builder: _Builder) -> tuple[RMSNorm | None, list[_BlockFunctions]]:
    """The norm of the first inputs, unless the first linear computes it, and the blocks as functions."""
    functions: list[_BlockFunctions] = []
    next_norm: RMSNorm | None = model.norm
    for block in reversed(list(model.blocks)):
        attention, mlp = block.self_attn, block.mlp
        down = builder.writer(mlp.down_proj, next_norm)
        gate_up, norm = builder.reader(mlp.gate_up or mlp.project, block.post_attention_layernorm, gated=True)
        out = builder.writer(attention.o_proj, norm)
        qkv, next_norm = builder.reader(attention.qkv or attention.project, block.input_layernorm)
        functions.insert(0, _BlockFunctions(qkv, out, gate_up, down))
    return next_norm, functions


class _Builder:
    """Makes functions of a model's linears, for steps of so many rows, fused with what stands around them."""

    def __init__(self, kernels: Kernels, rows: int) -> None:
        self._kernels, self._few = kernels, rows <= MAX_DECODE_ROWS

    def reader(
        self, linear: nn.Module | LinearFunction, norm: RMSNorm, *, gated: bool = False
    ) -> tuple[Read, RMSNorm | None]:
        """A linear that reads the residual stream, and the norm that is to be computed before it, if any."""
        if product := self._product(linear):
            fused = partial(product, norm=norm.weight, eps=norm.eps, gated=gated)
            return lambda stream: fused(stream[0]), None
        function, silu_mul = self._function(linear), self._kernels.silu_mul
        if gated:
            return lambda stream: silu_mul(function(_normed(stream))), norm
        return lambda stream: function(_normed(stream)), norm

    def writer(self, linear: nn.Module, norm: RMSNorm | None) -> Write:
        """A linear that is added to the residual stream, and the norm for what reads that next, if any."""
        function = self._function(linear)
        if norm is None:
            product = self._product(linear)
            add = residual_function(linear, function) if product is None else _add(product)
            return lambda stream, x: (add(stream[0], x), None)
        weight, eps, add_rms_norm = norm.weight, norm.eps, self._kernels.add_rms_norm
        if add_rms_norm is not None:
            return lambda stream, x: add_rms_norm(stream[0], function(x), weight, eps)
        add, eps_tensor = residual_function(linear, function), torch.tensor(eps, device=weight.device)

        def add_and_norm(stream: Stream, x: Tensor) -> Stream:
            total = add(stream[0], x)
            return total, rms_norm(total, weight, eps_tensor)

        return add_and_norm

    def _function(self, linear: nn.Module | LinearFunction) -> LinearFunction:
        if not isinstance(linear, nn.Module):
            return linear
        if isinstance(linear, UnfusedLinear):
            parts = [self._function(part) for part in linear.parts]
            return lambda x: torch.cat([part(x) for part in parts], dim=-1)
        return self._product(linear) or linear_function(linear)

    def _product(self, linear: nn.Module | LinearFunction) -> Callable[..., Tensor] | None:
        """The kernel with the linear's weights; None where the layer's own product is used."""
        if not self._few or not isinstance(linear, nn.Module):
            return None
        if isinstance(linear, FusedQuantized):
            linear = linear.whole
        int8_linear, plain = self._kernels.int8_linear, self._kernels.linear
        if int8_linear is not None and (int8 := bitsandbytes_int8(linear)) is not None:
            return lambda x, **options: int8_linear(x, *int8, **options)
        if plain is not None and is_plain_linear(linear) and getattr(linear, "bias", None) is None:
            weight = linear.weight
            return lambda x, **options: plain(x, weight, **options)
        return None


def _normed(stream: Stream) -> Tensor:
    normed = stream[1]
    assert normed is not None
    return normed


def _add(product: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda residual, x: product(x, residual=residual)
