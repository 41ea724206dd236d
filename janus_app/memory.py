"""What a load costs, what is free, and which precision follows from both."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from janus_app.catalog import Variant
from janus_app.errors import AppError

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "nf4")
_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.3, "nf4": 0.9}  # whole model, where the manifest is silent
_RESERVE = 1.25e9  # CUDA context, workspaces, one picture's cache and decode


@dataclass(frozen=True)
class Memory:
    """Bytes of the device the weights live on: graphics memory, or main memory for the CPU."""

    free: int
    total: int


def resolve_device(name: str) -> torch.device:
    """ "auto", "cpu", "cuda", "cuda:1", "mps" or "xpu" to a device that is really there. Raises AppError."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        if hasattr(torch, "xpu") and torch.xpu.is_available():
            return torch.device("xpu", 0)
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise AppError(f"There is no device called {name!r}. Choose auto, cpu, cuda, cuda:1, mps or xpu.") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise AppError(
                "No CUDA graphics card can be used here: PyTorch sees none (no card, no driver, or a CPU build of "
                "PyTorch). Use --device cpu, or run `python -m janus_app doctor` to see what is missing."
            )
        if (device.index or 0) >= count:
            raise AppError(f"There is no {name}: this machine has {count} CUDA card(s), counted from cuda:0.")
        return torch.device("cuda", device.index or 0)
    usable = {"cpu": True, "mps": torch.backends.mps.is_available(), "xpu": torch.xpu.is_available()}
    if not usable.get(device.type, False):
        raise AppError(f"The device {name!r} is not available here. Use --device auto or cpu.")
    return device


def device_memory(device: torch.device) -> Memory:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(free, total)
    import psutil

    memory = psutil.virtual_memory()
    return Memory(memory.available, memory.total)


def weight_bytes(variant: Variant, precision: str) -> int:
    """Bytes of a variant's weights in a precision: the manifest's figure, or an estimate from its parameters."""
    return variant.memory.get(precision) or int(variant.parameters * _BYTES[precision])


def choose_precision(variant: Variant, device: torch.device, wanted: str) -> str:
    """The precision to load in. "auto" takes the best one that fits; one that cannot fit is refused.

    Raises AppError for an unknown precision, or where nothing fits.
    """
    if wanted != "auto" and wanted not in PRECISIONS:
        raise AppError(f"There is no precision {wanted!r}. Choose auto, {', '.join(PRECISIONS)}.")
    free = device_memory(device).free
    if device.type == "cuda":
        full = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        order = [full, "int8", "nf4"]
    else:
        order = ["fp32", "bf16"]
    needs = {name: weight_bytes(variant, name) for name in PRECISIONS}
    reserve = _RESERVE if needs["bf16"] > 1e9 else 0.1e9  # the embedded weights need no room worth the name
    fits = [name for name in order if needs[name] + reserve <= free]
    if wanted == "auto" and fits:
        return fits[0]
    if wanted != "auto" and needs[wanted] + reserve <= free:
        return wanted
    place = "graphics memory" if device.type == "cuda" else "memory"
    asked = order[-1] if wanted == "auto" else wanted
    remedy = f"Choose {fits[0]}." if fits else "Choose a smaller model, or close other programs that use the memory."
    raise AppError(
        f"{variant.title} in {asked} needs about {(needs[asked] + reserve) / 1e9:.1f} GB of {place} and "
        f"{free / 1e9:.1f} GB are free. {remedy}"
    )
