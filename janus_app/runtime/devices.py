"""The devices of this machine, and how much of their memory is free."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from janus_app.errors import AppError

ALL_CARDS, CARD_AND_HOST = "cuda:all", "cuda+cpu"
CGROUP = Path("/sys/fs/cgroup")
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Memory:
    """Bytes of a device's memory; of main memory for the CPU."""

    free: int
    total: int


@dataclass(frozen=True)
class Placement:
    """Where weights are: all on `main`, or decoder layers also on other `cards` and in main memory (`host`)."""

    name: str
    main: torch.device
    cards: tuple[torch.device, ...] = ()
    host: bool = False

    @property
    def spread(self) -> bool:
        return bool(self.cards) or self.host


def placements(name: str) -> list[Placement]:
    """The placements that a device name allows, the simplest first.

    "auto" allows every placement on the best kind of device; "cpu", "cuda", "cuda:1", "mps" and "xpu" allow one each;
    "cuda:all" distributes layers over all cards, "cuda+cpu" puts layers that do not fit on the card into main memory.
    Raises AppError for a device that is not there.
    """
    if name in (ALL_CARDS, CARD_AND_HOST):
        main = resolve_device("cuda")
        others = tuple(card for card in cards() if card != main)
        return [Placement(name, main, others, host=name == CARD_AND_HOST)]
    device = resolve_device(name)
    found = [Placement(str(device), device)]
    if name == "auto" and device.type == "cuda":
        if torch.cuda.device_count() > 1:
            found += placements(ALL_CARDS)
        found += placements(CARD_AND_HOST)
    return found


def cards() -> list[torch.device]:
    """Every CUDA card PyTorch can use."""
    return [torch.device("cuda", i) for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]


def device_names() -> list[str]:
    """The device names of this machine: "auto", each device, and those of several devices together."""
    names = ["auto", *("cuda" if len(cards()) == 1 else str(card) for card in cards())]
    if cards():
        names += [ALL_CARDS] * (len(cards()) > 1) + [CARD_AND_HOST]
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        names.append("xpu")
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def resolve_device(name: str) -> torch.device:
    """ "auto", "cpu", "cuda", "cuda:1", "mps" or "xpu" to a device that is really there; "cuda:all" and "cuda+cpu" to
    their main card. "auto" and "cuda" take the card with the most free memory. Raises AppError."""
    if name == "auto":
        if torch.cuda.is_available():
            return _freest_card()
        if hasattr(torch, "xpu") and torch.xpu.is_available():
            return torch.device("xpu", 0)
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device("cuda" if name in (ALL_CARDS, CARD_AND_HOST) else name)
    except RuntimeError:
        raise AppError("device_unknown", given=name) from None
    if device.type == "cuda":
        count = len(cards())
        if not count:
            raise AppError("cuda_unavailable")
        if (device.index or 0) >= count:
            raise AppError("cuda_index_unknown", given=name, count=count)
        return _freest_card() if device.index is None else device
    usable = {"cpu": True, "mps": torch.backends.mps.is_available(), "xpu": torch.xpu.is_available()}
    if not usable.get(device.type, False):
        raise AppError("device_unavailable", given=name)
    return device


def _freest_card() -> torch.device:
    """The first of the cards whose free memory is largest by more than a tenth; cuda:0 on a quiet machine."""
    best = cards()[0]
    for card in cards()[1:]:
        if device_memory(card).free > 1.1 * device_memory(best).free:
            best = card
    return best


def under_device(device: torch.device, steps: Generator[Item, None, Result]) -> Generator[Item, None, Result]:
    """Do each step of a generator, its closing included, with `device` as PyTorch's current card.

    Triton and CUDA graphs work on the current card, whatever their tensors are on. It is never left set across a yield,
    because the thread may do something else then, and another thread may take the next step.
    """
    try:
        while True:
            with _current(device):
                try:
                    item = next(steps)
                except StopIteration as end:
                    result: Result = end.value
                    return result
            yield item
    finally:
        with _current(device):
            steps.close()


def _current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def device_memory(device: torch.device) -> Memory:
    """Free and total memory of a device. A container's limit is the total of its main memory.

    What PyTorch keeps of a card's memory without using it is free: it takes that first, and returns it where it runs
    out.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return Memory(free + unused, total)
    import psutil

    machine = psutil.virtual_memory()
    if device.type == "xpu":
        try:
            return Memory(*torch.xpu.mem_get_info(device))
        except RuntimeError:  # drivers of many Intel GPUs, discrete ones too, do not tell what other programs use
            total = torch.xpu.get_device_properties(device).total_memory
            # Graphics in the processor share the main memory.
            return Memory(min(total - torch.xpu.memory_allocated(device), machine.available), total)
    limit = container_limit()
    if limit is None or limit.total >= machine.total:
        return Memory(machine.available, machine.total)
    return Memory(min(limit.free, machine.available), limit.total)


def program_memory(device: torch.device) -> int:
    """Bytes of a device's memory that this program holds: all of it, libraries included, in main memory; on a card
    what PyTorch has taken."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    if device.type == "xpu":
        return torch.xpu.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    import psutil

    return int(psutil.Process().memory_info().rss)


def container_limit(root: Path = CGROUP) -> Memory | None:
    """The memory limit of this process's container (Linux control groups, version 2 or 1), or None without one.

    Cached files count as used there, but the kernel drops inactive ones on demand, so they are free.
    """
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            total = int((root / limit).read_text())  # "max" where there is none
            used_bytes = int((root / used).read_text())
            stat = (root / limit).with_name("memory.stat").read_text()
        except (OSError, ValueError):
            continue
        inactive = next((int(line.split()[1]) for line in stat.splitlines() if line.startswith(f"{cached} ")), 0)
        return Memory(max(0, total - used_bytes + inactive), total)
    return None


def cpu_quota(root: Path = CGROUP) -> float | None:
    """Processors a container may use at once, 1.5 for one and a half; None without a limit."""
    try:
        quota, period = (root / "cpu.max").read_text("ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def limit_threads_to_cgroup(root: Path = CGROUP) -> None:
    """Lower PyTorch's threads to a container's quota: PyTorch counts the machine's processors, and threads beyond the
    quota only wait for each other."""
    quota = cpu_quota(root)
    if quota is not None and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), math.ceil(quota))))
