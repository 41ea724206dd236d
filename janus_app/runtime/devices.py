"""The devices of this machine, and how much of their memory is free."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from janus_app.errors import AppError

ALL_CARDS, CARD_AND_HOST = "cuda:all", "cuda+cpu"
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """Bytes of the device the weights live on: graphics memory, or main memory for the CPU."""

    free: int
    total: int


@dataclass(frozen=True)
class Place:
    """Where a model lives: all of it on `main`, or its decoder's layers also on other `cards` and in main memory."""

    name: str
    main: torch.device
    cards: tuple[torch.device, ...] = ()
    host: bool = False

    @property
    def spread(self) -> bool:
        return bool(self.cards) or self.host


def places(name: str) -> list[Place]:
    """The places a device name stands for, the simplest first.

    "auto" is every place of the best kind of device; "cpu", "cuda", "cuda:1", "mps" and "xpu" are one each; "cuda:all"
    spreads layers over all cards, "cuda+cpu" keeps layers that do not fit the card in main memory. Raises AppError
    for a device that is not there.
    """
    if name in (ALL_CARDS, CARD_AND_HOST):
        main = resolve_device("cuda")
        others = tuple(card for card in cards() if card != main)
        return [Place(name, main, others)] if name == ALL_CARDS else [Place(name, main, others, host=True)]
    device = resolve_device(name)
    found = [Place(str(device), device)]
    if name == "auto" and device.type == "cuda":
        if torch.cuda.device_count() > 1:
            found += places(ALL_CARDS)
        found += places(CARD_AND_HOST)
    return found


def cards() -> list[torch.device]:
    """Every CUDA card PyTorch can use."""
    return [torch.device("cuda", i) for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]


def device_names() -> list[str]:
    """What a person may choose on this machine: "auto", each device, and the ways to spread over several."""
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
        raise AppError(
            f"There is no device called {name!r}. Choose auto, cpu, cuda, cuda:1, cuda:all, cuda+cpu, mps or xpu."
        ) from None
    if device.type == "cuda":
        count = len(cards())
        if not count:
            raise AppError(
                "No CUDA graphics card can be used here: PyTorch sees none (no card, no driver, or a CPU build of "
                "PyTorch). Use --device cpu, or run `python -m janus_app doctor` to see what is missing."
            )
        if (device.index or 0) >= count:
            raise AppError(f"There is no {name}: this machine has {count} CUDA card(s), counted from cuda:0.")
        return _freest_card() if device.index is None else device
    usable = {"cpu": True, "mps": torch.backends.mps.is_available(), "xpu": torch.xpu.is_available()}
    if not usable.get(device.type, False):
        raise AppError(f"The device {name!r} is not available here. Use --device auto or cpu.")
    return device


def _freest_card() -> torch.device:
    """The first of the cards whose free memory is largest by more than a tenth; cuda:0 on a quiet machine."""
    best = cards()[0]
    for card in cards()[1:]:
        if device_memory(card).free > 1.1 * device_memory(best).free:
            best = card
    return best


def device_memory(device: torch.device) -> Memory:
    """What is free and there in all. Main memory ends where a container's limit does."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(free, total)
    import psutil

    machine = psutil.virtual_memory()
    limit = container_limit()
    if limit is None or limit.total >= machine.total:
        return Memory(machine.available, machine.total)
    return Memory(min(limit.free, machine.available), limit.total)


def container_limit(root: Path = CGROUP) -> Memory | None:
    """The memory limit of this process's container (Linux control groups, version 2 or 1), or None without one.

    Cached files count as used there, but the inactive ones are given up on demand, so they are free.
    """
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            total = int((root / limit).read_text())  # "max" where there is none
            taken = int((root / used).read_text())
            stat = (root / limit).with_name("memory.stat").read_text()
        except (OSError, ValueError):
            continue
        inactive = next((int(line.split()[1]) for line in stat.splitlines() if line.startswith(f"{cached} ")), 0)
        return Memory(max(0, total - taken + inactive), total)
    return None


def processor_quota(root: Path = CGROUP) -> float | None:
    """Processors a container may use at once, 1.5 for one and a half; None without a limit."""
    try:
        quota, period = (root / "cpu.max").read_text("ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def limit_threads_to_cgroup(root: Path = CGROUP) -> None:
    """No more threads than a container may use: PyTorch counts the machine's processors and would wait for itself."""
    quota = processor_quota(root)
    if quota is not None and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), math.ceil(quota))))
