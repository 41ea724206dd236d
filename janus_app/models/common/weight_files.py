"""Which files of a folder are its weights, by their names and first bytes. Imports no torch and reads no tensor."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from janus_app.errors import AppError
from janus_app.file_kinds import is_weights, other_model_format, what_it_is
from janus_app.files import read_errors_as_app_errors, read_weight_map

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_ADAPTER = "adapter_"
_SHARD = re.compile(r"(.*?)[-_.]?(\d+)[-_]of[-_](\d+)")
# Pickles and others that training tools write beside the weights.
_NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "random_states", "scaler", "trainer_state")
_INDEX = ".index.json"


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of a folder.

    usual: they are called as this app expects them. loose: nothing says that they belong together, so the tensors in
    them must tell.
    """

    files: tuple[Path, ...]
    usual: bool = True
    loose: bool = False


def find_weights(folder: Path, stem: str = "") -> WeightFiles:
    """The weights of a folder: safetensors if there are any, else pickles; the shards of an index in order.

    `stem` is their usual name without suffix, by default "model" (safetensors) or "pytorch_model" (pickles). Without
    files of that name the only set of weights is taken, whatever it is called. Raises AppError where there is none, a
    part is missing, the folder cannot be read, or an index names a file outside it.
    """
    with read_errors_as_app_errors(folder):
        return _found_weights(folder, stem)


def _found_weights(folder: Path, stem: str) -> WeightFiles:
    usual = {"safetensors": stem or "model", "bin": stem or "pytorch_model"}
    for suffix, single in usual.items():
        one = folder / f"{single}.{suffix}"
        if one.is_file():
            return WeightFiles((one,))
        index = folder / f"{single}.{suffix}{_INDEX}"
        if index.is_file():
            return WeightFiles(_listed(index))
    found = _of_other_names(folder)
    if found is None:
        raise _without_weights(folder, usual)
    return found


def weight_candidates(folder: Path) -> list[Path]:
    """The files of a folder that may be weights, by their suffixes, without those that trainers write beside them."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in WEIGHT_SUFFIXES and path.is_file()]
    return [path for path in files if not path.name.startswith((".", *_NOT_WEIGHTS))]


def is_adapter_file(file: Path) -> bool:
    """Whether a file is called as PEFT calls the weights of an adapter."""
    return file.name.startswith(_ADAPTER)


def _of_other_names(folder: Path) -> WeightFiles | None:
    indexes = [path for path in sorted(folder.glob(f"*{_INDEX}")) if path.is_file()]
    if len(indexes) == 1:
        return WeightFiles(_listed(indexes[0]), usual=False)
    candidates = [path for path in weight_candidates(folder) if not is_adapter_file(path)]
    for safe in (True, False):
        files = [path for path in candidates if (path.suffix.lower() == ".safetensors") is safe]
        if files:
            return _set_of_shards(folder, files) or WeightFiles(tuple(files), usual=False, loose=True)
    unnamed = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    unnamed = [path for path in unnamed if path.suffix not in WEIGHT_SUFFIXES and is_weights(path)]
    return WeightFiles(tuple(unnamed), usual=False, loose=True) if unnamed else None


def _set_of_shards(folder: Path, files: list[Path]) -> WeightFiles | None:
    """The one set of numbered files among `files`. Raises AppError where a number of it is missing."""
    sets: dict[tuple[str, int], dict[int, Path]] = {}
    for path in files:
        if number := _SHARD.fullmatch(path.stem):
            sets.setdefault((number[1], int(number[3])), {})[int(number[2])] = path
    if len(sets) != 1:
        return None
    ((_, count), parts) = next(iter(sets.items()))
    first = 0 if 0 in parts else 1  # some tools count from 0
    lacking = next((number for number in range(first, first + count) if number not in parts), None)
    if lacking is not None:
        raise AppError("weights_shard_missing", folder=folder, number=lacking, count=count)
    return WeightFiles(tuple(parts[number] for number in sorted(parts)), usual=False)


def _listed(index: Path) -> tuple[Path, ...]:
    files = tuple(index.with_name(name) for name in sorted(set(read_weight_map(index).values())))
    for file in files:
        if not file.is_file():
            raise AppError("weight_index_file_missing", file=index.name, name=file.name)
    return files


def _without_weights(folder: Path, usual: dict[str, str]) -> AppError:
    """The refusal of a folder without weights: what it contains in their place, if that is known."""
    for path in sorted(folder.iterdir()):
        if not path.is_file() and not path.is_dir():  # a pipe, which may never end
            continue
        if other_model_format(path) or path.name.endswith((".crdownload", ".part", ".incomplete", ".aria2")):
            if refused := what_it_is(path) if path.is_file() else None:
                return refused
            return AppError("weights_other_format", file=path.name, format=other_model_format(path))
    return AppError("weights_missing", folder=folder, safetensors=usual["safetensors"], pickle=usual["bin"])
