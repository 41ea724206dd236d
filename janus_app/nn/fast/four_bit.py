"""nf4 linears of bitsandbytes on a CPU with bfloat16 instructions, faster for many rows.

There bitsandbytes packs the weights at the first product, for a kernel that unpacks them again for every few rows. For
many rows, as of a prompt, it is faster to unpack them once, a chunk at a time. Other processors get that from
bitsandbytes itself.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NF4_UNPACK_MIN_ROWS = 64  # rows from which unpacking is worth it
UNPACK_CHUNK = 1 << 22  # weights unpacked at a time: few enough for a large cache, enough for all threads
_GROUP = 32  # rows of a weight that bitsandbytes packs together


@cache
def quick_linear4bit(base: type[Any]) -> type[Any]:
    """bitsandbytes' `Linear4bit` (`base`), without a bias, with another product for many rows."""

    class Linear4bit(base):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.reshape(-1, self.in_features)
            if len(flat) < NF4_UNPACK_MIN_ROWS or not self.support_avx512bf16_for_cpu or x.device.type != "cpu":
                return super().forward(x)
            if not getattr(self.weight.quant_state, "packing_format_for_cpu", False):
                super().forward(flat[:1])  # packs the weights
            out = _unpacked_product(flat.to(torch.bfloat16), self.weight.data, self.weight.quant_state)
            return out.to(x.dtype).view(*x.shape[:-1], self.out_features)

    return Linear4bit


def _unpacked_product(x: Tensor, packed: Tensor, state: Any) -> Tensor:
    """x [rows, in] times the transpose of the weights [out, in]; both bfloat16."""
    half = packed.shape[1]
    count = max(1, UNPACK_CHUNK // (2 * half * _GROUP)) * _GROUP
    chunks = zip(packed.split(count), state.absmax.split(count, dim=1), strict=True)
    return torch.cat([F.linear(x, unpack_nf4(part, scales, state.blocksize)) for part, scales in chunks], dim=-1)


def unpack_nf4(packed: Tensor, scales: Tensor, block: int) -> Tensor:
    """bfloat16 weights [out, in] from bitsandbytes' layout for CPUs.

    `packed` [out, in / 2]: of each 32 rows, one pair of columns after the other, and of a pair the first 16 rows in the
    lower and the other 16 in the higher halves of 32 bytes. `scales` [in / block, out].
    """
    out, half = packed.shape
    first, second = packed.view(-1, half, _GROUP // 2, 2).unbind(-1)  # of the pair, [groups, pairs, 16]
    rows = torch.empty(out // _GROUP, 2, _GROUP // 2, half, dtype=torch.uint8)
    rows[:, 0] = ((first << 4) | (second & 15)).transpose(1, 2)
    rows[:, 1] = ((first & 240) | (second >> 4)).transpose(1, 2)
    absmax = scales.t().float().reshape(-1)
    weight: Tensor = torch.ops.bitsandbytes.dequantize_4bit(
        rows.view(out, half), absmax, block, "nf4", (out, 2 * half), torch.bfloat16
    )
    return weight
