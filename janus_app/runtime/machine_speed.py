"""How fast this machine's processor reads memory and multiplies, and what follows for the time of a drawing.

Both are measured in a few tenths of a second when they are first needed, and kept in the data folder for each
processor, number of threads and version of PyTorch. Other programs only make a measurement slower, so the fastest of
the first few is kept, and none where they take the processor away.
docs/memory.md has the figures behind the shares below.
"""

from __future__ import annotations

import json
import platform
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from janus_app.errors import AppError
from janus_app.files import file_lock, read_json, write_atomically
from janus_app.nn.fast.linear import MAX_DECODE_ROWS, has_bfloat16_instructions
from janus_app.paths import data_folder
from janus_app.runtime.devices import device_memory, limit_threads_to_cgroup
from janus_app.runtime.quantization import quantized_linear
from janus_app.types import QUANTIZED_PRECISIONS

FILE = "machine_speed.json"
SCHEMA = 2
MEASUREMENTS = 3  # starts of the program that measure, until what is kept is believed
_BUFFER = 512_000_000  # bytes, more than a large cache holds
_SLICE = 1_000_000  # bytes for each thread, read before other programs interrupt
_BUSY = 0.8
_RETRY = 60.0  # seconds until a machine that was too busy is measured again
_PRODUCT = (32, 1024, 2048)  # rows for each thread, outputs, inputs
# The part of the read bandwidth and of the rate of products that drawing reached, all overhead of a pass included.
# Measured with bfloat16 instructions.
_READ_SHARE = {"fp32": 0.8, "bf16": 0.7, "int8": 0.55, "nf4": 0.56}
_RATE_SHARE = 0.85
_FEW = 2  # vectors that a step multiplies: a picture with guidance
_FEW_SHARE = {"int8": 0.8, "nf4": 0.6}  # of the rate of kernels for few vectors
_UNPACKING_SHARE = 0.35  # of products with many vectors, whose weights are unpacked first
_KERNEL_SHARE = 0.4  # of the float32 rate: the same kernels with more vectors
_measuring = threading.Lock()
_speed: MachineSpeed | None = None  # what this process found
_tried = float("-inf")  # when it last measured


@dataclass(frozen=True)
class MachineSpeed:
    """Bytes read per second, and operations of a matrix product per second in float32 and bfloat16.

    int8, nf4: weights per second that are multiplied with few vectors and stay packed, as far as no memory holds them
    up; 0 where that is not known.
    """

    read: float
    fp32: float
    bf16: float
    int8: float = 0.0
    nf4: float = 0.0

    def seconds(self, precision: str, size: float, operations: float, vectors: int) -> float:
        """The time of a pass that reads `size` bytes and multiplies `vectors` vectors: the longest of its parts.

        fp16 was not measured and is not known; without bfloat16 instructions only fp32 is.
        """
        parts = [size / (self.read * _READ_SHARE[precision]), operations / self._rate(precision, vectors)]
        if precision in QUANTIZED_PRECISIONS and (rate := getattr(self, precision)):
            parts.append(operations / (2 * vectors) / (rate * _FEW_SHARE[precision]))
        return max(parts)

    def _rate(self, precision: str, vectors: int) -> float:
        if precision not in QUANTIZED_PRECISIONS:
            return _RATE_SHARE * (self.fp32 if precision == "fp32" else self.bf16)
        if vectors <= MAX_DECODE_ROWS:
            return max(_KERNEL_SHARE * self.fp32, _UNPACKING_SHARE * self.bf16 * vectors / MAX_DECODE_ROWS)
        return _UNPACKING_SHARE * self.bf16


_NAMES = tuple(field.name for field in fields(MachineSpeed))


def machine_speed() -> MachineSpeed | None:
    """The speed of this machine's processor, measured where not enough is kept; None where that was not possible.

    A file that cannot be read or written costs another measurement, no more.
    """
    global _speed, _tried
    with _measuring:  # two measurements at once would slow each other
        if _speed is None and time.monotonic() - _tried >= _RETRY:
            _speed, _tried = _kept_or_measured(), time.monotonic()
        return _speed


def _kept_or_measured() -> MachineSpeed | None:
    file, key = data_folder() / FILE, fingerprint()
    speed, times = _kept(file, key)
    if speed is None or times < MEASUREMENTS:
        if (now := measure()) is None:
            return speed
        speed = now if speed is None else MachineSpeed(*map(max, astuple(speed), astuple(now)))
        _keep(file, key, speed, times + 1)
    return speed


def kept_speed() -> MachineSpeed | None:
    """What is kept for this machine's processor; nothing is measured."""
    return _kept(data_folder() / FILE, fingerprint())[0]


def fingerprint() -> str:
    """What a measurement holds for: the processor's name and features, the threads, and the version of PyTorch.

    Limits the threads as a load does, so that those are counted and measured that will draw.
    """
    limit_threads_to_cgroup()
    processor = f"{processor_name()} ({', '.join(processor_features())})"
    return f"{processor}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def processor_name() -> str:
    """The name as its maker gives it; where the system does not tell, the architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def processor_features() -> list[str]:
    """The instructions that decide how fast a model computes: avx2, avx512, avx512_bf16, amx, as PyTorch finds them."""
    names = {"avx2": "_is_avx2_supported", "avx512": "_is_avx512_supported"}
    names |= {"avx512_bf16": "_is_avx512_bf16_supported", "amx": "_is_amx_tile_supported"}
    return [name for name, known in names.items() if getattr(torch.cpu, known, lambda: False)()]


def measure() -> MachineSpeed | None:
    """The speed in the fastest moments.

    None where one thread reads faster than all together, because other programs use the processor, and where too
    little memory is free to read more than a cache holds.
    """
    threads = torch.get_num_threads()
    size = int(min(_BUFFER, device_memory(torch.device("cpu")).free // 8))
    if size < _BUFFER // 2:
        return None
    slices = torch.ones(size // 4).split(_SLICE // 4 * threads)
    read = _reading(lambda part: part.sum(), slices)
    if threads > 1 and read < _BUSY * _reading(lambda part: part.numpy().max(), slices):
        return None
    del slices
    half = torch.bfloat16 if has_bfloat16_instructions() else torch.float32  # slow and of no use without
    products = (_multiplying(torch.float32, threads), _multiplying(half, threads))
    few = (_unpacking(precision) for precision in QUANTIZED_PRECISIONS) if has_bfloat16_instructions() else ()
    return MachineSpeed(read, *products, *few)


def _reading(work: Callable[[torch.Tensor], object], slices: Sequence[torch.Tensor]) -> float:
    """Bytes per second in the slices that were read fastest."""
    rates = sorted((part.nbytes / _seconds(work, part) for part in slices), reverse=True)
    return rates[len(rates) // 10]


def _multiplying(dtype: torch.dtype, threads: int) -> float:
    """Operations per second of the fastest product."""
    rows, outer, inner = _PRODUCT
    x, weight = torch.ones(rows * threads, inner, dtype=dtype), torch.ones(outer, inner, dtype=dtype)
    return 2 * len(x) * outer * inner / min(_seconds(F.linear, x, weight) for _ in range(20))


def _unpacking(precision: str) -> float:
    """Weights per second of the fastest product of few vectors with weights of this precision; 0 where none works."""
    weight = torch.randn(_PRODUCT[1:], dtype=torch.bfloat16)
    with torch.inference_mode(), suppress(Exception):  # kernels of the library fail in many ways
        linear = quantized_linear(weight, precision, weight.device, weight.dtype)
        x = torch.ones(_FEW, linear.in_features, dtype=weight.dtype)
        return weight.numel() / min(_seconds(linear, x) for _ in range(20))
    return 0.0


def _seconds(work: Callable[..., object], *given: object) -> float:
    started = time.perf_counter()
    work(*given)
    return time.perf_counter() - started


def _kept(file: Path, key: str) -> tuple[MachineSpeed | None, int]:
    """The kept speed and how often it was measured."""
    try:
        entry = _all(file)[key]
        speed = MachineSpeed(*(float(entry[name]) for name in _NAMES))
        return (speed, int(entry["times"])) if min(speed.read, speed.fp32, speed.bf16) > 0 else (None, 0)
    except (AppError, KeyError, TypeError, ValueError):
        return None, 0


def _keep(file: Path, key: str, speed: MachineSpeed, times: int) -> None:
    with suppress(AppError, OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(file.with_name(f".{FILE}.lock")):
            speeds: dict[str, Any] = {}
            with suppress(AppError):  # a damaged file is replaced
                speeds = _all(file)
            speeds[key] = {**asdict(speed), "times": times}
            write_atomically(file, json.dumps({"schema": SCHEMA, "speeds": speeds}, indent=1).encode())


def _all(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    document = read_json(file)
    speeds = document.get("speeds")
    return speeds if document.get("schema") == SCHEMA and isinstance(speeds, dict) else {}
