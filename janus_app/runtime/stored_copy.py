"""Reads quantized copies that `save_copy` wrote: layers are made of what the files hold, nothing is quantized again.

Beside `X.weight` of a quantized layer the file has, in float32, `X.scale` [out] (int8: the largest value of a row) or
`X.absmax` (nf4: that of a block). All other tensors are those of an ordinary checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from janus_app.errors import AppError, Message
from janus_app.files import read_json
from janus_app.models.common.weight_files import find_weights
from janus_app.models.family import Family
from janus_app.registry.checkpoint_folder import COPY_RECORD
from janus_app.runtime.quantization import NF4_BLOCK, is_quantized
from janus_app.runtime.tensor_files import read_header, read_tensors
from janus_app.types import QUANTIZED_PRECISIONS

SCALES = {"int8": "scale", "nf4": "absmax"}


def saved_precision(folder: Path) -> str:
    """The precision that the weights in a folder are quantized in, "" for those of an ordinary checkpoint.

    Raises AppError for a record that cannot be read, or names another precision.
    """
    if not (folder / COPY_RECORD).is_file():
        return ""
    precision = read_json(folder / COPY_RECORD).get("precision") or ""
    if precision and precision not in QUANTIZED_PRECISIONS:
        raise AppError("copy_record_unusable", file=COPY_RECORD, folder=folder)
    return str(precision)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the network, with the scales of a quantized layer; None for others."""

    name: str
    tensor: Tensor
    scales: Tensor | None
    file: str


def check_stored(folder: Path, family: Family, network: nn.Module, precision: str) -> dict[str, Path]:
    """The file of each tensor of a quantized copy. Raises AppError where names or shapes are not the network's."""
    expected = dict(_expected(family, network, precision))
    places: dict[str, Path] = {}
    for file in find_weights(folder).files:
        for name, (_, shape) in read_header(file).tensors.items():
            if name not in expected:
                raise AppError("weights_tensor_unknown", file=file.name, name=name)
            if tuple(shape) != expected[name]:
                values = {"found": list(shape), "expected": list(expected[name])}
                advice = Message("checkpoint_files_mixed")
                raise AppError("weights_shape_differs", file=file.name, name=name, advice=advice, **values)
            places[name] = file
    if missing := sorted(expected.keys() - places.keys()):
        advice = Message("checkpoint_incomplete")
        raise AppError("weights_tensors_missing", name=missing[0], count=len(missing), advice=advice)
    return places


def _expected(family: Family, network: nn.Module, precision: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor in the files of a copy."""
    for name, tensor in network.state_dict().items():
        layer = name.removesuffix(".weight")
        if not is_quantized(family, name, network.get_submodule(name.rpartition(".")[0]), precision):
            yield name, tuple(tensor.shape)
        elif precision == "int8":
            yield name, tuple(tensor.shape)
            yield f"{layer}.scale", (tensor.shape[0],)
        else:
            yield name, (tensor.numel() // 2, 1)
            yield f"{layer}.absmax", (-(-tensor.numel() // NF4_BLOCK),)


def read_stored(places: Mapping[str, Path], precision: str) -> Iterator[StoredTensor]:
    """Every tensor of a copy, as `check_stored` found it; keep none after the next one is asked for."""
    ending = SCALES[precision]
    for file in dict.fromkeys(places.values()):
        own = [name for name, place in places.items() if place == file and not name.endswith(f".{ending}")]
        for name, tensor in read_tensors(file, own):
            beside = f"{name.removesuffix('.weight')}.{ending}"
            scales = None
            if beside in places:
                ((_, scales),) = read_tensors(places[beside], [beside])
            yield StoredTensor(name, tensor, scales, file.name)
