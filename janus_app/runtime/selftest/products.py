"""The operations of a decode step: Triton's kernels and quantized products, against plain PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch

from janus_app.errors import Message, is_out_of_memory
from janus_app.nn.fast.kernels import CHECKS, find_mismatch
from janus_app.nn.fast.linear import MAX_DECODE_ROWS
from janus_app.runtime.quantization import bitsandbytes_missing, plain_dtype, quantized_linear
from janus_app.runtime.selftest.result import DTYPE_NAMES, Bench, Item, Result, alive, isolated, reason_of
from janus_app.types import QUANTIZED_PRECISIONS

_LIMITS = {"int8": 0.05, "nf4": 0.2}  # relative error of a product with random weights
_REPORT = Message("selftest_report")
logger = logging.getLogger(__name__)


def kernels(bench: Bench) -> Iterator[Item]:
    """Each kernel against its reference implementation, in every dtype."""
    if not bench.on_cuda:
        yield Result("SKIP", "", Message("selftest_cuda_only"))
        return
    try:
        from janus_app.nn.fast import triton_kernels
    except Exception as error:  # no Triton, or one that does not fit this PyTorch
        yield Result("WARN", "", reason_of(error), Message("doctor_install_triton"))
        return
    for dtype, name in DTYPE_NAMES.items():
        yield from isolated(_kernels(bench, triton_kernels, dtype), name)


def _kernels(bench: Bench, triton: object, dtype: torch.dtype) -> Iterator[Item]:
    wrong = {}
    for kernel in CHECKS:
        yield alive()
        try:
            with torch.inference_mode():
                mismatch = find_mismatch(kernel, getattr(triton, kernel), bench.device, dtype)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            logger.info("the kernel %s failed", kernel, exc_info=error)
            mismatch = type(error).__name__
        if mismatch is not None:
            wrong[kernel] = mismatch
    what, numbers = DTYPE_NAMES[dtype], {"kernels": len(CHECKS), "wrong": wrong}
    if not wrong:
        yield Result("OK", what, Message("selftest_kernels_agree", count=len(CHECKS)), numbers=numbers)
        return
    names = ", ".join(f"{kernel} ({mismatch})" for kernel, mismatch in wrong.items())
    yield Result("WARN", what, Message("selftest_kernels_differ", names=names), _REPORT, numbers=numbers)


def quantized(bench: Bench) -> Iterator[Item]:
    """Products of int8 and nf4 linears, as the loader makes them, with few rows and with many."""
    if bitsandbytes_missing():
        yield Result("SKIP", "", Message("selftest_no_bitsandbytes"), Message("doctor_reinstall"))
        return
    for precision in QUANTIZED_PRECISIONS:
        yield from isolated(_quantized(bench, precision), precision)


def _quantized(bench: Bench, precision: str) -> Iterator[Item]:
    source, dtype = torch.Generator().manual_seed(0), plain_dtype(precision, bench.device)
    size = 256 if bench.small else 2048
    weight = torch.randn(size, size, generator=source) * size**-0.5
    linear = quantized_linear(weight, precision, bench.device, dtype)
    error = 0.0
    for rows in (2, MAX_DECODE_ROWS + 32):  # a step's, and a prompt's
        yield alive()
        x = torch.randn(rows, size, generator=source)
        with torch.inference_mode():
            found = linear(x.to(bench.device, dtype)).float().cpu()
        exact = x @ weight.T
        error = max(error, float((found - exact).norm() / exact.norm()))
    good = error <= _LIMITS[precision]
    detail = Message("selftest_product", error=error, limit=_LIMITS[precision])
    remedy = None if good else Message("doctor_update_bitsandbytes")
    yield Result("OK" if good else "FAIL", precision, detail, remedy, numbers={"relative_error": round(error, 5)})
