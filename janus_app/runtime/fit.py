"""The fit advisor: what a model needs in each precision, what is free, and which precision and place follow from it.

    advice = advise(variant, folder, "auto")     # no weights are touched, no file but config.json is read
    print(advice.sentence)                       # "Janus-Pro-7B: bf16 needs 16.9 GB, you have 11.2 free: int8 ..."
    option = advice.choose("auto")               # what the loader loads; AppError where nothing can work

The page, the command line and the loader all ask here, so what is shown before a load is what the load does.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.formatting import size_text
from janus_app.models.common.memory import BytesPerElement, Job, Peak
from janus_app.models.registry import detect_family
from janus_app.paths import ASSETS
from janus_app.registry.types import Variant
from janus_app.runtime.devices import Place, device_memory, places
from janus_app.runtime.offload import layer_of
from janus_app.runtime.quantization import (
    bitsandbytes_missing,
    held_bytes,
    plain_dtype,
    tensor_dtype,
)
from janus_app.types import PRECISIONS, QUANTIZED_PRECISIONS

FACTS = ASSETS / "checkpoints"  # config.json of models not yet downloaded
_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.3, "nf4": 0.9}  # whole model, where no config is known
_UNKNOWN_WORK = 0.12  # of the bf16 weights, likewise
_SMALL = 1e9  # a model below needs no room worth the name
# Beside what is counted: CUDA's context, library workspaces and what an allocator cannot reuse.
_RESERVE = {"cuda": 1.25e9, "xpu": 1.25e9, "mps": 0.5e9, "cpu": 0.3e9}
_SMALL_RESERVE = 0.1e9
# Measured on a CPU (docs/memory.md): feature maps its convolutions copy, and small blocks the C library keeps.
_CONV_COPIES, _HEAP = 2.0, 20_000_000
# Bytes a weight while a quantised layer is at work: on cards (not measured) and on a CPU, which unpacks to float32.
_UNPACKED = ({"nf4": 2.0}, {"int8": 4.0, "nf4": 4.0})


@dataclass(frozen=True)
class Need:
    """Bytes of the device at the highest point of a usual job. The reserve is for what cannot be counted."""

    weights: int
    cache: int
    work: int
    reserve: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.work + self.reserve


@dataclass(frozen=True)
class LoadOption:
    """One way to load: does it fit? `split` maps decoder layers that do not live on the main device to their place.

    rank orders the ways "auto" tries, None is one it never takes.
    """

    precision: str
    place: Place
    need: Need
    free: int
    fits: bool
    split: Mapping[int, torch.device]
    rank: tuple[int, ...] | None

    @property
    def words(self) -> str:
        if not self.place.spread:
            return self.precision
        where = "main memory too" if self.place.host else "all cards"
        return f"{self.precision} on {where}"


@dataclass(frozen=True)
class LoadPlan:
    """All ways to load a model on a device, the best first."""

    title: str
    options: tuple[LoadOption, ...]

    @property
    def best(self) -> LoadOption | None:
        return next((option for option in self.options if option.fits and option.rank is not None), None)

    @property
    def sentence(self) -> str:
        """What a person reads before the load."""
        first, best = self.options[0], self.best
        need, free = _amount(first.need.total), _amount(first.free)
        if best is first:
            return f"{self.title}: {first.words} needs {need}, you have {free} free: it fits."
        if best is None:
            least = min(self.options, key=lambda option: option.need.total)
            return (
                f"{self.title}: even {least.words} needs {_amount(least.need.total)}, you have {_amount(least.free)} "
                "free. Choose a smaller model, or close other programs that use the memory."
            )
        return (
            f"{self.title}: {first.words} needs {need}, you have {free} free: "
            f"{best.words} ({_amount(best.need.total)}) recommended."
        )

    def judge(self, precision: str) -> tuple[str, bool]:
        """The sentence on one precision or "auto", and whether that can be loaded."""
        if precision == "auto":
            return self.sentence, self.best is not None
        try:
            option = self.choose(precision)
        except AppError as error:
            return str(error), False
        need, free = _amount(option.need.total), _amount(option.free)
        return f"{self.title}: {option.words} needs {need}, you have {free} free: it fits.", True

    def option(self, precision: str) -> LoadOption:
        """The best way in one precision. Raises AppError for an unknown one."""
        found = [option for option in self.options if option.precision == precision]
        if not found:
            raise AppError(f"There is no precision {precision!r}. Choose auto, {', '.join(PRECISIONS)}.")
        return next((option for option in found if option.fits), found[0])

    def smaller(self, precision: str) -> LoadOption | None:
        """The best option that needs less than `precision` does: what to try when memory ran out all the same."""
        limit = self.option(precision).need.total
        smaller = (option for option in self.options if option.need.total < limit)
        return next((option for option in smaller if option.fits and option.rank is not None), None)

    def choose(self, precision: str) -> LoadOption:
        """What to load for a wanted precision or "auto". Raises AppError where it cannot fit."""
        chosen = self.best if precision == "auto" else self.option(precision)
        if chosen is not None and chosen.fits:
            return chosen
        if chosen is None or self.best is None:
            raise AppError(self.sentence)
        raise AppError(
            f"{self.title}: {chosen.words} needs {_amount(chosen.need.total)}, you have {_amount(chosen.free)} free. "
            f"Choose {self.best.words} ({_amount(self.best.need.total)})."
        )


def plan_load(
    variant: Variant,
    folder: Path | None = None,
    device: str = "auto",
    *,
    job: Job | None = None,
    given_back: Mapping[str, int] | None = None,
) -> LoadPlan:
    """Every way to load a variant on a device name, in the order "auto" tries them.

    folder holds its config.json where it is on disk. job defaults to the variant's own settings. given_back are bytes
    by device that become free before the load (the model it replaces). Raises AppError for an absent device and a
    config.json that is damaged.
    """
    model = _model(variant, folder)
    job = job or usual_job(variant)
    found = [
        _option(model, precision, place, job, given_back or {})
        for place in places(device)
        for precision in PRECISIONS
        if not (place.host and precision in QUANTIZED_PRECISIONS)  # quantised layers cannot travel to and fro
    ]
    return LoadPlan(variant.title, tuple(sorted(found, key=lambda option: option.rank or (9,))))


def _rank(precision: str, place: Place) -> tuple[int, ...] | None:
    """auto's order: full precision on one device, then on all cards, then quantised, with main memory at last."""
    if place.main.type == "cpu":
        liked = ["fp32", "bf16", "int8", "nf4"]
    else:
        half = {torch.bfloat16: "bf16", torch.float16: "fp16"}[plain_dtype("nf4", place.main)]
        liked = [half, "int8", "nf4"]
    if precision not in liked or (precision in QUANTIZED_PRECISIONS and bitsandbytes_missing()):
        return None
    return (int(place.host), liked.index(precision), int(place.spread))


def usual_job(variant: Variant) -> Job:
    """One press of each button with the variant's own settings, one picture in the conversation."""

    def setting(name: str, fallback: float) -> float:
        row = variant.settings.get(name)
        return row.default if row else fallback

    return Job(
        count=int(setting("count", 1)),
        guided=setting("guidance", 5.0) != 1,
        instructed="instruct" in variant.edit_methods,
        answer=int(setting("max_new_tokens", 512)),
    )


# ---- one model


@dataclass(frozen=True)
class _Model:
    """What is known of a variant's sizes; config None where its config.json is nowhere to be read."""

    variant: Variant
    config: str | None


def _model(variant: Variant, folder: Path | None) -> _Model:
    file = (folder or variant.folder or Path()) / "config.json"
    if (folder or variant.folder) and file.is_file():
        try:
            return _Model(variant, json.dumps(detect_family(read_json(file)).read_config(file.parent, None)))
        except AppError:  # a component is missing: it does not load, but something may be known of its size
            pass
    facts = FACTS / f"{(variant.repo or '').split('/')[-1]}.json.gz"
    if variant.repo and facts.is_file():
        return _Model(variant, json.dumps(json.loads(gzip.decompress(facts.read_bytes()))["config"]))
    return _Model(variant, None)


@lru_cache(maxsize=64)
def _sizes(config: str, precision: str, device: torch.device) -> tuple[int, tuple[int, ...]]:
    """Bytes of the weights outside the decoder's layers, and of each layer."""
    rest, layers = 0, dict[int, int]()
    family = detect_family(json.loads(config))
    for name, size in held_bytes(family, _network(config), precision, device).items():
        if (layer := layer_of(name, family.offload_prefix)) is not None:
            layers[layer] = layers.get(layer, 0) + size
        else:
            rest += size
    return rest, tuple(layers[i] for i in sorted(layers))


@lru_cache(maxsize=1)
def _network(config: str) -> torch.nn.Module:
    raw = json.loads(config)
    return detect_family(raw).meta_network(raw)


def weight_bytes(variant: Variant, precision: str, folder: Path | None = None, device: str = "cpu") -> int:
    """Bytes of a variant's weights as the loader holds them on a type of device."""
    rest, layers = _weights(_model(variant, folder), precision, torch.device(device))
    return rest + sum(layers)


def _weights(model: _Model, precision: str, device: torch.device) -> tuple[int, tuple[int, ...]]:
    if model.config is not None:
        return _sizes(model.config, precision, device)
    known = model.variant.memory.get(precision) or int(model.variant.parameters * _BYTES[precision])
    return known, ()


def running_peak(variant: Variant, precision: str, device: torch.device, job: Job, folder: Path | None = None) -> Peak:
    """Cache and work of a job beside the weights."""
    return _peak(_model(variant, folder), precision, device, job)


def _peak(model: _Model, precision: str, device: torch.device, job: Job) -> Peak:
    if model.config is None:
        bf16, _ = _weights(model, "bf16", device)
        return Peak(0, int(bf16 * _UNKNOWN_WORK))
    from janus_app.nn.llama import cache_dtype

    config = json.loads(model.config)
    family = detect_family(config)
    dtype = plain_dtype(precision, device)
    widths = BytesPerElement(
        decoder=dtype.itemsize,
        cache=cache_dtype(device, dtype).itemsize,
        pictures=tensor_dtype(family, family.picture_decoder_prefix, precision, device).itemsize,
        conv_scratch=_CONV_COPIES if device.type == "cpu" else 0.0,
        linear_scratch=_UNPACKED[device.type == "cpu"].get(precision, 0.0),
    )
    peak = family.job_peak(config, model.variant.size[0], job, widths)
    return replace(peak, work=peak.work + _HEAP) if device.type == "cpu" else peak


# ---- one option


def _option(model: _Model, precision: str, place: Place, job: Job, given_back: Mapping[str, int]) -> LoadOption:
    def free(device: torch.device) -> int:
        return device_memory(device).free + given_back.get(str(device), 0)

    rest, layers = _weights(model, precision, place.main)
    peak = _peak(model, precision, place.main, job)
    small = rest + sum(layers) < _SMALL
    reserve = int(_SMALL_RESERVE if small else _RESERVE.get(place.main.type, _RESERVE["cuda"]))
    need = Need(rest + sum(layers), peak.cache, peak.work, reserve)
    if not place.spread:
        room = free(place.main)
        return LoadOption(precision, place, need, room, need.total <= room, {}, _rank(precision, place))
    host = free(torch.device("cpu")) if place.host else 0
    rooms = {place.main: free(place.main), **{card: free(card) for card in place.cards}}
    split = split_layers(rest, layers, peak, reserve, rooms, host)
    total = sum(rooms.values()) + host
    return LoadOption(precision, place, need, total, split is not None, split or {}, _rank(precision, place))


def split_layers(
    rest: int, layers: tuple[int, ...], peak: Peak, reserve: int, rooms: Mapping[torch.device, int], host: int
) -> dict[int, torch.device] | None:
    """Which decoder layers leave the first device of `rooms`, and where to; None where they do not fit anywhere.

    The first device keeps everything else, the cache included. Layers stay in order. One in main memory (`host` bytes
    free) calculates on the first device, so for the moment of its turn its weights need room there.
    """
    for offloaded in range(len(layers) + 1) if host else (0,):
        kept, sent = layers[: len(layers) - offloaded], layers[len(layers) - offloaded :]
        left = {device: int(room - peak.work - reserve) for device, room in rooms.items()}
        main = next(iter(left))
        left[main] -= rest + peak.cache + 2 * max(sent, default=0)  # one layer at work, the next arriving
        devices = list(_fill(kept, left))
        if len(devices) == len(kept) and left[main] >= 0 and sum(sent) + int(_RESERVE["cpu"]) * bool(sent) <= host:
            devices += [torch.device("cpu")] * offloaded
            return {layer: device for layer, device in enumerate(devices) if device != main}
    return None


def _fill(layers: tuple[int, ...], left: dict[torch.device, int]) -> Iterator[torch.device]:
    """The first device with room for each layer, never going back to one that was left; ends where none has."""
    devices = iter(left)
    device = next(devices)
    for size in layers:
        while left[device] < size:
            following = next(devices, None)
            if following is None:
                return
            device = following
        left[device] -= size
        yield device


def _amount(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else size_text(size)
