"""Several linears that read the same input, as one matrix product: q, k and v; gate and up.

The linears stay where they are, under the checkpoint's names: their weights become views of the one matrix, so fusing
costs no memory. It happens after loading; a module whose weights travel (`janus_app.spread`) is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.models.eight_bit import Int8Linear, joined

FEW, LARGE = 32, 1 << 17  # inputs and weights of a product that is faster the other way round, see `multiply`

Product = Callable[[Tensor], Tensor]


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear(x, weight, bias) for x [..., in].

    Two to FEW inputs times a large float32 matrix are multiplied the other way round, weight @ x.T, on a CPU with two
    threads or more: its library then divides the weights among the threads, and not the few inputs. That took between
    0.3 and 0.9 of the time (benchmarks/README.md). It likes some widths better than others, so zeros fill up to them.
    """
    count = x.numel() // x.shape[-1]
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and torch.get_num_threads() > 1
    if not (plain and 1 < count <= FEW and weight.numel() >= LARGE):
        return F.linear(x, weight, bias)
    flat = x.reshape(count, -1)
    width = 1 << (count - 1).bit_length() if count <= 8 else -(-count // 8) * 8
    columns = (F.pad(flat, (0, 0, 0, width - count)) if width > count else flat).t()
    product = torch.mm(weight, columns)[:, :count].t().contiguous()
    return (product if bias is None else product.add_(bias)).view(*x.shape[:-1], -1)


class Joined(nn.Module):
    """x [..., in] to the outputs of the linears side by side, [..., sum of out]."""

    weight: Tensor

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        # A buffer that no checkpoint has: names and shapes of the state stay the checkpoint's.
        self.register_buffer("weight", torch.cat([linear.weight.data for linear in linears]), persistent=False)
        sizes = [linear.out_features for linear in linears]
        for linear, part in zip(linears, self.weight.split(sizes), strict=True):
            linear.weight = nn.Parameter(part, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return multiply(x, self.weight)


class Apart(nn.Module):
    """The same from linears that cannot be one matrix (4 bits, bitsandbytes' own 8 bits); it owns none of them."""

    def __init__(self, linears: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = tuple(linears)  # a tuple, so that they are not registered a second time

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([linear(x) for linear in self.parts], dim=-1)


def fuse(*linears: nn.Linear) -> nn.Module:
    """The linears as one module; none may have a bias."""
    assert all(linear.bias is None for linear in linears)
    if all(type(linear) is nn.Linear and not linear.weight.is_meta for linear in linears):
        return Joined(linears)
    eight = [linear for linear in linears if isinstance(linear, Int8Linear)]
    return joined(eight) if len(eight) == len(linears) else Apart(linears)


def product(linear: nn.Module) -> Product:
    """The module as a plain function where it is a plain linear: a module's own call costs a small kernel's time."""
    if not plain(linear):
        return linear.forward
    weight, bias = linear.weight, getattr(linear, "bias", None)
    assert isinstance(weight, Tensor)
    if weight.numel() >= LARGE and weight.device.type == "cpu":
        return lambda x: multiply(x, weight, bias)
    return lambda x: F.linear(x, weight, bias)


def adding(linear: nn.Module, multiplied: Product) -> Callable[[Tensor, Tensor], Tensor]:
    """(total, x) [rows, ...] to total + linear(x), in one operation where a CPU has one, else by `multiplied`."""
    weight, bias = getattr(linear, "weight", None), getattr(linear, "bias", None)
    if not (plain(linear) and isinstance(weight, Tensor)) or bias is not None or weight.device.type != "cpu":
        return lambda total, x: total + multiplied(x)
    if weight.dtype == torch.float32 and weight.numel() < LARGE:
        columns = weight.t()
        return lambda total, x: torch.addmm(total, x, columns)
    return lambda total, x: total + multiplied(x)


def plain(linear: nn.Module) -> bool:
    """Whether it is one matrix and nothing else, which lies where it is used."""
    return type(linear) in (Joined, nn.Linear) and not hasattr(linear, "_hf_hook")
