"""Saves a checkpoint again: in another layout, with adapters merged into it, or quantized.

The tensors stream from the old files to the new ones, so memory holds no more than one new file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from janus_app.errors import AppError, Message
from janus_app.files import os_errors_as_app_errors
from janus_app.hub import RESERVE, Hub
from janus_app.hub.cache import check_free_space
from janus_app.hub.progress import ProgressReporter
from janus_app.hub.verify import hash_file
from janus_app.models.common.weight_files import WEIGHT_SUFFIXES
from janus_app.models.family import Family, Layout, Parts
from janus_app.models.registry import get_family
from janus_app.registry.checkpoint_folder import COPY_RECORD
from janus_app.registry.types import Variant
from janus_app.runtime.adapters import WEIGHTS, Adapter, Changes, read_changes
from janus_app.runtime.quantization import is_quantized, quantized_weight
from janus_app.runtime.stored_copy import SCALES, saved_precision
from janus_app.runtime.tensor_files import read_tensors
from janus_app.runtime.tensor_match import Match, match_tensors
from janus_app.types import Notice, Progress
from janus_app.version import __version__

PART = 2_000_000_000  # bytes of tensors in one file, unless a single tensor is larger
_SMALL_FILE = 50_000_000  # bytes; larger files beside the weights are not a part of the checkpoint


@dataclass(frozen=True)
class CopyOptions:
    """How a copy differs from its checkpoint.

    layout: a name of `Family.layouts`. precision: "int8" or "nf4", in the original layout alone; "" keeps the numbers,
    for a family that has layouts.
    adapters: merged into the weights, before they are quantized.
    """

    layout: str = "original"
    precision: str = ""
    adapters: tuple[Adapter, ...] = ()


def save_copy(
    hub: Hub, variant: Variant, target: Path, options: CopyOptions, *, part: int = PART, reserve: int = RESERVE
) -> Generator[Progress | Notice, None, Path]:
    """Write a copy of the variant into the folder `target`, which must be empty or new; returns it.

    The variant's files are fetched and verified first. Progress counts bytes read, then hashed. Closing the generator
    removes what was written. Raises AppError.
    """
    family = get_family(variant.family)
    layout = _layout(family, options)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise AppError("copy_target_not_empty", folder=target)
    if options.precision and options.layout != "original":
        raise AppError("copy_quantized_layout", layout=options.layout)
    folder = yield from hub.fetch(variant)
    if saved_precision(folder):
        raise AppError("copy_of_quantized_copy", folder=folder)
    files = layout.files(folder)  # refuses what the layout cannot describe before anything is written
    parts = hub.part_folders(variant)
    places = {"": folder, **(family.copied_parts(folder, parts) if family.copied_parts else {})}
    work = target.with_name(f"{target.name}.{os.getpid()}.part")
    with os_errors_as_app_errors(Message("copy_not_saved"), target.parent):
        try:
            work.mkdir(parents=True)
            written = yield from _write_weights(family, variant, folder, parts, layout, options, work, part, reserve)
            _write_small_files(places, files, work)
            _write_record(variant, options, written, work)
            with contextlib.suppress(FileNotFoundError):
                target.rmdir()
            os.replace(work, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


def _layout(family: Family, options: CopyOptions) -> Layout:
    """The layout of a copy. Raises AppError where the family has none of that name."""
    known = family.layouts()
    if options.layout in known:
        return known[options.layout]
    if family.copied_parts is None or options.layout != "original":
        raise AppError("copy_layout_unknown", family=family.title, given=options.layout, known=", ".join(known) or "-")
    if not options.precision:
        raise AppError("copy_quantized_alone", family=family.title)
    return Layout(iter, lambda folder: {})  # as `stored_copy` reads it


def _write_weights(
    family: Family,
    variant: Variant,
    folder: Path,
    parts: Parts,
    layout: Layout,
    options: CopyOptions,
    work: Path,
    part: int,
    reserve: int,
) -> Generator[Progress | Notice, None, dict[str, Any]]:
    """Write the weight files. Returns size and hash of each by its name."""
    config = family.read_config(folder, parts)
    network = family.meta_network(config)
    match = yield from match_tensors(family, network, config, family.weight_sources(network, config, folder, parts))
    changes = read_changes(options.adapters, family, network, variant.title)
    total = sum(one.file.stat().st_size for one in match.parts)
    check_free_space(work, total, reserve)
    reporter = ProgressReporter(stage="convert", total=2 * total, passes=2)
    yield from reporter.report(force=True)
    writer = _Writer(work, part)
    for name, tensor in layout.tensors(_tensors(match, changes, reporter)):
        for stored, part_of_it in _stored(family, network, name, tensor, options.precision):
            writer.add(stored, part_of_it)
        yield from reporter.report()
    facts = {}
    for file in writer.close():
        reporter.label = file.name
        digest = yield from hash_file(file, reporter)
        facts[file.name] = {"size": digest.size, "sha256": digest.sha256}
    reporter.done, reporter.label = reporter.total, ""
    yield from reporter.report(force=True)
    return facts


def _stored(
    family: Family, network: nn.Module, name: str, tensor: Tensor, precision: str
) -> Iterator[tuple[str, Tensor]]:
    """A tensor as the copy stores it: a layer that becomes int8 or nf4 with its scales (`stored_copy`)."""
    layer = name.removesuffix(".weight")
    if name.startswith(family.quantized_prefix) and is_quantized(
        family, name, network.get_submodule(layer if layer != name else name.rpartition(".")[0]), precision
    ):
        data, scales = quantized_weight(tensor, precision, torch.device("cpu"), torch.float32)
        yield name, data
        yield f"{layer}.{SCALES[precision]}", scales.float()
    else:
        yield name, tensor


def _tensors(match: Match, changes: Changes, reporter: ProgressReporter) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the network, from its file, with the adapters; a tied one under both of its names."""
    for one in match.parts:
        reporter.label = one.file.name
        for name, tensor in read_tensors(one.file, list(one.names)):
            ours = one.names[name]
            reporter.done += tensor.nbytes
            for target in (ours, *([match.tied[ours]] if ours in match.tied else [])):
                yield target, changes.applied(target, tensor).to(tensor.dtype)


class _Writer:
    """Safetensors files of at most `part` bytes, with the index that names them."""

    def __init__(self, folder: Path, part: int) -> None:
        self._folder, self._part = folder, part
        self._tensors: dict[str, Tensor] = {}
        self._files: list[tuple[Path, list[str]]] = []
        self._bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        if self._tensors and sum(one.nbytes for one in self._tensors.values()) + tensor.nbytes > self._part:
            self._flush()
        self._tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
        self._bytes += tensor.nbytes

    def _flush(self) -> None:
        file = self._folder / f"model-{len(self._files) + 1:05d}.safetensors"
        save_file(self._tensors, file, metadata={"format": "pt"})
        with file.open("rb") as written:
            os.fsync(written.fileno())
        self._files.append((file, list(self._tensors)))
        self._tensors = {}

    def close(self) -> list[Path]:
        """Write what is left and the index; returns the files under their last names."""
        self._flush()
        if len(self._files) == 1:
            return [self._files[0][0].rename(self._folder / "model.safetensors")]
        weight_map, files = {}, []
        for number, (file, names) in enumerate(self._files, start=1):
            files.append(file.rename(self._folder / f"model-{number:05d}-of-{len(self._files):05d}.safetensors"))
            weight_map.update(dict.fromkeys(names, files[-1].name))
        index = {"metadata": {"total_size": self._bytes}, "weight_map": weight_map}
        (self._folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        return files


def _write_small_files(places: Mapping[str, Path], files: Mapping[str, Mapping[str, Any]], work: Path) -> None:
    """The JSON files of the layout, and what else lies beside the weights: tokenizer, licence, model card.

    places: the folders that it comes from, by their places in the copy; "" is the checkpoint's, without subfolders.
    """
    for place, folder in places.items():
        for file in sorted(folder.rglob("*") if place else folder.iterdir()):
            own = file.name.startswith(".") or file.name == COPY_RECORD or file.name.endswith(".index.json")
            if own or not file.is_file() or file.suffix in WEIGHT_SUFFIXES or file.stat().st_size > _SMALL_FILE:
                continue
            target = work / place / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    for name, content in files.items():
        (work / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _write_record(variant: Variant, options: CopyOptions, written: Mapping[str, Any], work: Path) -> None:
    """Where the copy comes from and what was changed."""
    record = {
        "format": 1,
        "app": __version__,
        "from": {"model": variant.id, "repo": variant.repo, "revision": variant.revision},
        "components": {role: {"repo": one.repo, "revision": one.revision} for role, one in variant.components.items()},
        "licence": variant.weights_licence,
        "layout": options.layout,
        "precision": options.precision,
        "adapters": [
            {"name": one.name, "strength": one.strength, "sha256": _sha256(one.folder / WEIGHTS)}
            for one in options.adapters
        ],
        "files": written,
    }
    (work / COPY_RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
