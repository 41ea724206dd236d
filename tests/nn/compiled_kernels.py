"""Triton kernels compiled for graphics cards that are not here, as their launches would compile them there.

The launches come from the functions of `triton_kernels` themselves, called with tensors on the meta device.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

NVIDIA = (75, 80, 86, 89, 90, 100, 120)  # compute capabilities that the app supports: 7.5 is Turing, 12.0 Blackwell
OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")
_POINTERS = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int8: "*i8", torch.uint8: "*u8",
    torch.int64: "*i64", torch.int32: "*i32", torch.bool: "*i1",
}  # fmt: skip
_ALIGNED = [["tt.divisibility", 16]]


@dataclass(frozen=True)
class Launch:
    """A kernel, its arguments by name, and the options of its compilation."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)


@dataclass(frozen=True)
class Compiled:
    """What the compiler made: the code, registers of a thread, bytes of a thread's stack (spilled registers)."""

    ptx: str
    registers: int
    stack: int

    @property
    def loads(self) -> dict[int, int]:
        """Bytes that a thread loads at once -> instructions that do so."""
        vectors = re.findall(r"ld\.global\S*?(?:\.v(\d))?\.[bufs](\d+)\b", self.ptx)
        copies = re.findall(r"cp\.async\.c[ag]\.shared\.global\S* .*?, (0x[0-9a-f]+|\d+)[,;]", self.ptx)
        widths = [int(count or 1) * int(bits) // 8 for count, bits in vectors] + [int(n, 0) for n in copies]
        return {width: widths.count(width) for width in sorted(set(widths))}

    @property
    def share_of_wide_loads(self) -> float:
        """The share of the loaded bytes that are loaded 16 at once."""
        loads = self.loads
        return 16 * loads.get(16, 0) / sum(width * count for width, count in loads.items())


@contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Kernels that are launched meanwhile are noted and do not run."""
    launches: list[Launch] = []

    def note(kernel: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> None:
        options = {name: named.pop(name) for name in OPTIONS if name in named}
        launches.append(Launch(kernel, dict(zip(kernel.arg_names, args, strict=False)) | named, options))

    with patch.object(JITFunction, "run", note):
        yield launches


def launches_of(action: Callable[[], object]) -> list[Launch]:
    """The launches of an action."""
    with recorded_launches() as launches, torch.inference_mode():
        action()
    return launches


def compile_for(launch: Launch, capability: int) -> Compiled:
    """The kernel for NVIDIA cards of a compute capability, 90 for 9.0. Raises what Triton's compiler raises."""
    types, constants, attributes = dict[str, str](), dict[tuple[int], Any](), dict[tuple[int], Any]()
    for index, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        types[parameter.name], aligned = _type(value)
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            types[parameter.name], constants[index,] = "constexpr", value
        elif aligned:
            attributes[index,] = _ALIGNED
    source = ASTSource(launch.kernel, types, constexprs=constants, attrs=attributes)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    registers, stack = _resources(made.asm["cubin"])
    return Compiled(made.asm["ptx"], registers, stack)


def _type(value: Any) -> tuple[str, bool]:
    """The type of an argument, and whether Triton may rely on its being a multiple of 16."""
    if isinstance(value, Tensor):
        return _POINTERS[value.dtype], value.storage_offset() * value.itemsize % 16 == 0
    if isinstance(value, bool) or not isinstance(value, int):
        return "i1" if isinstance(value, bool) else "fp32", False
    return "i32" if -(2**31) <= value < 2**31 else "i64", value % 16 == 0


def _resources(cubin: bytes) -> tuple[int, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    file = Path(triton.knobs.cache.dir) / "kernel.cubin"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(cubin)
    told = subprocess.run([tool, "--dump-resource-usage", file], capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", told).groups()  # type: ignore[union-attr]
    return int(registers), int(stack)
