"""Loads a checkpoint: the network is built on the meta device, then filled tensor by tensor, checked and quantized.

Each tensor goes from the memory-mapped file straight to its device, so main memory never contains a second copy of the
weights, and a quantized load peaks near its final size.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from janus_app.errors import AppError, Message, is_out_of_memory
from janus_app.files import read_weight_map
from janus_app.hub.cache import find_converted
from janus_app.models.family import Family, WeightSource
from janus_app.models.registry import detect_family, get_family
from janus_app.runtime.devices import limit_threads_to_cgroup, under_device
from janus_app.runtime.fit import LoadPlan
from janus_app.runtime.malloc import set_malloc_threshold
from janus_app.runtime.offload import device_of, dispatch
from janus_app.runtime.quantization import is_quantized, plain_dtype, quantized_linear, tensor_dtype
from janus_app.types import Model, Progress

_MAPPED_BYTES = 128_000_000  # read before a weight file is opened again


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, and the plan it was loaded by."""

    plan: LoadPlan
    model: Model


def expected_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint with this config (`Family.read_config`) must contain."""
    return {name: tuple(t.shape) for name, t in detect_family(config).meta_network(config).state_dict().items()}


def load(plan: LoadPlan) -> Generator[Progress, None, LoadedModel]:
    """Load the checkpoint in `plan.folder`. Closing the generator drops what was loaded so far.

    Progress counts parameters. Raises AppError for anything wrong with the files.
    """
    return (yield from under_device(plan.placement.main, _load(plan)))


def _load(plan: LoadPlan) -> Generator[Progress, None, LoadedModel]:
    assert plan.folder is not None
    set_malloc_threshold()
    limit_threads_to_cgroup()
    variant, folder, components = plan.variant, plan.folder, plan.components
    family = get_family(variant.family)
    config = family.read_config(folder, components) if plan.config is None else plan.config
    network = family.meta_network(config)
    yield from _fill(family, network, family.weight_sources(network, config, folder, components), plan)
    dispatch(network, family.offload_prefix, plan.split, plan.placement.main)
    model = family.pipeline(
        network,
        folder,
        context=variant.context,
        roles=variant.roles,
        edit_methods=variant.edit_methods,
        parts=components,
    )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # of the weights that were fused
    return LoadedModel(plan, model)


def _tensors(sources: Iterable[WeightSource]) -> Iterator[tuple[Path, str, Tensor]]:
    """The file of every tensor, its name in the network, and the tensor."""
    for source in sources:
        for file in weight_files(source.path, source.stem) if source.path.is_dir() else [source.path]:
            for name, tensor in read_tensors(file, source.only):
                yield file, source.remap_key(name), tensor


def _fill(family: Family, network: nn.Module, sources: Iterable[WeightSource], plan: LoadPlan) -> Iterator[Progress]:
    """Fill a network on the meta device. Every tensor must come exactly once and in its shape."""
    shapes = {name: t.shape for name, t in network.state_dict().items()}
    total = sum(shape.numel() for shape in shapes.values())
    loaded: set[str] = set()
    done = 0
    yield Progress("read", 0, total, "weights")
    for file, name, tensor in _tensors(sources):
        if name.startswith(family.unused_prefixes):
            continue
        if name in loaded:
            raise AppError("weights_tensor_repeated", file=file.name, name=name)
        if name not in shapes:
            raise AppError("weights_tensor_unknown", file=file.name, name=name)
        if tensor.shape != shapes[name]:
            raise AppError(
                "weights_shape_differs",
                file=file.name,
                name=name,
                found=list(tensor.shape),
                expected=list(shapes[name]),
                advice=family.explain_mismatch(network, name, True) or Message("checkpoint_files_mixed"),
            )
        device = device_of(name, family.offload_prefix, plan.split, plan.placement.main)
        _place(family, network, name, tensor, device, plan.precision)
        loaded.add(name)
        done += tensor.numel()
        yield Progress("read", done, total, "weights", file.name)
    if missing := sorted(shapes.keys() - loaded):
        advice = family.explain_mismatch(network, missing[0], False) or Message("checkpoint_incomplete")
        raise AppError("weights_tensors_missing", name=missing[0], count=len(missing), advice=advice)


def _place(family: Family, network: nn.Module, name: str, tensor: Tensor, device: torch.device, precision: str) -> None:
    """Put a tensor into the network on `device`, quantized where the precision says so."""
    path, _, leaf = name.rpartition(".")
    parent = network.get_submodule(path)
    if is_quantized(family, name, parent, precision):
        outer_path, attribute = path.rsplit(".", 1)
        linear = quantized_linear(tensor, precision, device, plain_dtype(precision, device))
        linear.register_parameter("bias", dict(parent.named_parameters()).get("bias"))
        setattr(network.get_submodule(outer_path), attribute, linear)
        return
    dtype = tensor_dtype(family, name, precision, device)
    setattr(parent, leaf, nn.Parameter(tensor.to(device, dtype, copy=True), requires_grad=False))


def weight_files(folder: Path, name: str = "") -> list[Path]:
    """The weight files of a checkpoint: safetensors if there are any, else pickles, the shards of an index in order.

    `name` is their name without suffix, by default "model" (safetensors) or "pytorch_model" (pickles). A converted copy
    is taken instead of the pickles it was made from. Raises AppError where there are none, or an index names a file
    outside the folder or a missing one.
    """
    names = {"safetensors": name or "model", "bin": name or "pytorch_model"}
    folder = (None if name else find_converted(folder)) or folder
    for suffix, single in names.items():
        one = folder / f"{single}.{suffix}"
        if one.is_file():
            return [one]
        index = folder / f"{single}.{suffix}.index.json"
        if index.is_file():
            return _shards(index)
    raise AppError("weights_missing", folder=folder, safetensors=names["safetensors"], pickle=names["bin"])


def _shards(index: Path) -> list[Path]:
    files = [index.with_name(name) for name in sorted(set(read_weight_map(index).values()))]
    for file in files:
        if not file.is_file():
            raise AppError("weight_index_file_missing", file=index.name, name=file.name)
    return files


def read_tensors(file: Path, only: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the memory-mapped tensor of every tensor of a weight file, or of `only` one of them.

    Pickles are read with `weights_only=True`. Every 128 MB the file is opened again: a mapping keeps every page that
    was read in memory, so one mapping of the whole file would cost as much memory as the file is long. For the same
    reason do not keep a tensor after the next one is asked for. Raises AppError for a damaged file.
    """
    remaining: list[str] | None = [only] if only else None
    while remaining is None or remaining:
        with _mapped(file) as tensors:
            remaining = list(tensors.keys()) if remaining is None else remaining
            read = 0
            while remaining and read < _MAPPED_BYTES:
                name = remaining.pop(0)
                with _damage_as_app_error(file):
                    tensor = tensors.get_tensor(name)
                read += tensor.nbytes
                yield name, tensor
                del tensor


class _Pickled:
    """A pickle read by `torch.load`, with the methods of an open safetensors file that are used here."""

    def __init__(self, state: Any) -> None:
        if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
            raise ValueError("not a table of tensors")
        self.keys, self.get_tensor = state.keys, state.__getitem__


@contextlib.contextmanager
def _mapped(file: Path) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        with _damage_as_app_error(file):
            if file.suffix == ".safetensors":
                tensors = stack.enter_context(safe_open(file, framework="pt", device="cpu"))
            else:
                tensors = _Pickled(torch.load(file, map_location="cpu", weights_only=True, mmap=True))
        yield tensors


@contextlib.contextmanager
def _damage_as_app_error(file: Path) -> Iterator[None]:
    """Turn a failure to read a weight file into an AppError, but not running out of memory."""
    try:
        yield
    except pickle.UnpicklingError:
        raise AppError("weights_pickle_runs_code", file=file.name) from None
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        raise AppError("weights_damaged", file=file.name) from error
