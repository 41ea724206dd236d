"""Pickled weights to safetensors: read with weights_only, written in parts, compared byte for byte.

No code of a pickle is executed: torch.load(weights_only=True) builds tensors and refuses everything else. The pickles
are memory-mapped and written one part at a time, so memory holds no more than a part.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from janus_app.errors import AppError, Message
from janus_app.files import os_errors_as_app_errors
from janus_app.hub import RESERVE, Hub
from janus_app.hub.cache import (
    CONVERSION_RECORD,
    check_free_space,
    converted_folder,
    find_converted,
    pickle_files,
    size_and_time,
)
from janus_app.hub.progress import ProgressReporter
from janus_app.hub.verify import hash_file
from janus_app.models.common.weight_files import find_weights
from janus_app.registry.types import Variant
from janus_app.runtime.tensor_files import files_that_belong_together, read_header, read_tensors
from janus_app.types import Notice, Progress

PART = 1_000_000_000  # bytes of tensors in one written file, unless a single tensor is larger


def convert_variant(hub: Hub, variant: Variant) -> Generator[Progress | Notice, None, Path]:
    """Make the variant's files present and verified, then convert them. Returns the folder of the new files."""
    folder = yield from hub.fetch(variant)
    copy = yield from convert(folder)
    hub.mark_converted_verified(folder)
    return copy


def convert(folder: Path, part: int = PART, reserve: int = RESERVE) -> Generator[Progress | Notice, None, Path]:
    """Write the safetensors copy of a checkpoint folder's pickles; the loader uses it from then on.

    Each byte is written, compared and hashed; progress counts a third of it each time. Closing the generator removes
    what was written.
    Raises AppError if there are no pickles, one of them asks for more than tensors, or the disk is too small.
    """
    sources = pickle_files(folder)
    if not sources:
        raise AppError("convert_no_pickles", folder=folder)
    if (existing := find_converted(folder)) is not None:
        return existing
    target = converted_folder(folder)
    stamps = {source.name: size_and_time(source) for source in sources}
    headers = files_that_belong_together(sources, folder) if find_weights(folder).loose else map(read_header, sources)
    sources = []
    for header in headers:
        if header.table and not sources:
            yield Notice(Message("weights_unwrapped", file=header.file.name, table=header.table))
        sources.append(header.file)
    reporter = ProgressReporter(stage="convert", passes=3)
    yield from reporter.report(force=True)
    groups = list(_groups(_sizes(sources), part))
    total = sum(sum(group.values()) for group in groups)
    reporter.total = 3 * total
    work = target.with_name(f"{target.name}.{os.getpid()}.part")
    with os_errors_as_app_errors(Message("weights_not_converted"), target.parent):
        try:
            check_free_space(target.parent, total, reserve)
            target.parent.mkdir(parents=True, exist_ok=True)
            for stale in target.parent.glob(f"{target.name}.*.part"):
                shutil.rmtree(stale, ignore_errors=True)
            work.mkdir()
            files = yield from _write(sources, groups, work, reporter)
            yield from _compare(sources, files, reporter)
            facts = {}
            for file in sorted(set(files.values())):
                reporter.label = file.name
                digest = yield from hash_file(file, reporter)
                facts[file.name] = {"size": digest.size, "sha256": digest.sha256}
            record = {"format": 1, "from": stamps, "files": facts}
            (work / CONVERSION_RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
            shutil.rmtree(target, ignore_errors=True)
            os.replace(work, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    reporter.done, reporter.label = reporter.total, ""
    yield from reporter.report(force=True)
    return target


def _sizes(sources: Sequence[Path]) -> dict[str, int]:
    """Bytes of each tensor by name, in the order of the pickles; reads no tensor."""
    sizes: dict[str, int] = {}
    for source in sources:
        for name, tensor in read_tensors(source):
            if name in sizes:
                raise AppError("convert_tensor_twice", file=source.name, name=name)
            sizes[name] = tensor.nbytes
    return sizes


def _groups(sizes: dict[str, int], part: int) -> Iterator[dict[str, int]]:
    """The tensors in order, as many at a time as fit into `part` bytes."""
    group: dict[str, int] = {}
    for name, size in sizes.items():
        if group and sum(group.values()) + size > part:
            yield group
            group = {}
        group[name] = size
    if group:
        yield group


def _write(
    sources: Sequence[Path], groups: Sequence[dict[str, int]], work: Path, reporter: ProgressReporter
) -> Generator[Progress, None, dict[str, Path]]:
    """Write one file per group, each to disk before the next is read. Returns the file of each tensor."""
    single = len(groups) == 1
    files: dict[str, Path] = {}
    for number, group in enumerate(groups, start=1):
        file = work / ("model.safetensors" if single else f"model-{number:05d}-of-{len(groups):05d}.safetensors")
        files |= dict.fromkeys(group, file)
    tensors: dict[str, Tensor] = {}
    for source in sources:
        for name, tensor in read_tensors(source):
            reporter.label = files[name].name
            # Tied tensors share memory in a pickle, which safetensors does not know: each gets its own bytes.
            tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
            reporter.done += tensor.nbytes
            yield from reporter.report()
            if len(tensors) == len(groups[0]):
                save_file(tensors, files[name], metadata={"format": "pt"})
                with files[name].open("rb") as written:
                    os.fsync(written.fileno())
                tensors, groups = {}, groups[1:]
    if not single:
        index = {
            "metadata": {"total_size": reporter.done},
            "weight_map": {name: file.name for name, file in files.items()},
        }
        (work / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return files


def _compare(sources: Sequence[Path], files: dict[str, Path], reporter: ProgressReporter) -> Iterator[Progress]:
    """Read back what was written and compare each name, shape, dtype and byte with the pickles."""
    count = 0
    with contextlib.ExitStack() as stack:
        opened: Path | None = None
        written: Any = None
        for source in sources:
            for name, original in read_tensors(source):
                reporter.label = files[name].name
                if files[name] != opened:
                    stack.close()
                    opened = files[name]
                    written = stack.enter_context(safe_open(opened, framework="pt", device="cpu"))
                    count += len(written.keys())
                copy = written.get_tensor(name) if name in written.keys() else None  # noqa: SIM118 - not a dict
                if copy is None or not _same(copy, original):
                    raise AppError("convert_tensor_differs", name=name)
                reporter.done += original.nbytes
                yield from reporter.report()
    if count != len(files):
        raise AppError("convert_tensor_count_differs")


def _same(one: Tensor, other: Tensor) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    raw = [tensor.contiguous().flatten().view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*raw)
