"""Eight-bit weights on a CPU: int8 rows with a scale each, multiplied as they are.

LLM.int8() (Dettmers et al. 2022) rounds the activations to eight bits too, which CPUs do slowly; here they keep
bfloat16's eight significant bits and their own exponent, and the rows are never unpacked while few inputs come at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.nn.fast.linear import in_pieces, slow_bfloat16

FEW = 32  # inputs up to which reading int8 rows wins over unpacking them: every step of drawing, which has 32 at most


class Int8Linear(nn.Linear):
    """y = (x @ rows.T) * scale + bias for int8 `weight` [out, in] and float32 `scale` [out]."""

    scale: Tensor
    ones: Tensor

    def __init__(self, rows: Tensor, scale: Tensor, *, persistent: bool = True) -> None:
        super().__init__(rows.shape[1], rows.shape[0], bias=False, device="meta")
        del self.weight
        self.register_buffer("weight", rows, persistent=persistent)
        self.register_buffer("scale", scale.float(), persistent=False)
        # The kernel wants scales in bfloat16, which would round them: it is given ones.
        self.register_buffer("ones", torch.ones_like(scale, dtype=torch.bfloat16), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.in_features)
        # Kernels are a private part of PyTorch; its other dtypes than bfloat16 are slower than unpacking.
        if len(flat) <= FEW and packed_kernel():
            product = torch._weight_int8pack_mm(flat.to(torch.bfloat16), self.weight, self.ones)
        else:
            product = in_pieces(flat.float() if flat.dtype == torch.bfloat16 and slow_bfloat16() else flat, self.weight)
        out = (product * self.scale).to(x.dtype).view(*x.shape[:-1], self.out_features)
        return out if self.bias is None else out + self.bias


def packed_kernel() -> bool:
    return hasattr(torch, "_weight_int8pack_mm")


def plain(linear: Int8Linear, x: Tensor) -> Tensor:
    """What `linear` computes, from weights unpacked to float32: the twin it is tested against."""
    weight = linear.weight.float() * linear.scale[:, None]
    return F.linear(x.float(), weight, None if linear.bias is None else linear.bias.float()).to(x.dtype)


def joined(linears: Sequence[Int8Linear]) -> Int8Linear:
    """One linear whose outputs are those of `linears` side by side; their weights become views of its own."""
    rows, scale = torch.cat([one.weight for one in linears]), torch.cat([one.scale for one in linears])
    sizes = [one.out_features for one in linears]
    for one, part, scales in zip(linears, rows.split(sizes), scale.split(sizes), strict=True):
        one.weight, one.scale = part, scales
    return Int8Linear(rows, scale, persistent=False)
