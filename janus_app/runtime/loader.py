"""A folder with a checkpoint to a model that answers: built on the meta device, checked, streamed in, quantised.

One tensor at a time travels from the memory-mapped file to its place, so host memory never holds a second copy and
a quantised load peaks near its final size.
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

from janus_app.errors import AppError, is_out_of_memory
from janus_app.files import read_weight_map
from janus_app.hub.cache import find_converted
from janus_app.models.family import Family, WeightSource
from janus_app.models.registry import detect_family, get_family
from janus_app.registry.types import Variant
from janus_app.runtime.devices import limit_threads_to_cgroup
from janus_app.runtime.fit import LoadOption, plan_load
from janus_app.runtime.malloc import set_malloc_threshold
from janus_app.runtime.offload import connect, device_of
from janus_app.runtime.quantization import is_quantised, plain_dtype, quantised_linear, tensor_dtype
from janus_app.types import Model, Progress

_SPAN = 128_000_000  # bytes read before a weight file is opened anew


@dataclass(frozen=True)
class Loaded:
    """A model and where and how its weights lie.

    device is the place's name, "cuda+cpu" for one; main the device that calculates.
    """

    model: Model
    device: str
    precision: str
    main: str = "cpu"


def expected_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor a checkpoint with this config (`Family.read_config`) must hold."""
    return {name: tuple(t.shape) for name, t in detect_family(config).meta_network(config).state_dict().items()}


def load(
    variant: Variant, folder: Path, device: str, precision: str, parts: Mapping[str, Path] | None = None
) -> Generator[Progress, None, Loaded]:
    """Load a checkpoint folder. Closing the generator drops what was loaded so far.

    device is a name devices.places knows, precision one of memory.PRECISIONS or "auto", `parts` the folders of the
    variant's components by name. Raises AppError for a device that is not there, weights that cannot fit, and
    anything wrong with the files.
    """
    set_malloc_threshold()
    limit_threads_to_cgroup()
    option = plan_load(variant, folder, device).choose(precision)
    where = option.place.main
    family = get_family(variant.family)
    config = family.read_config(folder, parts)
    network = family.meta_network(config)
    yield from _stream(family, network, family.weight_sources(network, config, folder, parts), option)
    connect(network, family.offload_prefix, option.split, where)
    model = family.pipeline(
        network,
        folder,
        context=variant.context,
        roles=variant.roles,
        edit_methods=variant.edit_methods,
        parts=parts,
    )
    return Loaded(model, option.place.name, option.precision, str(where))


def _tensors(sources: Iterable[WeightSource]) -> Iterator[tuple[Path, str, Tensor]]:
    """The file of every tensor, its name in the network, and the tensor."""
    for source in sources:
        for file in weight_files(source.path, source.stem) if source.path.is_dir() else [source.path]:
            for name, tensor in read_tensors(file, source.only):
                yield file, source.remap_key(name), tensor


def _stream(
    family: Family, network: nn.Module, sources: Iterable[WeightSource], option: LoadOption
) -> Iterator[Progress]:
    """Fill the meta network from weight files. Every tensor must come once, in its shape."""
    wanted = {name: t.shape for name, t in network.state_dict().items()}
    total = sum(shape.numel() for shape in wanted.values())
    seen: set[str] = set()
    done = 0
    yield Progress("read", 0, total, "weights")
    for file, name, tensor in _tensors(sources):
        if name.startswith(family.unused_prefixes):
            continue
        if name not in wanted or name in seen:
            raise AppError(f"{file.name} holds {name}, which this architecture {_twice(name in seen)}.")
        if tensor.shape != wanted[name]:
            raise AppError(
                f"{file.name}: {name} has shape {list(tensor.shape)}, config.json asks for "
                f"{list(wanted[name])}. {_advice(family, network, name, True)}"
            )
        device = device_of(name, family.offload_prefix, option.split, option.place.main)
        _place(family, network, name, tensor, device, option.precision)
        seen.add(name)
        done += tensor.numel()
        yield Progress("read", done, total, "weights", file.name)
    if missing := sorted(wanted.keys() - seen):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise AppError(f"The checkpoint lacks {missing[0]}{more}. {_advice(family, network, missing[0], False)}")


def _advice(family: Family, network: nn.Module, name: str, found: bool) -> str:
    """What a person can do about a tensor that has another shape, or (not `found`) is missing."""
    usual = "The files belong to different models; download the checkpoint again."
    missing = "It is incomplete; download it again."
    return family.explain_mismatch(network, name, found) or (usual if found else missing)


def _twice(seen: bool) -> str:
    return "was already given by another file" if seen else "does not have"


def _place(family: Family, network: nn.Module, name: str, tensor: Tensor, device: torch.device, precision: str) -> None:
    path, _, leaf = name.rpartition(".")
    parent = network.get_submodule(path)
    if is_quantised(family, name, parent, precision):
        holder_path, attribute = path.rsplit(".", 1)
        linear = quantised_linear(tensor, precision, device, plain_dtype(precision, device))
        linear.register_parameter("bias", dict(parent.named_parameters()).get("bias"))
        setattr(network.get_submodule(holder_path), attribute, linear)
        return
    dtype = tensor_dtype(family, name, precision, device)
    setattr(parent, leaf, nn.Parameter(tensor.to(device, dtype, copy=True), requires_grad=False))


def weight_files(folder: Path, name: str = "") -> list[Path]:
    """The weight files of a checkpoint, safetensors before pickles, an index's shards in order.

    They are called `name`, by default "model" (safetensors) or "pytorch_model" (pickles).

    Raises AppError where there are none, or an index names a file outside the folder or one that is absent.
    """
    names = {"safetensors": name or "model", "bin": name or "pytorch_model"}
    folder = (None if name else find_converted(folder)) or folder  # pickles that were converted are read no more
    for suffix, single in names.items():
        one = folder / f"{single}.{suffix}"
        if one.is_file():
            return [one]
        index = folder / f"{single}.{suffix}.index.json"
        if index.is_file():
            return _shards(index)
    raise AppError(
        f"{folder} holds no weights: neither {names['safetensors']}.safetensors nor {names['bin']}.bin, nor an index "
        "of shards. "
        "Download the checkpoint again."
    )


def _shards(index: Path) -> list[Path]:
    files = [index.with_name(name) for name in sorted(set(read_weight_map(index).values()))]
    for file in files:
        if not file.is_file():
            raise AppError("weight_index_file_missing", file=index.name, name=file.name)
    return files


def read_tensors(file: Path, only: str = "") -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, one after the other, memory-mapped; `only` one of them where it is given.

    Pickles are read with `weights_only=True` alone.

    The file is opened anew from time to time: a mapping keeps every page that was read resident, so one over the whole
    file would cost as much memory again as the file is long. Do not keep a tensor beyond its turn.
    """
    waiting: list[str] | None = [only] if only else None
    while waiting is None or waiting:
        with _mapped(file) as tensors:
            names: list[str] = list(tensors.keys()) if waiting is None else waiting
            read = 0
            while names and read < _SPAN:
                name = names.pop(0)
                with _damage(file):
                    tensor = tensors.get_tensor(name)
                read += tensor.nbytes
                yield name, tensor
                del tensor
            waiting = names


class _Pickled:
    """A pickle read by `torch.load`, with the two methods of an open safetensors file that are used here."""

    def __init__(self, state: Any) -> None:
        if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
            raise ValueError("not a table of tensors")
        self.keys, self.get_tensor = state.keys, state.__getitem__


@contextlib.contextmanager
def _mapped(file: Path) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        with _damage(file):
            if file.suffix == ".safetensors":
                tensors = stack.enter_context(safe_open(file, framework="pt", device="cpu"))
            else:
                tensors = _Pickled(torch.load(file, map_location="cpu", weights_only=True, mmap=True))
        yield tensors


@contextlib.contextmanager
def _damage(file: Path) -> Iterator[None]:
    """Failures of reading a weight file as sentences; running out of memory is none of them."""
    try:
        yield
    except pickle.UnpicklingError:
        raise AppError(
            f"{file.name} asks to run code while it is read, so it was not loaded. Use a checkpoint from its "
            "original repository, or one in safetensors."
        ) from None
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        raise AppError(f"{file.name} is damaged or incomplete. Delete it and download the checkpoint again.") from error
