"""Loads a checkpoint: the network is built on the meta device, then filled tensor by tensor, checked and quantized.

Each tensor goes from the memory-mapped file straight to its device, so main memory never contains a second copy of the
weights, and a quantized load peaks near its final size.
"""

from __future__ import annotations

import contextlib
import pickle
import re
import zipfile
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
from janus_app.hub.file_kinds import what_it_is
from janus_app.models.family import Family, WeightSource
from janus_app.models.registry import detect_family, get_family
from janus_app.runtime.devices import limit_threads_to_cgroup, under_device
from janus_app.runtime.fit import LoadPlan
from janus_app.runtime.malloc import set_malloc_threshold
from janus_app.runtime.offload import device_of, dispatch
from janus_app.runtime.quantization import is_quantized, plain_dtype, quantized_linear, tensor_dtype
from janus_app.types import Model, Notice, Progress

_MAPPED_BYTES = 128_000_000  # read before a weight file is opened again
_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Buffers that older libraries saved and that are computed from the config.
_RECOMPUTED = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "embeddings.position_ids")
_SHARD = re.compile(r"(.*?)-?(\d+)-of-(\d+)")
_NOT_WEIGHTS = ("adapter_", "training_args", "optimizer", "scheduler", "rng_state")  # beside weights, of trainers
_QUANTISED = {".qweight": "GPTQ/AWQ", ".absmax": "bitsandbytes", ".SCB": "bitsandbytes", ".weight_scale": "FP8"}
_TABLES = ("state_dict", "model_state_dict", "model", "module")  # where training tools put the tensors in a pickle


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, and the plan it was loaded by."""

    plan: LoadPlan
    model: Model


def expected_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint with this config (`Family.read_config`) must contain."""
    return {name: tuple(t.shape) for name, t in detect_family(config).meta_network(config).state_dict().items()}


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
    network = family.meta_network(config)
    yield from _fill(family, network, family.weight_sources(network, config, folder, components), plan, config)
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


@dataclass(frozen=True)
class _Part:
    """A weight file, and its tensors by their names in the network: name in the file -> name in the network."""

    file: Path
    names: Mapping[str, str]


def _parts(
    family: Family, shapes: Mapping[str, Any], sources: Iterable[WeightSource]
) -> Generator[Notice, None, list[_Part]]:
    """The weight files of all sources. What other tools add to the names of tensors is taken off, with a Notice."""
    parts, ignored = list[_Part](), 0
    for source in sources:
        files = weight_files(source.path, source.stem) if source.path.is_dir() else [source.path]
        found = list[tuple[Path, list[str]]]()
        for file in files:
            some, table = ([source.only], "") if source.only else tensor_names(file)
            found.append((file, some))
            if table:
                yield Notice(Message("weights_unwrapped", file=file.name, table=table))
        if source.path.is_dir() and not source.stem and not _has_usual_name(files[0]):
            yield Notice(Message("weights_own_name", names=", ".join(file.name for file in files)))
        names = [name for _, some in found for name in some]
        _refuse_changed_layers(source.path, names)
        kept = [name for name in names if not name.endswith(_RECOMPUTED) or source.remap_key(name) in shapes]
        ignored += len(names) - len(kept)
        prefix = _common_prefix(family, shapes, source, kept)

        def rename(name: str, source: WeightSource = source, prefix: str = prefix) -> str:
            plain = source.remap_key(name.removeprefix(prefix))
            return plain if plain in shapes else source.remap_key(_WRAPPERS.sub("", name.removeprefix(prefix)))

        if prefix or any(_WRAPPERS.search(name) for name in kept):
            yield Notice(Message("weights_prefix_removed", prefix=prefix or "_orig_mod."))
        wanted = set(kept)
        parts += [_Part(file, {name: rename(name) for name in some if name in wanted}) for file, some in found]
    if ignored:
        yield Notice(Message("weights_buffers_ignored", count=ignored))
    return parts


def _has_usual_name(file: Path) -> bool:
    usual = {".safetensors": "model", ".bin": "pytorch_model"}.get(file.suffix)
    return file.stem == usual or file.with_name(f"{usual}{file.suffix}.index.json").is_file()


def _refuse_changed_layers(path: Path, names: Iterable[str]) -> None:
    """Raises AppError where layers are quantised, or a LoRA lies beside them."""
    for name in names:
        if ".lora_A." in name or ".lora_B." in name:
            raise AppError("checkpoint_lora_unmerged", folder=path, name=name)
        for end, method in _QUANTISED.items():
            if name.endswith(end):
                raise AppError("checkpoint_quantized", folder=path, method=method)


def _common_prefix(family: Family, shapes: Mapping[str, Any], source: WeightSource, names: list[str]) -> str:
    """The shortest beginning that all names share and without which most of them are the network's."""

    def matches(prefix: str) -> int:
        plain = (source.remap_key(_WRAPPERS.sub("", name.removeprefix(prefix))) for name in names)
        return sum(name in shapes or name.startswith(family.unused_prefixes) for name in plain)

    prefixes, pieces = [""], (names[0] if names else "").split(".")[:-1]
    for piece in pieces:
        longer = f"{prefixes[-1]}{piece}."
        if not all(name.startswith(longer) for name in names):
            break
        prefixes.append(longer)
    return max(prefixes, key=matches)


def _fill(
    family: Family, network: nn.Module, sources: Iterable[WeightSource], plan: LoadPlan, config: Mapping[str, Any]
) -> Iterator[Progress | Notice]:
    """Fill a network on the meta device. Every tensor must come exactly once and in its shape."""
    shapes = {name: t.shape for name, t in network.state_dict().items()}
    total = sum(shape.numel() for shape in shapes.values())
    loaded: set[str] = set()
    done = 0
    yield Progress("read", 0, total, "weights")
    parts = yield from _parts(family, shapes, sources)
    present = {name for part in parts for name in part.names.values()}
    tied = {source: head for head, source in family.tied(config).items() if head not in present}
    if tied:
        yield Notice(Message("weights_head_tied", name=", ".join(tied.values())))
    for file, name, tensor in _tensors(parts):
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
        for target in (name, tied[name]) if name in tied else (name,):
            device = device_of(target, family.offload_prefix, plan.split, plan.placement.main)
            _place(family, network, target, tensor, device, plan.precision)
            loaded.add(target)
            done += tensor.numel()
        yield Progress("read", done, total, "weights", file.name)
    if missing := sorted(shapes.keys() - loaded):
        advice = family.explain_mismatch(network, missing[0], False) or Message("checkpoint_incomplete")
        raise AppError("weights_tensors_missing", name=missing[0], count=len(missing), advice=advice)


def _tensors(parts: Iterable[_Part]) -> Iterator[tuple[Path, str, Tensor]]:
    """The file of every tensor, its name in the network, and the tensor."""
    for part in parts:
        for name, tensor in read_tensors(part.file, list(part.names)):
            yield part.file, part.names[name], tensor


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
    return other_weight_files(folder) or _no_weights(folder, names)


def other_weight_files(folder: Path) -> list[Path]:
    """The weights of a folder under names of their own: one file, or all shards of one set without an index.

    Raises AppError where a shard is missing, or several files might be meant.
    """
    for suffixes in ((".safetensors",), (".bin", ".pt", ".pth", ".ckpt")):
        files = sorted(path for path in folder.iterdir() if path.suffix in suffixes and path.is_file())
        files = [path for path in files if not path.name.startswith((".", *_NOT_WEIGHTS))]
        if not files:
            continue
        numbers = [_SHARD.fullmatch(path.stem) for path in files]
        if all(numbers) and len({(n[1], n[3]) for n in numbers if n}) == 1:
            count = int(numbers[0][3]) if numbers[0] else 0
            present = {int(n[2]) for n in numbers if n}
            if lacking := sorted(set(range(1, count + 1)) - present):
                raise AppError("weights_shard_missing", folder=folder, number=lacking[0], count=count)
            return files
        if len(files) > 1:
            raise AppError("weights_ambiguous", folder=folder, names=", ".join(path.name for path in files[:6]))
        return files
    return []


def _no_weights(folder: Path, names: Mapping[str, str]) -> list[Path]:
    raise AppError("weights_missing", folder=folder, safetensors=names["safetensors"], pickle=names["bin"])


def _shards(index: Path) -> list[Path]:
    files = [index.with_name(name) for name in sorted(set(read_weight_map(index).values()))]
    for file in files:
        if not file.is_file():
            raise AppError("weight_index_file_missing", file=index.name, name=file.name)
    return files


def tensor_names(file: Path) -> tuple[list[str], str]:
    """The names of the tensors in a weight file, and the name of the table in a pickle that contains them, "" for none.

    Raises AppError for a damaged file.
    """
    with _mapped(file) as tensors:
        return list(tensors.keys()), getattr(tensors, "table", "")


def read_tensors(file: Path, only: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the memory-mapped tensor of every tensor of a weight file, or of `only` some of them.

    Pickles are read with `weights_only=True`. Every 128 MB the file is opened again: a mapping keeps every page that
    was read in memory, so one mapping of the whole file would cost as much memory as the file is long. For the same
    reason do not keep a tensor after the next one is asked for. Raises AppError for a damaged file.
    """
    remaining = None if only is None else list(only)
    limit = _MAPPED_BYTES if file.suffix == ".safetensors" or zipfile.is_zipfile(file) else float("inf")
    while remaining is None or remaining:
        with _mapped(file) as tensors:
            remaining = list(tensors.keys()) if remaining is None else remaining
            read = 0
            while remaining and read < limit:
                name = remaining.pop(0)
                with _damage_as_app_error(file):
                    tensor = tensors.get_tensor(name)
                read += tensor.nbytes
                yield name, tensor
                del tensor


class _Pickled:
    """A pickle read by `torch.load`, with the methods of an open safetensors file that are used here."""

    def __init__(self, state: Any) -> None:
        self.table = ""
        while isinstance(state, dict) and (table := next((t for t in _TABLES if isinstance(state.get(t), dict)), "")):
            self.table, state = table, state[table]
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
                zipped = zipfile.is_zipfile(file)  # pickles of PyTorch before 1.6 are no zip files and cannot be mapped
                tensors = _Pickled(torch.load(file, map_location="cpu", weights_only=True, mmap=zipped))
        yield tensors


@contextlib.contextmanager
def _damage_as_app_error(file: Path) -> Iterator[None]:
    """Turn a failure to read a weight file into an AppError, but not running out of memory."""
    try:
        yield
    except pickle.UnpicklingError:
        raise what_it_is(file) or AppError("weights_pickle_runs_code", file=file.name) from None
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        raise what_it_is(file) or AppError("weights_damaged", file=file.name) from error
