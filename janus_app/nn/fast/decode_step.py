"""One position more for every row of a cache, over buffers that stay where they are.

A step reads and writes only tensors made beforehand, asks the device for no value and has the same shapes every time,
so that a card can record it once and play it back (`engine_graph.py`); a CPU runs it as it stands. docs/engine.md
draws the flow of the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from janus_app.nn.fast.cuda_graphs import BUCKET
from janus_app.nn.fast.fused import Product, UnfusedLinear, adding, product
from janus_app.nn.fast.kernels import FEW, Kernels, attend, eight_bit_rows, kernels_for
from janus_app.nn.llama import Block, KVCache, LlamaModel, RMSNorm, rms_norm, rotary_table

# (the new position's inputs [rows, hidden], cache slots that may be looked at) -> final hidden states [rows, hidden]
Step = Callable[[Tensor, int], Tensor]
# (what flows past a block's half, what comes out of it) -> both joined, and its norm: what the next half reads
Joining = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _Block:
    """What a step needs of a block, without the modules around it."""

    qkv: Product
    out: Joining
    gate_up: Product
    down: Joining


class TrunkStep:
    """The trunk for one new position of every row; the position is a tensor, so one recording serves all.

    The cache's buffer must stay the same object for as long as the step is used. `span` says how much of it is looked
    at: exactly the filled slots and this one (no mask), or more, up to a bucket's end (masked by the position).
    """

    def __init__(self, trunk: LlamaModel, cache: KVCache) -> None:
        config, device = trunk.config, cache.device
        self.cache = cache
        self.position = torch.tensor([cache.length], device=device)
        self._slots = torch.arange(cache.capacity, device=device)
        self._kernels = kernels_for(device, trunk.norm.weight.dtype)
        self.stops = self._kernels.attend is not attend  # at the filled slots, whatever the span
        blocks = list(trunk.blocks)
        norms = [*(block.input_layernorm for block in blocks), trunk.norm]
        self._norm = norms[0]
        self._blocks = [_parts(block, after, self._kernels) for block, after in zip(blocks, norms[1:], strict=True)]
        self._dim, self._kv = config.head_dim, config.num_key_value_heads
        self._groups = config.num_attention_heads // self._kv + 2
        padding = None if cache.hidden is None else cache.hidden.sum(-1, keepdim=True)
        places = self._slots[None] if padding is None else (self._slots - padding).clamp(min=0)
        self._turns = self._table(places, config.rope_theta, trunk.norm.weight.dtype)
        self._seen = None if cache.hidden is None else ~cache.hidden[:, None, None]

    def _table(self, places: Tensor, theta: float, dtype: torch.dtype) -> Tensor:
        """cos and sin [2, rows or 1, capacity, groups, 1, head_dim] for queries and keys; values turn by nothing."""
        angles = torch.stack(rotary_table(places, self._dim, theta, dtype))[:, :, 0]
        still = torch.zeros_like(angles)
        still[0] = 1
        return torch.stack([angles] * (self._groups - 1) + [still], dim=3)[:, :, :, :, None]

    def __call__(self, x: Tensor, span: int) -> Tensor:
        rows, dim, groups = x.shape[0], self._dim, self._groups
        angles = self._turns.index_select(2, self.position).squeeze(2).unbind()
        mask, kernels = self._mask(span), self._kernels
        normed = self._norm(x)
        for block, held in zip(self._blocks, self.cache.held, strict=True):
            heads = block.qkv(normed).view(rows, groups, self._kv, dim)
            query = kernels.turned(heads, angles, self.position, held)
            x, normed = block.out(x, kernels.attend(query, held, self.position, mask, span))
            x, normed = block.down(x, kernels.silu_mul(block.gate_up(normed)))
        self.position.add_(1)
        return normed

    def _mask(self, span: int) -> Tensor | None:
        """Which slots are seen [rows or 1, 1, 1, span]; None where all are that are looked at."""
        if self.stops or span == self.cache.length + 1:
            return None if self._seen is None else self._seen[..., :span]
        filled = (self._slots[:span] <= self.position)[None, None, None]
        return filled if self._seen is None else filled & self._seen[..., :span]


class ModuleStep:
    """The same through the modules themselves, for a trunk whose layers' weights travel between devices."""

    def __init__(self, trunk: LlamaModel, cache: KVCache) -> None:
        self._trunk, self.cache = trunk, cache
        self.position = torch.tensor([cache.length], device=cache.device)
        self._padding = None if cache.hidden is None else cache.hidden.sum(-1, keepdim=True)

    def __call__(self, x: Tensor, span: int) -> Tensor:
        positions = None if self._padding is None else self.position - self._padding
        past = self.cache.length
        hidden = self._trunk(x[:, None], positions, self.cache)[:, 0]
        self.cache.length = past  # whoever steps counts
        self.position.add_(1)
        return hidden


def trunk_step(trunk: LlamaModel, cache: KVCache) -> TrunkStep | ModuleStep:
    """The step for a trunk as it lies. Whoever calls it adds one to `cache.length` after each call."""
    return ModuleStep(trunk, cache) if has_offload_hooks(trunk) else TrunkStep(trunk, cache)


def bucket(step: TrunkStep | ModuleStep) -> int:
    """By how many slots the span of its recordings grows: by all where a kernel stops at the filled ones by itself."""
    return step.cache.capacity if isinstance(step, TrunkStep) and step.stops else BUCKET


def recordable(network: nn.Module, device: torch.device, few: Tensor | None = None) -> bool:
    """Whether a step of this network can be recorded: on CUDA, layers at their place, and no linear that asks back.

    bitsandbytes' 8-bit linears ask the card whether an activation is an outlier, unless a kernel takes their place: for
    the rows of a TrunkStep, `few` [rows, hidden].
    """
    if device.type != "cuda" or has_offload_hooks(network):
        return False
    instead = few is not None and len(few) <= FEW and kernels_for(device, few.dtype).int8_product is not None
    return instead or not any(type(module).__name__ == "Linear8bitLt" for module in network.modules())


def has_offload_hooks(network: nn.Module) -> bool:
    """Whether layers lie elsewhere until their turn comes (accelerate's hooks, `janus_app.runtime.offload`)."""
    return any(hasattr(module, "_hf_hook") for module in network.modules())


def _parts(block: Block, after: RMSNorm, kernels: Kernels) -> _Block:
    """`after` is the norm of the next block, or the trunk's last one."""
    attention, mlp = block.self_attn, block.mlp
    return _Block(
        attention.project if attention.qkv is None else _product(attention.qkv, kernels),
        _joining(attention.o_proj, block.post_attention_layernorm, kernels),
        mlp.project if mlp.gate_up is None else _product(mlp.gate_up, kernels),
        _joining(mlp.down_proj, after, kernels),
    )


def _joining(linear: nn.Module, norm: RMSNorm, kernels: Kernels) -> Joining:
    weight, eps, add_norm = norm.weight, norm.eps, kernels.add_norm
    multiplied = _product(linear, kernels)
    if add_norm is not None:
        return lambda x, more: add_norm(x, multiplied(more), weight, eps)
    added, small = adding(linear, multiplied), torch.tensor(eps, device=weight.device)

    def join(x: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
        total = added(x, more)
        return total, rms_norm(total, weight, small)

    return join


def _product(linear: nn.Module, kernels: Kernels) -> Product:
    """The linear as a function; int8 rows of bitsandbytes through the kernel, where there is one."""
    if kernels.int8_product is None:
        return product(linear)
    if isinstance(linear, UnfusedLinear):
        parts = [_product(part, kernels) for part in linear.parts]
        return lambda x: torch.cat([part(x) for part in parts], dim=-1)
    held, few = eight_bit_rows(linear), kernels.int8_product
    if held is None:
        return product(linear)
    rows, scale = held
    return lambda x: few(x, rows, scale) if len(x) <= FEW else linear(x)
