"""The dtype of each tensor in a precision, and 8-bit and 4-bit linears by bitsandbytes.

int8 is LLM.int8() (Dettmers et al. 2022), nf4 the 4-bit normal float of QLoRA (Dettmers et al. 2023, section 3).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from janus_app.errors import AppError
from janus_app.models.common.lazy_import import importing
from janus_app.models.family import Family
from janus_app.nn.fast.four_bit import quick_linear4bit
from janus_app.nn.fast.linear import Int8Linear, has_bfloat16_instructions
from janus_app.types import QUANTIZED_PRECISIONS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
OUTLIER_THRESHOLD = 6.0  # LLM.int8(): activation columns beyond this stay in 16 bit
PACKED_ROWS = 32  # rows that bitsandbytes packs together on a CPU with AVX512-BF16; it fails on others
NF4_BLOCK = 64  # weights that share one float32 scale


def plain_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of everything that is not quantized; around quantized layers bfloat16, where the device knows it."""
    if precision in DTYPES:
        return DTYPES[precision]
    if device.type == "cpu":
        return torch.bfloat16 if has_bfloat16_instructions() else torch.float32
    if device.type != "cuda" or not torch.cuda.is_available():
        return torch.bfloat16
    with torch.cuda.device(device):  # the question is about the current card
        new = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if new else torch.float16


def tensor_dtype(family: Family, name: str, precision: str, device: torch.device) -> torch.dtype:
    """The dtype of a tensor of the network, unless `is_quantized`.

    Picture decoders stay in float32 in fp16, whose range their activations leave, and on a CPU without instructions for
    bfloat16: convolutions then take eighty times as long, and with them half as long as in float32.
    """
    dtype = plain_dtype(precision, device)
    full = dtype == torch.float16 or (device.type == "cpu" and not has_bfloat16_instructions())
    return torch.float32 if full and name.startswith(family.picture_decoder_prefix) else dtype


def is_quantized(family: Family, name: str, parent: nn.Module, precision: str) -> bool:
    """Whether `name`, a tensor of `parent`, becomes int8 or nf4: weights of the decoder's linears do."""
    linear = isinstance(parent, nn.Linear) and name.endswith(".weight")
    return precision in QUANTIZED_PRECISIONS and name.startswith(family.quantized_prefix) and linear


def weight_sizes(family: Family, network: nn.Module, precision: str, device: torch.device) -> dict[str, int]:
    """Bytes of every tensor of a network on the meta device, once it is loaded in a precision."""
    sizes = {}
    for path, module in network.named_modules():
        for leaf, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            name = f"{path}.{leaf}" if path else leaf
            if not is_quantized(family, name, module, precision):
                sizes[name] = tensor.numel() * tensor_dtype(family, name, precision, device).itemsize
            elif precision == "int8":
                sizes[name] = tensor.numel() + 4 * tensor.shape[0]  # and a float32 scale per row
            else:
                sizes[name] = tensor.numel() // 2 + 4 * -(-tensor.numel() // NF4_BLOCK)
    return sizes


def bitsandbytes_missing() -> bool:
    """Whether the library of int8 and nf4 is not installed; it is not imported here."""
    return find_spec("bitsandbytes") is None


def import_bitsandbytes() -> ModuleType:
    """bitsandbytes, kept from running code of the Hub.

    Where the package `kernels` is installed too, it would fetch compiled code without being asked: at its import on a
    processor with AVX512-BF16, and at the first product on an Apple GPU. Its own code computes the same.
    """
    with importing:
        import bitsandbytes
    if apple := sys.modules.get("bitsandbytes.backends.mps.ops"):
        apple._kernel_load_failed = True  # type: ignore[attr-defined]  # what it notes where `kernels` is missing
    return bitsandbytes


def quantized_linear(weight: Tensor, precision: str, device: torch.device, dtype: torch.dtype) -> nn.Linear:
    """A linear without bias from its weight [out, in], in "int8" or "nf4"; it computes in `dtype`.

    Raises AppError where bitsandbytes is absent, too old, or made for another device.
    """
    with _library_for(precision, device) as bnb:
        data, scales = _quantized(bnb, weight, precision, device, dtype)
        return _linear(bnb, data, scales, (weight.shape[0], weight.shape[1]), precision, dtype)


def quantized_weight(weight: Tensor, precision: str, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The numbers of a `quantized_linear` and their float32 scales, of rows (int8) or blocks (nf4). Raises AppError."""
    with _library_for(precision, device) as bnb:
        return _quantized(bnb, weight, precision, device, dtype)


def stored_linear(
    data: Tensor, scales: Tensor, shape: tuple[int, int], precision: str, device: torch.device, dtype: torch.dtype
) -> nn.Linear:
    """The `quantized_linear` of a weight of `shape` [out, in] that was quantized before. Raises AppError."""
    with _library_for(precision, device) as bnb:
        moved = data.to(device, copy=True), scales.to(device, torch.float32, copy=True)
        return _linear(bnb, *moved, shape, precision, dtype)


@contextmanager
def _library_for(precision: str, device: torch.device) -> Iterator[Any]:
    try:
        bnb = import_bitsandbytes()
    except ModuleNotFoundError as error:
        raise AppError("bitsandbytes_missing", precision=precision) from error
    except Exception as error:  # its import runs native code, which raises many things where it does not fit
        raise _unusable(precision, device, error) from error
    try:
        yield bnb
    except (AttributeError, TypeError, NotImplementedError, AssertionError) as error:  # too old, or no kernel
        raise _unusable(precision, device, error) from error


def _quantized(
    bnb: Any, weight: Tensor, precision: str, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    if precision == "int8":
        eight_bit = bnb.nn.Int8Params(weight.contiguous(), requires_grad=False, has_fp16_weights=False)
        quantized = eight_bit.to(device)  # quantizes it
        return quantized.data, quantized.SCB
    four_bit = bnb.nn.Params4bit(
        weight.contiguous().to(dtype), requires_grad=False, blocksize=NF4_BLOCK, compress_statistics=False,
        quant_type="nf4",
    )  # fmt: skip
    quantized = four_bit.to(device)
    return quantized.data, quantized.quant_state.absmax


def _linear(
    bnb: Any, data: Tensor, scales: Tensor, shape: tuple[int, int], precision: str, dtype: torch.dtype
) -> nn.Linear:
    modules, (outer, inner) = bnb.nn, shape
    linear: nn.Linear
    if precision == "int8":
        if data.device.type == "cpu":  # bitsandbytes' rows and scales; its own product is slow, see nn/fast/linear.py
            return Int8Linear(data, scales / 127).eval()
        linear = modules.Linear8bitLt(
            inner, outer, bias=False, has_fp16_weights=False, threshold=OUTLIER_THRESHOLD, device="meta"
        )
        linear.weight = modules.Int8Params(data, requires_grad=False, has_fp16_weights=False, CB=data, SCB=scales)
    else:
        linear = quick_linear4bit(modules.Linear4bit)(
            inner, outer, bias=False, compute_dtype=dtype, compress_statistics=False, quant_type="nf4", device="meta"
        )
        code = bnb.functional.get_4bit_type("nf4", device=data.device)
        facts = {"quant_type": "nf4", "absmax": scales, "blocksize": NF4_BLOCK, "quant_map": code, "shape": shape}
        facts["dtype"] = str(dtype).removeprefix("torch.")
        linear.weight = modules.Params4bit.from_prequantized(data, facts, requires_grad=False, device=data.device)
        if inner % NF4_BLOCK or outer % PACKED_ROWS:
            linear.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    return linear.eval()


def _unusable(precision: str, device: torch.device, error: Exception) -> AppError:
    return AppError("bitsandbytes_unusable", precision=precision, device=device.type, error=type(error).__name__)
