"""Loads a checkpoint: the network is built on the meta device, then filled tensor by tensor, checked and quantized.

Each tensor goes from the memory-mapped file straight to its device, so main memory never contains a second copy of the
weights, and a quantized load peaks near its final size.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from janus_app.errors import AppError, Message
from janus_app.models.family import Family, Parts, WeightSource
from janus_app.models.registry import detect_family, get_family
from janus_app.registry.types import Variant
from janus_app.runtime.adapters import read_changes
from janus_app.runtime.devices import limit_threads_to_cgroup, under_device
from janus_app.runtime.fit import LoadPlan
from janus_app.runtime.malloc import set_malloc_threshold
from janus_app.runtime.offload import device_of, dispatch
from janus_app.runtime.quantization import is_quantized, plain_dtype, quantized_linear, stored_linear, tensor_dtype
from janus_app.runtime.stored_copy import check_stored, read_stored, saved_precision
from janus_app.runtime.tensor_files import read_tensors
from janus_app.runtime.tensor_match import match_tensors, read_kinds
from janus_app.types import Model, Notice, Progress


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, and the plan it was loaded by."""

    plan: LoadPlan
    model: Model


def expected_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint with this config (`Family.read_config`) must contain."""
    return {name: tuple(t.shape) for name, t in detect_family(config).meta_network(config).state_dict().items()}


def compare(variant: Variant, components: Parts) -> Generator[Notice, None, None]:
    """Compare the names and shapes in a variant's weight files with its network; reads no tensor.

    `components` are the folders of its components that are on this machine. Where the network cannot be described
    without one that is missing, the kinds of the files are compared alone. A Notice says what a load would mend. Raises
    AppError for anything wrong with the files.
    """
    assert variant.folder is not None
    family = get_family(variant.family)
    try:
        config = family.read_config(variant.folder, components)
        network = family.meta_network(config)
    except AppError as error:
        if error.code not in ("component_missing", "autoencoder_missing", "family_package_missing"):
            raise
        read_kinds(variant.folder)
        return
    if precision := saved_precision(variant.folder):
        check_stored(variant.folder, family, network, precision)
        return
    sources = family.weight_sources(network, config, variant.folder, components)
    yield from match_tensors(family, network, config, sources)


def check_adapters(plan: LoadPlan) -> None:
    """Raises AppError for an adapter of the plan that does not fit the model; reads no tensor."""
    if plan.adapters:
        assert plan.folder is not None
        family = get_family(plan.variant.family)
        if saved_precision(plan.folder):
            raise AppError("adapter_on_quantized_copy", title=plan.variant.title)
        config = family.read_config(plan.folder, plan.components)
        read_changes(plan.adapters, family, family.meta_network(config), plan.variant.title)


def load(plan: LoadPlan) -> Generator[Progress | Notice, None, LoadedModel]:
    """Load the checkpoint in `plan.folder`. Closing the generator drops what was loaded so far.

    Progress counts parameters; a Notice says what was mended. Raises AppError for anything wrong with the files.
    """
    return (yield from under_device(plan.placement.main, _load(plan)))


def _load(plan: LoadPlan) -> Generator[Progress | Notice, None, LoadedModel]:
    assert plan.folder is not None
    set_malloc_threshold()
    limit_threads_to_cgroup()
    variant, folder, components = plan.variant, plan.folder, plan.components
    family = get_family(variant.family)
    config = family.read_config(folder, components) if plan.config is None else plan.config
    if family.config_file == "config.json" and config.get("model_type") is None:
        yield Notice(Message("checkpoint_type_assumed", family=family.title))
    network = family.meta_network(config)
    if saved_precision(folder):
        yield from _fill_stored(family, network, folder, plan)
    else:
        yield from _fill(family, network, family.weight_sources(network, config, folder, components), plan, config)
    dispatch(network, family.offload_prefix, plan.split, plan.placement.main)
    model = family.pipeline(
        network,
        folder,
        context=variant.context,
        roles=variant.roles,
        edit_methods=variant.edit_methods,
        parts=components,
        thinking=variant.thinking,
    )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # of the weights that were fused
    return LoadedModel(plan, model)


def _fill(
    family: Family, network: nn.Module, sources: Iterable[WeightSource], plan: LoadPlan, config: Mapping[str, Any]
) -> Generator[Progress | Notice, None, None]:
    """Fill a network on the meta device, after all names and shapes were compared."""
    total = sum(tensor.numel() for tensor in network.state_dict().values())
    done = 0
    yield Progress("read", 0, total, "weights")
    match = yield from match_tensors(family, network, config, sources)
    changes = read_changes(plan.adapters, family, network, plan.variant.title)
    for part in match.parts:
        for name, tensor in read_tensors(part.file, list(part.names)):
            for target in _targets(part.names[name], match.tied):
                device = device_of(target, family.offload_prefix, plan.split, plan.placement.main)
                _place(family, network, target, changes.applied(target, tensor), device, plan.precision)
                done += tensor.numel()
            yield Progress("read", done, total, "weights", part.file.name)


def _fill_stored(
    family: Family, network: nn.Module, folder: Path, plan: LoadPlan
) -> Generator[Progress | Notice, None, None]:
    """Fill a network on the meta device from a quantized copy."""
    check_adapters(plan)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    total, done = sum(map(math.prod, shapes.values())), 0
    yield Progress("read", 0, total, "weights")
    for stored in read_stored(check_stored(folder, family, network, plan.precision), plan.precision):
        device = device_of(stored.name, family.offload_prefix, plan.split, plan.placement.main)
        if stored.scales is None:
            _place(family, network, stored.name, stored.tensor, device, plan.precision)
        else:
            outer, inner = shapes[stored.name]
            dtype = plain_dtype(plan.precision, device)
            linear = stored_linear(stored.tensor, stored.scales, (outer, inner), plan.precision, device, dtype)
            _replace_linear(network, stored.name.rpartition(".")[0], linear)
        done += math.prod(shapes[stored.name])
        yield Progress("read", done, total, "weights", stored.file)


def _targets(name: str, tied: Mapping[str, str]) -> tuple[str, ...]:
    """Where a tensor goes: to its own place and that of the tensor that equals it; a tied head is not read."""
    if name in tied.values():
        return ()
    return (name, tied[name]) if name in tied else (name,)


def _place(family: Family, network: nn.Module, name: str, tensor: Tensor, device: torch.device, precision: str) -> None:
    """Put a tensor into the network on `device`, quantized where the precision says so."""
    path, _, leaf = name.rpartition(".")
    parent = network.get_submodule(path)
    if is_quantized(family, name, parent, precision):
        _replace_linear(network, path, quantized_linear(tensor, precision, device, plain_dtype(precision, device)))
        return
    dtype = tensor_dtype(family, name, precision, device)
    setattr(parent, leaf, nn.Parameter(tensor.to(device, dtype, copy=True), requires_grad=False))


def _replace_linear(network: nn.Module, path: str, linear: nn.Linear) -> None:
    """Put a quantized linear into the place of the one at `path`, with the bias that is there."""
    outer_path, attribute = path.rsplit(".", 1)
    linear.register_parameter("bias", dict(network.get_submodule(path).named_parameters()).get("bias"))
    setattr(network.get_submodule(outer_path), attribute, linear)
