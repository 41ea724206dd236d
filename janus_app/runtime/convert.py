"""Pickled weights to safetensors, once: read with weights_only, written in parts, compared byte for byte.

Nothing of a pickle is ever executed: torch.load(weights_only=True) builds tensors and refuses everything else. The
pickles are memory-mapped and written a gigabyte at a time, so memory holds no more than that.
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

from janus_app.errors import AppError
from janus_app.hub import RESERVE, Hub
from janus_app.hub.converted import RECORD, converted_folder, pickles, stamp, usable
from janus_app.hub.download import check_room
from janus_app.hub.errors import explain_disk
from janus_app.hub.progress import ProgressReporter, hash_file
from janus_app.registry.types import Variant
from janus_app.runtime.loader import read_tensors
from janus_app.types import Progress

PART = 1_000_000_000  # bytes of tensors in one written file, unless a single tensor is larger


def convert_variant(hub: Hub, variant: Variant) -> Generator[Progress, None, Path]:
    """Make the variant's files present and verified, then convert them. Returns the folder of the new files."""
    folder = yield from hub.fetch(variant)
    done = yield from convert(folder)
    hub.trust_converted(folder)
    return done


def convert(folder: Path, part: int = PART, reserve: int = RESERVE) -> Generator[Progress, None, Path]:
    """Write the safetensors copy of a checkpoint folder's pickles; the loader uses it from then on.

    Progress counts bytes three times: written, compared, hashed. Closing the generator removes what was written.
    Raises AppError where there are no pickles, one of them asks for more than tensors, or the disk is too small.
    """
    sources = pickles(folder)
    if not sources:
        raise AppError(f"{folder} holds no pickled weights, so there is nothing to convert.")
    if (there := usable(folder)) is not None:
        return there
    target = converted_folder(folder)
    meter = ProgressReporter(stage="convert")
    yield from meter.report(force=True)
    stamps = {source.name: stamp(source) for source in sources}
    groups = list(_groups(_sizes(sources), part))
    total = sum(sum(group.values()) for group in groups)
    meter.total = 3 * total
    work = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        check_room(target.parent, total, reserve)
        target.parent.mkdir(parents=True, exist_ok=True)
        for stale in target.parent.glob(f"{target.name}.*.part"):
            shutil.rmtree(stale, ignore_errors=True)
        work.mkdir()
        homes = yield from _write(sources, groups, work, meter)
        yield from _compare(sources, homes, meter)
        facts = {}
        for file in sorted(set(homes.values())):
            meter.label = file.name
            digest = yield from hash_file(file, meter)
            facts[file.name] = {"size": digest.size, "sha256": digest.sha256}
        record = {"format": 1, "from": stamps, "files": facts}
        (work / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(work, target)
    except OSError as error:
        raise explain_disk(error, target.parent, total) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    meter.done = meter.total
    meter.label = ""
    yield from meter.report(force=True)
    return target


def _sizes(sources: Sequence[Path]) -> dict[str, int]:
    """Bytes of each tensor by name, in the pickles' order; reads no tensor."""
    sizes: dict[str, int] = {}
    for source in sources:
        for name, tensor in read_tensors(source):
            if name in sizes:
                raise AppError(f"{source.name} holds {name}, which another file holds too. Download it again.")
            sizes[name] = tensor.nbytes
    return sizes


def _groups(sizes: dict[str, int], part: int) -> Iterator[dict[str, int]]:
    """Names in order, as many at a time as fit into `part` bytes."""
    group: dict[str, int] = {}
    for name, size in sizes.items():
        if group and sum(group.values()) + size > part:
            yield group
            group = {}
        group[name] = size
    if group:
        yield group


def _write(
    sources: Sequence[Path], groups: Sequence[dict[str, int]], work: Path, meter: ProgressReporter
) -> Generator[Progress, None, dict[str, Path]]:
    """One file a group, each on disk before the next is read. Returns the file of each tensor."""
    single = len(groups) == 1
    homes: dict[str, Path] = {}
    for number, group in enumerate(groups, start=1):
        file = work / ("model.safetensors" if single else f"model-{number:05d}-of-{len(groups):05d}.safetensors")
        homes |= dict.fromkeys(group, file)
    held: dict[str, Tensor] = {}
    for source in sources:
        for name, tensor in read_tensors(source):
            meter.label = homes[name].name
            # Tied tensors share memory in a pickle, which safetensors does not know: each gets its own bytes.
            held[name] = tensor.clone(memory_format=torch.contiguous_format)
            meter.done += tensor.nbytes
            yield from meter.report()
            if len(held) == len(groups[0]):
                save_file(held, homes[name], metadata={"format": "pt"})
                with homes[name].open("rb") as written:
                    os.fsync(written.fileno())
                held, groups = {}, groups[1:]
    if not single:
        index = {
            "metadata": {"total_size": meter.done},
            "weight_map": {name: file.name for name, file in homes.items()},
        }
        (work / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return homes


def _compare(sources: Sequence[Path], homes: dict[str, Path], meter: ProgressReporter) -> Iterator[Progress]:
    """Every name, shape, type and byte of what was written, read anew, against the pickles."""
    count = 0
    with contextlib.ExitStack() as stack:
        opened: Path | None = None
        written: Any = None
        for source in sources:
            for name, theirs in read_tensors(source):
                meter.label = homes[name].name
                if homes[name] != opened:
                    stack.close()
                    opened = homes[name]
                    written = stack.enter_context(safe_open(opened, framework="pt", device="cpu"))
                    count += len(written.keys())
                mine = written.get_tensor(name) if name in written.keys() else None  # noqa: SIM118 - not a dict
                if mine is None or not _same(mine, theirs):
                    raise AppError(
                        f"The converted {name} differs from the pickle, so nothing was kept. Check disk and memory, "
                        "then try again."
                    )
                meter.done += theirs.nbytes
                yield from meter.report()
    if count != len(homes):
        raise AppError("The converted files hold more or less than the pickles, so nothing was kept. Try again.")


def _same(one: Tensor, other: Tensor) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    raw = [tensor.contiguous().flatten().view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*raw)
