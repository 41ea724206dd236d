"""The tensors of weight files by their names in the network: what other tools add to names is taken off, with a notice.

Names, types and shapes are compared before any tensor is read.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from janus_app.errors import AppError, Message
from janus_app.hub.cache import find_converted
from janus_app.models.common.tensor_kinds import refuse_changed_layers
from janus_app.models.common.weight_files import WeightFiles, find_weights, is_adapter_file, weight_candidates
from janus_app.models.family import Family, WeightSource
from janus_app.models.registry import architecture_of
from janus_app.runtime.tensor_files import TensorFile, files_that_belong_together, read_header
from janus_app.types import Notice

# What wrappers of layers add in the middle of a name: compilation, sharding, recomputation, data parallelism.
_WRAPPERS = re.compile(
    r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|module)\."
)
# Buffers that older libraries saved and that are computed from the config.
_RECOMPUTED = re.compile(
    r"(^|\.)(rotary(_pos)?_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)|embeddings\.position_ids"
    r"|self_attn\.(masked_)?bias|causal_mask)$"
)


@dataclass(frozen=True)
class Part:
    """A weight file, and its tensors by their names in the network: name in the file -> name in the network."""

    file: Path
    names: Mapping[str, str]


@dataclass(frozen=True)
class Match:
    """Where each tensor of the network is read. tied: the tensor that is read -> the one that equals it."""

    parts: Sequence[Part]
    tied: Mapping[str, str]


def weight_files(folder: Path, name: str = "") -> list[Path]:
    """The weight files of a checkpoint (`find_weights`); a converted copy in place of the pickles it was made from."""
    return list(_files_of(folder, name).files)


def _files_of(folder: Path, name: str) -> WeightFiles:
    return find_weights((None if name else find_converted(folder)) or folder, name)


def match_tensors(
    family: Family, network: nn.Module, config: Mapping[str, Any], sources: Iterable[WeightSource]
) -> Generator[Notice, None, Match]:
    """Find every tensor of a network on the meta device in the weight files of its sources.

    Raises AppError where the files are of another kind, or a tensor is missing, unknown, in another shape or there
    twice.
    """
    shapes = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    parts, ignored, said = list[Part](), 0, set[str]()
    for source in sources:
        found, notices = _headers(source)
        _refuse_changed(source.path, found)
        names = [name for header in found for name in header.tensors]
        kept = [name for name in names if not _RECOMPUTED.search(name) or source.remap_key(name) in shapes]
        ignored += len(names) - len(kept)
        renamed, prefix = _renamed(family, shapes, source, kept)
        if prefix:
            notices.append(Notice(Message("weights_prefix_removed", prefix=prefix)))
        for notice in notices:
            if repr(notice) not in said:
                yield notice
            said.add(repr(notice))
        parts += [_checked(family, network, shapes, header, renamed, parts) for header in found]
    if ignored:
        yield Notice(Message("weights_buffers_ignored", count=ignored))
    present = {name for part in parts for name in part.names.values()}
    # Tools that save shared memory once keep whichever name comes first. Where both are there, both are read.
    pairs = [pair for pair in family.tied(config).items() if not present.issuperset(pair)]
    tied = dict((one, other) if one in present else (other, one) for other, one in pairs)
    left_out = set(tied.values()) - present
    if left_out:
        yield Notice(Message("weights_head_tied", name=", ".join(sorted(left_out))))
    if missing := sorted(shapes.keys() - present - left_out):
        advice = family.explain_mismatch(network, missing[0], False) or _why_missing(missing, shapes)
        raise AppError("weights_tensors_missing", name=missing[0], count=len(missing), advice=advice)
    return Match(parts, tied)


def read_kinds(folder: Path) -> None:
    """Raises AppError where a checkpoint's weight files are damaged, or of another kind than whole weights."""
    _refuse_changed(folder, _headers(WeightSource(folder))[0])


def _refuse_changed(path: Path, found: Sequence[TensorFile]) -> None:
    dtypes = {name: dtype for header in found for name, (dtype, _) in header.tensors.items()}
    refuse_changed_layers(path, dtypes, next((header.metadata for header in found if header.metadata), {}))


def _headers(source: WeightSource) -> tuple[list[TensorFile], list[Notice]]:
    """What the weight files of a source contain, and what there is to say about their choice."""
    if source.only:
        header = read_header(source.path)
        wanted = {n: facts for n, facts in header.tensors.items() if n == source.only}
        return [TensorFile(source.path, wanted)], []
    files = _files_of(source.path, source.stem) if source.path.is_dir() else WeightFiles((source.path,))
    if files.loose:
        found = files_that_belong_together(files.files, source.path)
    else:
        found = [read_header(file) for file in files.files]
    notices = []
    if not files.usual:
        notices.append(Notice(Message("weights_own_name", names=", ".join(header.file.name for header in found))))
    if wrapped := next((header for header in found if header.table not in ("", source.table)), None):
        notices.append(Notice(Message("weights_unwrapped", file=wrapped.file.name, table=wrapped.table)))
    if source.path.is_dir() and any(map(is_adapter_file, weight_candidates(source.path))):
        notices.append(Notice(Message("adapter_not_applied", folder=source.path)))
    if any(dtype.startswith(("F8", "float8")) for header in found for dtype, _ in header.tensors.values()):
        notices.append(Notice(Message("weights_in_fp8")))
    return found, notices


def _renamed(
    family: Family, shapes: Mapping[str, Any], source: WeightSource, names: list[str]
) -> tuple[dict[str, str], str]:
    """Each name's name in the network, and what was taken off, "" for nothing.

    Raises AppError where hardly any name is the network's.
    """

    def known(name: str) -> bool:
        return name in shapes or name.startswith(family.unused_prefixes)

    def rename(name: str, prefix: str) -> str:
        plain = source.remap_key(name.removeprefix(prefix))
        return plain if known(plain) else source.remap_key(_WRAPPERS.sub("", name.removeprefix(prefix)))

    prefixes, pieces = [""], (names[0] if names else "").split(".")[:-1]
    for piece in pieces:
        longer = f"{prefixes[-1]}{piece}."
        if not all(name.startswith(longer) for name in names):
            break
        prefixes.append(longer)
    best, renamed, count = "", dict[str, str](), -1
    for prefix in prefixes:
        some = {name: rename(name, prefix) for name in names}
        matching = sum(known(name) for name in some.values())
        if matching > count:
            best, renamed, count = prefix, some, matching
    if names and 2 * count < len(names):
        raise _other_architecture(family, source.path, names) or AppError(
            "weights_of_unknown_architecture", path=source.path, name=names[0], wanted=family.title
        )
    plain = [name.removeprefix(best) for name in names]
    inside = [m[0] for name in plain if not known(source.remap_key(name)) and (m := _WRAPPERS.search(name))]
    return renamed, best or next(iter(inside), "")


def _other_architecture(family: Family, path: Path, names: Iterable[str]) -> AppError | None:
    found = architecture_of(names)
    if found is None or found == family.title:
        return None
    return AppError("weights_of_other_architecture", path=path, found=found, wanted=family.title)


def _unknown(family: Family, header: TensorFile, name: str) -> AppError:
    other = _other_architecture(family, header.file, header.tensors)
    return other or AppError("weights_tensor_unknown", file=header.file.name, name=name)


def _checked(
    family: Family,
    network: nn.Module,
    shapes: Mapping[str, tuple[int, ...]],
    header: TensorFile,
    renamed: Mapping[str, str],
    before: Sequence[Part],
) -> Part:
    """The tensors of a file that the network has. Raises AppError for one that it lacks or that is wrong."""
    file, names = header.file.name, dict[str, str]()
    taken = {name for part in before for name in part.names.values()}
    for name, (_, shape) in header.tensors.items():
        ours = renamed.get(name)
        if ours is None or ours.startswith(family.unused_prefixes):
            continue
        if ours in taken:
            raise AppError("weights_tensor_repeated", file=file, name=ours)
        if ours not in shapes:
            raise _unknown(family, header, ours)
        if shape != shapes[ours]:
            advice = family.explain_mismatch(network, ours, True) or Message("checkpoint_files_mixed")
            values = {"found": list(shape), "expected": list(shapes[ours]), "advice": advice}
            raise AppError("weights_shape_differs", file=file, name=ours, **values)
        names[name] = ours
        taken.add(ours)
    return Part(header.file, names)


def _why_missing(missing: Sequence[str], shapes: Mapping[str, Any]) -> Message:
    """What a person can do about missing tensors: a whole part was left out, or some tensors are gone."""
    part = missing[0].split(".")[0]
    if all(name in missing for name in shapes if name.split(".")[0] == part):
        return Message("checkpoint_part_left_out", part=part)
    return Message("checkpoint_incomplete")
