"""The fit advisor: what a variant needs in each precision, what is free, and how it should be loaded.

    options = plan_load(variant, folder, "auto")     # no weights are read
    print(options.message)                           # "Janus-Pro-7B: bf16 needs 16.9 GB, you have 11.2 free: int8 ..."
    plan = options.choose("auto")                    # AppError where nothing fits
    loader.load(plan)

The page, the command line and the session all ask here, so a load does what was shown before it.
docs/memory.md explains what is counted and compares it with measurements.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from janus_app.errors import AppError, Message
from janus_app.files import read_json
from janus_app.formatting import estimate, size_text
from janus_app.models.common.memory import BytesPerElement, Job, Peak
from janus_app.models.family import Family
from janus_app.models.registry import find_config, get_family
from janus_app.nn.fast.linear import has_bfloat16_instructions
from janus_app.nn.llama import cache_dtype
from janus_app.paths import ASSETS
from janus_app.registry.types import Variant
from janus_app.runtime.adapters import Adapter
from janus_app.runtime.devices import Placement, device_memory, placements
from janus_app.runtime.machine_speed import MachineSpeed, kept_speed, machine_speed
from janus_app.runtime.offload import layer_of
from janus_app.runtime.quantization import (
    bitsandbytes_missing,
    plain_dtype,
    tensor_dtype,
    weight_sizes,
)
from janus_app.runtime.stored_copy import saved_precision
from janus_app.types import PRECISIONS, QUANTIZED_PRECISIONS

KNOWN_CONFIGS = ASSETS / "checkpoints"  # config.json of models that are not downloaded yet
# Bytes per parameter and work per byte of the bf16 weights, where no config.json is known.
_BYTES_PER_PARAMETER = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.3, "nf4": 0.9}
_WORK_SHARE = 0.12
# Kept free beside what is counted: CUDA's context, library workspaces and what an allocator cannot reuse.
_RESERVE = {"cuda": 1.25e9, "xpu": 1.25e9, "mps": 0.5e9, "cpu": 0.3e9}
_SMALL_MODEL, _SMALL_RESERVE = 1e9, 0.1e9
_MUCH_QUICKER = 0.75  # of the chosen precision's time, up to which another one is mentioned
# Measured on a CPU (docs/memory.md): feature maps its convolutions copy, by the bytes of a number, and small blocks the
# C library keeps.
_CONV_COPIES, _HEAP = {4: 2.0, 2: 4.0}, 20_000_000
# Bytes per weight while a quantized layer computes: on cards (not measured), and on a CPU, which unpacks to float32.
_UNPACKED = {"cuda": {"nf4": 2.0}, "cpu": {"int8": 4.0, "nf4": 4.0}}


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of the device at the highest point of a usual job. The reserve is for what cannot be counted."""

    weights: int
    cache: int
    work: int
    reserve: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.work + self.reserve


@dataclass(frozen=True)
class Work:
    """What drawing takes of the processor: passes for each picture, and the bytes, operations and vectors of a pass."""

    passes: float
    size: int
    operations: int
    vectors: int


@dataclass(frozen=True)
class LoadPlan:
    """One way to load a variant: what `loader.load` takes.

    `folder` holds its config.json and weights (None: not on this machine), `components` the folders of its components
    by role, `config` what the family read there (None: not readable yet). `split` maps decoder layers that are not on
    the main device to theirs, `held` counts the bytes of the weights on each device. `rank` orders the plans that
    precision "auto" may choose; None is one it never chooses. `adapters` are merged into the weights. `drawing` is
    known for large models that draw on a CPU.
    """

    variant: Variant
    folder: Path | None
    components: Mapping[str, Path] = field(hash=False)
    config: Mapping[str, Any] | None = field(hash=False, repr=False)
    precision: str
    placement: Placement
    need: MemoryNeed
    free: int
    fits: bool
    split: Mapping[int, torch.device] = field(hash=False)
    held: Mapping[str, int] = field(hash=False)
    rank: tuple[int, ...] | None
    adapters: tuple[Adapter, ...] = ()
    drawing: Work | None = None

    @property
    def seconds(self) -> float | None:
        """About how long a picture takes; None where that is not known, as on GPUs. May measure the machine first."""
        return self.seconds_at(machine_speed()) if self.drawing else None

    @property
    def known_seconds(self) -> float | None:
        """As `seconds`, of a machine that was measured before."""
        return self.seconds_at(kept_speed()) if self.drawing else None

    def seconds_at(self, speed: MachineSpeed | None) -> float | None:
        if speed is None or (work := self.drawing) is None:
            return None
        return work.passes * speed.seconds(self.precision, work.size, work.operations, work.vectors)

    @property
    def label(self) -> str | Message:
        """The precision, and where the weights are if that is not one device."""
        if self.placement.host:
            return Message("precision_with_main_memory", precision=self.precision)
        if self.placement.cards:
            return Message("precision_on_all_cards", precision=self.precision)
        return self.precision


@dataclass(frozen=True)
class LoadOptions:
    """All ways to load a variant on a device, the preferred first."""

    title: str
    plans: tuple[LoadPlan, ...]

    @property
    def precisions(self) -> list[str]:
        """Those that the weights can be loaded in: all, or the one of a quantized copy."""
        return [precision for precision in PRECISIONS if any(plan.precision == precision for plan in self.plans)]

    @property
    def best(self) -> LoadPlan | None:
        """The plan of precision "auto", None where nothing fits."""
        return next((plan for plan in self.plans if plan.fits and plan.rank is not None), None)

    @property
    def message(self) -> Message:
        """What a person reads before a load with precision "auto"."""
        first, best = self.plans[0], self.best
        if best is None:
            return self._about("fit_none", min(self.plans, key=lambda plan: plan.need.total))
        if best is first:
            fits = self._about("fit_yes", first)
            alone = len(self.precisions) == 1  # as of a quantized copy: nothing was chosen
            said = fits if alone else Message("fit_automatic", fit=fits, reason=_reason(best))
        else:
            said = self._about("fit_other_recommended", first, best=best.label, best_need=_amount(best.need.total))
        return self._quicker(_timed(said, best), best)

    def _quicker(self, said: Message, best: LoadPlan) -> Message:
        """And the quickest other precision that fits, where it takes much less time."""
        others = [plan for plan in self.plans if plan.fits and plan.rank is not None and plan.seconds]
        quickest = min(others, key=lambda plan: plan.seconds or 0, default=best)
        if not best.seconds or (quickest.seconds or 0) > _MUCH_QUICKER * best.seconds:
            return said
        return Message("fit_quicker", fit=said, precision=quickest.label, time=estimate(quickest.seconds or 0))

    def _about(self, code: str, plan: LoadPlan, **values: object) -> Message:
        need, free = _amount(plan.need.total), _amount(plan.free)
        return Message(code, title=self.title, precision=plan.label, need=need, free=free, **values)

    def judge(self, precision: str) -> tuple[Message, bool]:
        """The message on one precision or "auto", and whether it can be loaded. Raises AppError for an unknown one."""
        if precision == "auto":
            return self.message, self.best is not None
        plan = self.plan(precision)
        if plan.fits:
            return _timed(self._about("fit_yes", plan), plan), True
        if self.best is None:
            return self.message, False
        best, best_need = self.best.label, _amount(self.best.need.total)
        return self._about("fit_too_large", plan, best=best, best_need=best_need), False

    def plan(self, precision: str) -> LoadPlan:
        """The best plan in one precision, whether it fits or not. Raises AppError for an unknown precision."""
        found = [plan for plan in self.plans if plan.precision == precision]
        if not found and precision in PRECISIONS:
            raise AppError("precision_of_copy", given=precision, stored=", ".join(self.precisions), title=self.title)
        if not found:
            raise AppError("precision_unknown", given=precision, known=", ".join(PRECISIONS))
        return next((plan for plan in found if plan.fits), found[0])

    def smaller(self, precision: str) -> LoadPlan | None:
        """The best plan that needs less than `precision` does, for a load that ran out of memory all the same."""
        limit = self.plan(precision).need.total
        return next((p for p in self.plans if p.need.total < limit and p.fits and p.rank is not None), None)

    def choose(self, precision: str) -> LoadPlan:
        """What to load for a precision or "auto". Raises AppError where it does not fit."""
        message, fits = self.judge(precision)
        plan = self.best if precision == "auto" else self.plan(precision)
        if plan is None or not fits:
            raise AppError(message)
        return plan


def _timed(said: Message, plan: LoadPlan) -> Message:
    """With the time of a picture, where it is known."""
    return said if plan.seconds is None else Message("fit_time", fit=said, time=estimate(plan.seconds))


def _reason(plan: LoadPlan) -> Message:
    """Why precision "auto" chooses the plan that it tries first."""
    if plan.placement.main.type != "cpu":
        return Message("fit_reason_device")
    return Message("fit_reason_bf16" if plan.precision == "bf16" else "fit_reason_full")


def plan_load(
    variant: Variant,
    folder: Path | None = None,
    device: str = "auto",
    *,
    components: Mapping[str, Path] | None = None,
    job: Job | None = None,
    freed: Mapping[str, int] | None = None,
) -> LoadOptions:
    """Every way to load a variant on a device name, in the order in which precision "auto" tries them.

    `folder` and `components` are where its files are, as far as they are on this machine. `job` defaults to
    `usual_job`. `freed` are bytes by device that become free before the load (the model it replaces). Raises AppError
    for an absent device and a damaged config.json in a checkpoint folder of the user.
    """
    model = _model(variant, folder, components)
    job = job or usual_job(variant)
    stored = saved_precision(model.folder) if model.folder else ""
    plans = [
        _plan(model, precision, placement, job, freed or {})
        for placement in placements(device)
        for precision in ([stored] if stored else PRECISIONS)
        if not (placement.host and precision in QUANTIZED_PRECISIONS)  # quantized layers cannot be moved for each step
    ]
    return LoadOptions(variant.title, tuple(sorted(plans, key=lambda plan: plan.rank or (9,))))


def _rank(precision: str, placement: Placement, large: bool) -> tuple[int, ...] | None:
    """The order of "auto": full precision on one device, then on all cards, then quantized, main memory last.

    On a CPU a large model is in bfloat16 first where the processor multiplies that: a token takes as long as reading
    the weights.
    """
    if placement.main.type == "cpu":
        full = ["fp32", "bf16"]
        halves = large and has_bfloat16_instructions()
        preferred = [*(reversed(full) if halves else full), *QUANTIZED_PRECISIONS]
    else:
        half = "fp16" if plain_dtype("nf4", placement.main) == torch.float16 else "bf16"
        preferred = [half, *QUANTIZED_PRECISIONS]
    if precision not in preferred or (precision in QUANTIZED_PRECISIONS and bitsandbytes_missing()):
        return None
    return (int(placement.host), preferred.index(precision), int(placement.spread))


def usual_job(variant: Variant) -> Job:
    """One use of each verb with the variant's own settings, one picture in the conversation."""

    def setting(name: str, fallback: float) -> float:
        row = variant.settings.get(name)
        return row.default if row else fallback

    return Job(
        count=int(setting("count", 1)),
        steps=int(setting("steps", 30)),
        guided=setting("guidance", 5.0) != 1,
        instructed="instruct" in variant.edit_methods,
        thought=variant.thinking.tokens if variant.thinking else 0,
        judged=bool(variant.thinking and variant.thinking.judge),
        answer=int(setting("max_new_tokens", 512)),
    )


@dataclass(frozen=True)
class _Model:
    """What is known of a variant's sizes. `config` is JSON text, so that it can be a key of a cache; None = unknown."""

    variant: Variant
    family: Family
    folder: Path | None
    components: Mapping[str, Path]
    config: str | None
    from_folder: bool = False


def _model(variant: Variant, folder: Path | None, components: Mapping[str, Path] | None) -> _Model:
    family, folder, components = get_family(variant.family), folder or variant.folder, components or {}
    if folder and (found := find_config(folder)):
        if variant.folder is not None:
            read_json(found)  # raises for a damaged one; the Hub's is repaired by the fetch
        try:
            config = json.dumps(family.read_config(folder, components))
            return _Model(variant, family, folder, components, config, from_folder=True)
        except AppError:  # as of a missing component: the load will say so, and the size may be known all the same
            pass
    if (expected := KNOWN_CONFIGS / f"{variant.id}.json").is_file():  # of models whose weights are the user's own
        return _Model(variant, family, folder, components, json.dumps(read_json(expected)["config"]))
    known = KNOWN_CONFIGS / f"{(variant.repo or '').split('/')[-1]}.json.gz"
    if not known.is_file():
        return _Model(variant, family, folder, components, None)
    facts = json.loads(gzip.decompress(known.read_bytes()))
    return _Model(variant, family, folder, components, json.dumps(facts["config"]))


@lru_cache(maxsize=64)
def _sizes(family: Family, config: str, precision: str, device: torch.device) -> tuple[int, tuple[int, ...]]:
    """Bytes of the weights outside the decoder's layers, and of each layer."""
    rest, layers = 0, dict[int, int]()
    for name, size in weight_sizes(family, _network(family, config), precision, device).items():
        if (layer := layer_of(name, family.offload_prefix)) is not None:
            layers[layer] = layers.get(layer, 0) + size
        else:
            rest += size
    return rest, tuple(layers[i] for i in sorted(layers))


@lru_cache(maxsize=1)
def _network(family: Family, config: str) -> torch.nn.Module:
    return family.meta_network(json.loads(config))


def weight_bytes(variant: Variant, precision: str, device: str = "cpu") -> int:
    """Bytes of a variant's weights as the loader keeps them on a type of device."""
    return _total(_model(variant, None, None), precision, torch.device(device))


def _total(model: _Model, precision: str, device: torch.device) -> int:
    rest, layers = _weights(model, precision, device)
    return rest + sum(layers)


def _weights(model: _Model, precision: str, device: torch.device) -> tuple[int, tuple[int, ...]]:
    if model.config is not None:
        return _sizes(model.family, model.config, precision, device)
    variant = model.variant
    return variant.memory.get(precision) or int(variant.parameters * _BYTES_PER_PARAMETER[precision]), ()


def running_peak(variant: Variant, precision: str, device: torch.device, job: Job) -> Peak:
    """Cache and work of a job beside the weights."""
    return _peak(_model(variant, None, None), precision, device, job)


def _peak(model: _Model, precision: str, device: torch.device, job: Job) -> Peak:
    if model.config is None:
        return Peak(0, int(_total(model, "bf16", device) * _WORK_SHARE))
    widths = _widths(model.family, precision, device)
    peak = model.family.job_peak(json.loads(model.config), model.variant.size[0], job, widths)
    return replace(peak, work=peak.work + _HEAP) if device.type == "cpu" else peak


def _widths(family: Family, precision: str, device: torch.device) -> BytesPerElement:
    dtype, on_cpu = plain_dtype(precision, device), device.type == "cpu"
    pictures = tensor_dtype(family, family.picture_decoder_prefix, precision, device).itemsize
    return BytesPerElement(
        decoder=dtype.itemsize,
        cache=cache_dtype(device, dtype).itemsize,
        pictures=pictures,
        conv_scratch=_CONV_COPIES[pictures] if on_cpu else 0.0,
        linear_scratch=_UNPACKED["cpu" if on_cpu else "cuda"].get(precision, 0.0),
    )


def _drawing(model: _Model, precision: str, device: torch.device, job: Job) -> Work | None:
    """The work of a picture on a CPU; None where its time is not known, and for small models, which take no time."""
    family, config = model.family, model.config
    unknown = config is None or family.drawing_cost is None or "generate" not in model.variant.verbs
    # The speeds of the other precisions were measured with bfloat16 instructions.
    known = precision == "fp32" or (precision != "fp16" and has_bfloat16_instructions())
    if unknown or not known or device.type != "cpu" or _total(model, "bf16", device) < _SMALL_MODEL:
        return None
    assert config is not None and family.drawing_cost is not None
    cost = family.drawing_cost(json.loads(config), model.variant.size[0], job, _widths(family, precision, device))
    size, number = _read(family, config, precision, cost.weights)
    return Work(cost.passes / job.count, size + cost.cache, 2 * number * cost.vectors, cost.vectors)


@lru_cache(maxsize=64)
def _read(family: Family, config: str, precision: str, prefixes: tuple[str, ...]) -> tuple[int, int]:
    """Bytes of the weights below the prefixes on a CPU, and how many they are."""
    network, device = _network(family, config), torch.device("cpu")
    sizes, full = (weight_sizes(family, network, kind, device) for kind in (precision, "fp32"))
    names = [name for name in sizes if name.startswith(prefixes)]
    return sum(sizes[name] for name in names), sum(full[name] for name in names) // 4


def _plan(model: _Model, precision: str, placement: Placement, job: Job, freed: Mapping[str, int]) -> LoadPlan:
    def free(device: torch.device) -> int:
        return device_memory(device).free + freed.get(str(device), 0)

    main = placement.main
    rest, layers = _weights(model, precision, main)
    peak = _peak(model, precision, main, job)
    weights = rest + sum(layers)
    reserve = int(_SMALL_RESERVE if weights < _SMALL_MODEL else _RESERVE.get(main.type, _RESERVE["cuda"]))
    need = MemoryNeed(weights, peak.cache, peak.work, reserve)
    rooms = {device: free(device) for device in (main, *placement.cards)}
    host = free(torch.device("cpu")) if placement.host else 0
    split: dict[int, torch.device] | None = {} if need.total <= rooms[main] else None
    if placement.spread:
        split = split_layers(rest, layers, peak, reserve, rooms, host)
    return LoadPlan(
        model.variant,
        model.folder,
        model.components,
        json.loads(model.config) if model.config and model.from_folder else None,
        precision,
        placement,
        need,
        free=sum(rooms.values()) + host,
        fits=split is not None,
        split=split or {},
        held=_held(main, rest, layers, split or {}),
        rank=_rank(precision, placement, large=_total(model, "bf16", main) >= _SMALL_MODEL),
        drawing=_drawing(model, precision, main, job),
    )


def _held(main: torch.device, rest: int, layers: tuple[int, ...], split: Mapping[int, torch.device]) -> dict[str, int]:
    """Bytes of the weights on each device; `rest` of those outside the layers, which are on `main`."""
    held = {str(main): rest}
    for layer, size in enumerate(layers):
        device = str(split.get(layer, main))
        held[device] = held.get(device, 0) + size
    return held


def split_layers(
    rest: int, layers: tuple[int, ...], peak: Peak, reserve: int, rooms: Mapping[torch.device, int], host: int
) -> dict[int, torch.device] | None:
    """The decoder layers that are not on the first device of `rooms`, with their devices; None where they do not fit.

    All arguments are bytes: `rest` of the weights outside the layers, `layers` of each layer, `rooms` what is free on
    each device, `host` what is free in main memory (0 = not used). The first device keeps everything outside the layers
    and the cache. Layers stay in order. A layer in main memory is copied to the first device while it computes.
    """
    for offloaded in range(len(layers) + 1) if host else (0,):
        resident, sent = layers[: len(layers) - offloaded], layers[len(layers) - offloaded :]
        left = {device: int(free - peak.work - reserve) for device, free in rooms.items()}
        main = next(iter(left))
        left[main] -= rest + peak.cache + 2 * max(sent, default=0)  # one layer computes while the next is copied
        devices = list(_fill(resident, left))
        if len(devices) == len(resident) and left[main] >= 0 and sum(sent) + int(_RESERVE["cpu"]) * bool(sent) <= host:
            devices += [torch.device("cpu")] * offloaded
            return {layer: device for layer, device in enumerate(devices) if device != main}
    return None


def _fill(layers: tuple[int, ...], left: dict[torch.device, int]) -> Iterator[torch.device]:
    """Yield the first device with enough space for each layer, never an earlier one again; ends where none has."""
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
