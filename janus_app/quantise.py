"""8-bit and 4-bit decoder linears through bitsandbytes (Dettmers et al. 2022 and 2023), one at a time."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from janus_app.errors import AppError

OUTLIER_THRESHOLD = 6.0  # LLM.int8(): activation columns beyond this stay in 16 bit


def quantised_linear(weight: Tensor, precision: str, device: torch.device, dtype: torch.dtype) -> nn.Linear:
    """A linear without bias from its weight [out, in], held as "int8" or "nf4"; it computes in `dtype`."""
    try:
        import bitsandbytes as bnb
    except Exception as error:  # its import runs native code: a missing or too old library raises many things
        raise AppError(
            f"{precision} needs the package bitsandbytes, which cannot be imported here. Install it with "
            "`python -m pip install bitsandbytes`, or choose another precision."
        ) from error
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it remarks on its own casts at every start
    outer, inner = weight.shape
    linear: nn.Linear
    if precision == "int8":
        linear = bnb.nn.Linear8bitLt(
            inner, outer, bias=False, has_fp16_weights=False, threshold=OUTLIER_THRESHOLD, device="meta"
        )
        eight_bit = bnb.nn.Int8Params(weight.contiguous(), requires_grad=False, has_fp16_weights=False)
        linear.weight = eight_bit.to(device)  # type: ignore[misc]  # quantises on the way
    else:
        linear = bnb.nn.Linear4bit(
            inner, outer, bias=False, compute_dtype=dtype, compress_statistics=False, quant_type="nf4", device="meta"
        )
        four_bit = bnb.nn.Params4bit(
            weight.contiguous().to(dtype), requires_grad=False, compress_statistics=False, quant_type="nf4"
        )
        linear.weight = four_bit.to(device)  # type: ignore[misc]
    return linear.eval()
