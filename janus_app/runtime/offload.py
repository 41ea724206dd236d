"""A model over several devices: decoder layers on other cards, or waiting in main memory for their turn.

The hooks are accelerate's. A layer's weights live elsewhere; its inputs travel there and back, or its weights travel to
the main device while it calculates. The key/value cache stays on the main device.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from janus_app.errors import AppError


def layer_of(name: str, prefix: str) -> int | None:
    """The number of the decoder layer that a tensor belongs to; None outside the layers under `prefix`."""
    return int(name.removeprefix(prefix).split(".")[0]) if prefix and name.startswith(prefix) else None


def device_of(name: str, prefix: str, split: Mapping[int, torch.device], main: torch.device) -> torch.device:
    """Where the tensor `name` is put while the weights stream in; `prefix` is the family's `offload_prefix`."""
    layer = layer_of(name, prefix) if split else None
    return main if layer is None else split.get(layer, main)


def connect(network: nn.Module, prefix: str, split: Mapping[int, torch.device], main: torch.device) -> None:
    """Make the layers of `split` under `prefix`, whose weights are already in place, work as if they were on `main`.

    Layers on the CPU are carried to `main` each time they are needed. Raises AppError without accelerate.
    """
    if not split:
        return
    try:
        from accelerate import cpu_offload
        from accelerate.hooks import AlignDevicesHook, add_hook_to_module
    except ImportError as error:
        raise AppError(
            "Spreading a model over several devices needs the package accelerate, which cannot be imported here. "
            "Install it with `python -m pip install accelerate`, or choose a precision that fits one device."
        ) from error
    layers = network.get_submodule(prefix.rstrip("."))
    for index, device in split.items():
        layer = layers.get_submodule(str(index))
        if device.type == "cpu":
            cpu_offload(layer, execution_device=main)
        else:
            add_hook_to_module(layer, AlignDevicesHook(execution_device=device, io_same_device=True))
