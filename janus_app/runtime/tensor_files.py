"""Tensors in files: safetensors, and pickles read with weights_only=True. What a file is called does not matter."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from janus_app.errors import AppError, is_out_of_memory
from janus_app.file_kinds import is_pickle, tensor_header, what_it_is

_MAPPED_BYTES = 128_000_000  # read before a weight file is opened again
# Where training tools put the tensors in a pickle, the weights that were trained before their averages.
_TABLES = (
    *("state_dict", "model_state_dict", "model", "module", "network", "net", "weights", "params", "generator"),
    *("ema", "model_ema", "ema_model", "ema_state_dict", "params_ema", "shadow_params"),
)
# Plain data that training tools pickle beside the tensors: reading it calls nothing but these constructors.
_SCALAR = np.float32(0).__reduce__()[0]
_PLAIN_DATA: list[Any] = [
    argparse.Namespace,
    # Python 3.13 calls their module pathlib._local, and no PosixPath can be made on Windows.
    *(
        (pathlib.PurePosixPath, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath")
    ),
    np.dtype,
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
]


@dataclass(frozen=True)
class TensorFile:
    """What a weight file contains: dtype and shape of each tensor by its name in the file.

    table: the name of the table in a pickle that contains the tensors, "" for none. metadata: that of safetensors.
    """

    file: Path
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    table: str = ""
    metadata: Mapping[str, Any] | None = None


def read_header(file: Path) -> TensorFile:
    """What a weight file contains; of safetensors and zipped pickles, no tensor is read. Raises AppError."""
    with _damage_as_app_error(file):
        header = tensor_header(file)
    with _mapped(file) as tensors:
        if isinstance(tensors, _Pickled):
            return TensorFile(file, tensors.facts(), tensors.table)
        assert header is not None
        return TensorFile(file, header.tensors, metadata=header.metadata)


def files_that_belong_together(paths: Sequence[Path], folder: Path) -> list[TensorFile]:
    """Of files that nothing but their folder connects, those that make one model.

    These are all, if no tensor is in two of them, or else the one that contains what all others do. Raises AppError
    where several may be meant.
    """
    files = []
    for path in paths:
        try:
            files.append(read_header(path))
        except AppError as error:
            if error.code != "weights_pickle_without_tensors" or len(paths) == 1:
                raise
    names = [name for file in files for name in file.tensors]
    if len(set(names)) == len(names):
        return files
    whole = [file for file in files if file.tensors.keys() == set(names)]
    if len(whole) == 1:
        return whole
    listed = ", ".join(file.file.name for file in (whole or files)[:6])
    raise AppError("weights_ambiguous", folder=folder, names=listed)


def read_tensors(file: Path, only: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the memory-mapped tensor of every tensor of a weight file, or of `only` some of them.

    Every 128 MB the file is opened again: a mapping keeps every page that was read in memory, so one mapping of the
    whole file would cost as much memory as the file is long. For the same reason do not keep a tensor after the next
    one is asked for. Raises AppError for a damaged file.
    """
    remaining = None if only is None else list(only)
    while remaining is None or remaining:
        with _mapped(file) as tensors:
            remaining = list(tensors.keys()) if remaining is None else remaining
            limit = float("inf") if isinstance(tensors, _Pickled) and not tensors.mapped else _MAPPED_BYTES
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

    def __init__(self, file: Path, state: Any, mapped: bool) -> None:
        self.mapped = mapped
        self.table, found = _table_of_tensors(state)
        if not found:
            raise AppError("weights_pickle_without_tensors", file=file.name)
        self.keys, self.get_tensor = found.keys, found.__getitem__
        self._tensors = found

    def facts(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {n: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in self._tensors.items()}


def _table_of_tensors(state: Any, depth: int = 3) -> tuple[str, dict[str, Tensor]]:
    """The dotted name of the table with the tensors, "" for the pickle itself, and its tensors."""
    if not isinstance(state, dict) or not depth:
        return "", {}
    tables = [name for name in _TABLES if isinstance(state.get(name), dict)]
    others = [name for name in state if isinstance(name, str) and isinstance(state[name], dict) and name not in tables]
    own = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if own and not tables:
        return "", own
    for name in tables + (others if len(others) == 1 else []):
        inner, found = _table_of_tensors(state[name], depth - 1)
        if found:
            return f"{name}.{inner}".rstrip("."), found
    return "", own


def _pickled(file: Path) -> _Pickled:
    # Pickles of PyTorch before 1.6 are no zip files and cannot be mapped; torch.load goes by the suffix of a path.
    mapped = zipfile.is_zipfile(file) and file.suffix != ".safetensors"
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about protocols of pickles
        stack.enter_context(torch.serialization.safe_globals(_PLAIN_DATA))
        source = file if mapped else stack.enter_context(open(file, "rb"))
        state = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    return _Pickled(file, state, mapped)


@contextlib.contextmanager
def _mapped(file: Path) -> Iterator[Any]:
    refused: AppError | None = None
    with contextlib.ExitStack() as stack:
        with _damage_as_app_error(file):
            if tensor_header(file) is not None:
                tensors: Any = stack.enter_context(safe_open(file, framework="pt", device="cpu"))
            elif is_pickle(file) and not (refused := what_it_is(file)):
                tensors = _pickled(file)
            else:
                raise refused or what_it_is(file) or AppError("weights_damaged", file=file.name)
        yield tensors


@contextlib.contextmanager
def _damage_as_app_error(file: Path) -> Iterator[None]:
    """Turn a failure to read a weight file into an AppError, but not running out of memory."""
    try:
        yield
    except pickle.UnpicklingError as error:
        cut = "pickle data was truncated" in str(error) or "unpack requires" in str(error)
        refused = AppError("weights_cut_pickle" if cut else "weights_pickle_runs_code", file=file.name)
        raise what_it_is(file) or refused from None
    except (AppError, MemoryError):
        raise
    except Exception as error:  # torch.load raises whatever the bytes of a damaged pickle lead to
        if is_out_of_memory(error):
            raise
        raise what_it_is(file) or _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> AppError:
    """The refusal of a file that seems whole: an error of the disk, a type that the library lacks, or damage inside."""
    if isinstance(error, OSError) and error.errno is not None:
        return AppError("model_file_unreadable", path=file, reason=error.strerror or error)
    if is_pickle(file) and not zipfile.is_zipfile(file):
        return AppError("weights_cut_pickle", file=file.name)  # the old format, which ends with the tensors
    if isinstance(error, SafetensorError) and "dtype" in str(error).lower():
        return AppError("weights_dtype_unknown", file=file.name, reason=str(error)[:200])
    return AppError("weights_damaged", file=file.name)
