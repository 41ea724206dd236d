"""A model on several devices, by accelerate's hooks.

A decoder layer on another card gets its inputs moved there and its outputs moved back. A layer in main memory gets its
weights copied to the main device while it computes. The key/value cache stays on the main device.
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
    """The device of the tensor `name`; `prefix` is the family's `offload_prefix`."""
    layer = layer_of(name, prefix) if split else None
    return main if layer is None else split.get(layer, main)


def dispatch(network: nn.Module, prefix: str, split: Mapping[int, torch.device], main: torch.device) -> None:
    """Hook the layers of `split` under `prefix`, whose weights are in place, so that they compute for `main`.

    Raises AppError without accelerate.
    """
    if not split:
        return
    try:
        from accelerate import cpu_offload
        from accelerate.hooks import AlignDevicesHook, add_hook_to_module
    except ImportError as error:
        raise AppError("accelerate_missing") from error
    layers = network.get_submodule(prefix.rstrip("."))
    for index, device in split.items():
        layer = layers.get_submodule(str(index))
        if device.type == "cpu":
            cpu_offload(layer, execution_device=main)
        else:
            add_hook_to_module(layer, AlignDevicesHook(execution_device=device, io_same_device=True))
