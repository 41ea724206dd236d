"""LoRA adapters as PEFT saves them (Hu et al. 2021): found by name, checked, and merged into the weights at load.

W' = W + strength * (alpha / rank) * B A. The decode engine fuses and packs the linears of the decoder, so layers of an
adapter beside them would take away what it gains. Merged before int8 and nf4 are made, an adapter costs no time and no
memory, and is not added to weights that were rounded before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from janus_app.errors import AppError, Message
from janus_app.files import read_json, typed_path
from janus_app.models.family import Family
from janus_app.paths import data_folder
from janus_app.runtime.tensor_files import TensorFile, read_header, read_tensors

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
MAX_STRENGTH = 10.0
_MAX_CONFIG_BYTES = 1_000_000
_MAX_ALPHA = 1e6
_LAYER = re.compile(r"^(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<half>[AB])(?:\.default)?\.weight$")
# Settings of PEFT that change what an adapter computes, with the values that mean plain LoRA.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    **dict.fromkeys(("use_dora", "lora_bias", "fan_in_fan_out", "use_qalora", "use_bdlora"), (False, None)),
    **dict.fromkeys(("trainable_token_indices", "modules_to_save", "layer_replication"), (None, [], {})),
    **dict.fromkeys(("alora_invocation_tokens", "arrow_config", "velora_config"), (None, [], {})),
}


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, by the name it is recorded under, and how strongly it is added (0 = not at all)."""

    name: str
    folder: Path
    strength: float = 1.0

    def __str__(self) -> str:
        return f"{self.name}={self.strength:g}"


def adapters_folder() -> Path:
    """Where adapters that have a name are: one folder each."""
    return data_folder() / "adapters"


def known_adapters() -> dict[str, Path]:
    """The adapters with a name."""
    place = adapters_folder()
    found = sorted(place.iterdir()) if place.is_dir() else []
    return {folder.name: folder for folder in found if (folder / CONFIG).is_file()}


def find_adapter(text: str, *, paths: bool = True) -> Adapter:
    """The adapter that `text` names, "name" or "name=strength"; with `paths` also the path of a folder or its file.

    Raises AppError where there is none, and for a strength that is no number within MAX_STRENGTH.
    """
    given, _, number = text.rpartition("=") if re.search(r"=[^=/\\]*$", text) else (text, "", "1")
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if not abs(strength) <= MAX_STRENGTH:
        raise AppError("adapter_strength_wrong", given=repr(number)[:40], limit=MAX_STRENGTH)
    known = known_adapters()
    if given in known:
        return Adapter(given, known[given], strength)
    path = typed_path(given).expanduser()
    if paths and given and path.exists():
        folder = path.resolve() if path.is_dir() else path.resolve().parent
        return Adapter(re.sub(r"[^\w.-]+", "-", folder.name)[:60], folder, strength)
    names = ", ".join(known) or Message("adapters_none")
    raise AppError("adapter_unknown", given=repr(given[:200]), known=names, folder=adapters_folder())


class Changes:
    """What adapters add to the tensors of a network."""

    def __init__(self) -> None:
        self._pairs: dict[str, list[tuple[Path, str, str, float]]] = {}

    def add(self, tensor: str, file: Path, a: str, b: str, scale: float) -> None:
        self._pairs.setdefault(tensor, []).append((file, a, b, scale))

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._pairs

    def applied(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor `name` of the network with all adapters added, in float32; itself where none changes it."""
        if name not in self._pairs:
            return tensor
        changed = tensor.float()
        for file, a, b, scale in self._pairs[name]:
            halves = {half: one.float() for half, one in read_tensors(file, [a, b])}
            changed = changed + scale * (halves[b] @ halves[a])
        return changed


def read_changes(adapters: Iterable[Adapter], family: Family, network: nn.Module, title: str) -> Changes:
    """What the adapters add to the tensors of a network on the meta device; those of strength 0 add nothing.

    Raises AppError for an adapter that is a pickle, of another kind, or made for another model.
    """
    changes = Changes()
    shapes = {
        f"{name}.weight": (module.out_features, module.in_features)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    }
    for adapter in adapters:
        config = _config(adapter)
        file = adapter.folder / WEIGHTS
        for tensor, layer, halves, rank in _layers(adapter, family, shapes, title, config):
            scale = adapter.strength * _scale(adapter, config, layer, rank)
            if scale:
                changes.add(tensor, file, halves["A"], halves["B"], scale)
    return changes


def _config(adapter: Adapter) -> dict[str, Any]:
    if not (adapter.folder / CONFIG).is_file():
        raise AppError("adapter_without_config", folder=adapter.folder)
    config = read_json(adapter.folder / CONFIG, _MAX_CONFIG_BYTES)
    for name, plain in _PLAIN.items():
        if name in config and config[name] not in plain:
            raise AppError("adapter_kind_unsupported", name=adapter.name, field=name, value=repr(config[name])[:60])
    if not (adapter.folder / WEIGHTS).is_file():
        pickled = (adapter.folder / PICKLE).is_file()
        raise AppError("adapter_is_pickle" if pickled else "adapter_without_weights", folder=adapter.folder)
    return config


def _layers(
    adapter: Adapter, family: Family, shapes: Mapping[str, tuple[int, int]], title: str, config: Mapping[str, Any]
) -> list[tuple[str, str, dict[str, str], int]]:
    """The tensor of the network, the layer's own name, the names of both halves and the rank, for each layer."""
    header = read_header(adapter.folder / WEIGHTS)
    base = str(config.get("base_model_name_or_path") or "")[:100] or Message("another_model")
    layers: dict[str, dict[str, str]] = {}
    for name in header.tensors:
        if (match := _LAYER.match(name)) is None:
            raise AppError("adapter_tensor_unknown", name=adapter.name, tensor=name[:100])
        layers.setdefault(match["layer"], {})[match["half"]] = name
    if not layers:
        raise AppError("adapter_without_weights", folder=adapter.folder)
    found = []
    for layer, halves in layers.items():
        if len(halves) < 2:
            raise AppError("adapter_half_missing", name=adapter.name, layer=layer[:100])
        tensor = next((one for one in family.adapted_tensors(layer) if one in shapes), None)
        if tensor is None:
            raise AppError("adapter_layer_missing", name=adapter.name, layer=layer[:100], title=title, base=base)
        outer, inner = shapes[tensor]
        (rank, a), (b, rank_of_b) = (_matrix(header, halves[half]) for half in "AB")
        if (a, b, rank_of_b) != (inner, outer, rank) or not rank:
            values = {"layer": layer[:100], "found": [b, a], "expected": [outer, inner], "title": title, "base": base}
            raise AppError("adapter_shape_differs", name=adapter.name, **values)
        if rank > min(inner, outer):
            raise AppError("adapter_rank_too_large", name=adapter.name, rank=rank, limit=min(inner, outer))
        found.append((tensor, layer, halves, rank))
    return found


def _matrix(header: TensorFile, name: str) -> tuple[int, int]:
    """The shape of a tensor, (0, 0) where it is no matrix."""
    shape = header.tensors[name][1]
    return (shape[0], shape[1]) if len(shape) == 2 else (0, 0)


def _scale(adapter: Adapter, config: Mapping[str, Any], layer: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) if rank-stabilized (Kalajdzievski 2023); layers may have their own alpha."""
    own = config.get("alpha_pattern") or {}
    if not isinstance(own, dict) or any(re.search(r"[^\w.]", str(name)) for name in own):  # PEFT takes patterns too
        raise AppError("adapter_kind_unsupported", name=adapter.name, field="alpha_pattern", value=repr(own)[:60])
    fitting = [value for name, value in own.items() if f".{layer}".endswith(f".{name}")]
    alpha = fitting[0] if fitting else config.get("lora_alpha", 8)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < _MAX_ALPHA:
        raise AppError("adapter_kind_unsupported", name=adapter.name, field="lora_alpha", value=repr(alpha)[:60])
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
