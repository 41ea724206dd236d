"""Pretended CUDA cards: what a machine without one can show of the code for it.

Inside `pretended_cards(count)` tensors may be on "cuda:0" and so on. They compute on the CPU, but operations that mix
devices fail, every wait for a card is noted, CUDA graphs are tapes that are played over the same memory, and memory is
counted as PyTorch's allocator counts it. What runs at the same time, what a card rounds differently and how fast
anything is cannot be seen.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import sys
import threading
import weakref
from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.bias import CausalBias
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from janus_app.nn.fast import cuda_graphs, kernels

# They read a value, or the shape of their output depends on one: the host waits for the card.
WAITS = {"item", "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "argwhere", "masked_select", "bincount"}
WAITS |= {"_unique2", "unique_consecutive", "unique_dim", "repeat_interleave.Tensor", "repeat_interleave.self_Tensor"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
ALLOCATING = {"empty", "empty_like", "empty_strided", "new_empty"}  # no kernel
MIB = 2**20
_now = threading.local()  # the thread's card and streams; PyTorch, too, keeps them by thread


class CardTensor(Tensor):
    """A tensor that says it is on a card; `inner` has the values, in main memory."""

    inner: Tensor
    cards: PretendedCards

    @staticmethod
    def __new__(cls, inner: Tensor, cards: PretendedCards | None = None, device: Any = None, **_: Any) -> Any:
        if cards is None:  # accelerate copies a parameter by calling its class
            return torch.nn.Parameter(inner, requires_grad=False)
        where = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        self = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=device, **where)
        self.inner, self.cards = inner, cards
        cards.allocators[device.index].hold(inner)
        return self

    def __del__(self) -> None:
        if hasattr(self, "cards"):
            self.cards.allocators[self.device.index].release(self.inner)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cards = next(t.cards for t in tree_leaves((args, kwargs)) if isinstance(t, CardTensor))
        return cards.run(func, args, kwargs or {})

    def tolist(self) -> Any:
        self.cards.wait("tolist")
        return self.inner.tolist()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"CardTensor({tuple(self.shape)}, {self.dtype}, {self.device})"


class PretendedCards(TorchDispatchMode):
    """The cards of a machine, and what was seen of their use.

    waits: every wait of the host for a card, as "operation at file:line". faults: what CUDA would refuse. recorded: the
    names of the kernels that each CUDA graph launches. graphs: the CUDA graphs that are alive.
    """

    def __init__(self, count: int, memory: float, hollow: bool) -> None:
        super().__init__()
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE  # so PyTorch does not start CUDA
        self.count, self.inner_device = count, torch.device("meta" if hollow else "cpu")
        self.allocators = [Allocator(int(memory)) for _ in range(count)]
        self.waits: list[str] = []
        self.faults: list[str] = []
        self.recorded: list[list[str]] = []
        self.graphs: weakref.WeakSet[CudaGraph] = weakref.WeakSet()
        self.tape: Tape | None = None
        self.float64 = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def fault(self, text: str) -> RuntimeError:
        self.faults.append(f"{text}, at {_place()}")
        return RuntimeError(text)

    def wait(self, name: str) -> None:
        if self.tape is not None:
            self.tape.broken = True
            raise self.fault(f"operation not permitted when stream is capturing: {name}")
        self.waits.append(f"{name} at {_place()}")

    def waits_of(self, action: Callable[[], Any]) -> list[str]:
        """The waits of an action."""
        before = len(self.waits)
        action()
        return self.waits[before:]

    def device(self, given: Any) -> torch.device:
        """A device with its number; without one it is the thread's current card."""
        device = torch.device("cuda", given) if isinstance(given, int) else torch.device(given or "cuda")
        return torch.device("cuda", current_card()) if device.type == "cuda" and device.index is None else device

    def run(self, func: Any, args: Any, kwargs: Any, name: str = "") -> Any:
        """One operation, on cards or not."""
        name = name or str(func).removeprefix("aten.")
        name = name if name in WAITS else name.partition(".")[0]
        if name == "to":
            with self:  # it is made of others
                return func.decompose(*args, **kwargs)
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        on_cards = [each for each in given if isinstance(each, CardTensor)]
        if name == "_has_compatible_shallow_copy_type":
            return len(on_cards) in (0, 2)
        target = self.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if not on_cards and (target is None or target.type != "cuda"):
            return func(*args, **kwargs)
        self._check(name, args, kwargs, on_cards, [each for each in given if not isinstance(each, CardTensor)], target)
        originals = {id(each.inner): each for each in on_cards}
        args, kwargs = tree_map_only(CardTensor, lambda each: each.inner, (args, kwargs))
        kwargs.pop("pin_memory", None)
        if target is not None and target.type == "cuda":
            kwargs["device"] = self.inner_device
        with torch.inference_mode(False), torch.no_grad():
            out = func(*args, **kwargs) if self.tape is None else self.tape.record(func, name, args, kwargs)
            if (target is not None and target.type != "cuda") or (name == "copy_" and id(args[0]) not in originals):
                return out
            device = target or on_cards[0].device
            return tree_map_only(Tensor, lambda each: self._outside(each, originals, device), out)

    def run_kernel(self, name: str, reference: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A kernel of Triton as one operation. Raises as a launch on another than the current card would."""
        for each in tree_leaves((args, kwargs)):
            if isinstance(each, CardTensor) and each.device.index != current_card():
                raise self.fault(f"{name} for {each.device} was launched on cuda:{current_card()}")
        if name == "attend" and args[-1] > 1:  # of several parts, which a second launch merges
            name = "attend and merge"
        return self.run(reference, args, kwargs, name)

    def _outside(self, inner: Tensor, originals: dict[int, CardTensor], device: torch.device) -> CardTensor:
        known = originals.get(id(inner))
        assert known is None or known.shape == inner.shape, "an operation that changes a shape in place"
        if inner.dtype == torch.float64 and not self.float64:
            raise self.fault("Cannot convert a tensor to float64: the device has none")
        return CardTensor(inner, self, device) if known is None else known

    def _check(
        self, name: str, args: Any, kwargs: Any, on_cards: list[CardTensor], hosts: list[Tensor], target: Any
    ) -> None:
        devices = {each.device for each in on_cards}
        asynchronous = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        if name in WAITS or (name in INDEXING and _waits_for_index(args)):
            self.wait(name)
        elif name in ("_to_copy", "copy_"):
            to_host = "cpu" in (target and target.type, name == "copy_" and args[0].device.type)
            if to_host or (hosts and hosts[0].numel() and not asynchronous):  # PyTorch waits after either
                self.wait("copy to the host" if to_host else "copy from the host")
        elif len(devices) > 1 or (any(each.dim() > 0 for each in hosts) and name not in INDEXING):
            found = sorted({str(each.device) for each in (*on_cards, *hosts)})
            raise self.fault(f"Expected all tensors to be on the same device, but {name} found {', '.join(found)}")
        if self.tape is not None and not {each.index for each in devices} <= {self.tape.device}:
            raise self.fault(f"{name} on {devices} while cuda:{self.tape.device} records")

    def free_memory(self, device: Any = None) -> tuple[int, int]:
        """torch.cuda.mem_get_info, which breaks a recording of its own thread, and in global mode of any other."""
        if self.tape is not None and (self.tape.mode == "global" or self.tape.thread == threading.get_ident()):
            self.tape.broken = True
        allocator = self.allocators[self.device(device).index]
        return allocator.total - allocator.reserved, allocator.total


def _waits_for_index(args: Any) -> bool:
    indices = [each for each in args[1] if each is not None]
    return any(each.dtype in (torch.bool, torch.uint8) or not isinstance(each, CardTensor) for each in indices)


def _place() -> str:
    """The innermost place in the app."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if "janus_app/" in file.replace("\\", "/"):
            return f"{Path(file).name}:{frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back  # type: ignore[assignment]
    return "?"


# ---- recordings


@dataclass
class Tape:
    """What a graph records: operations, and their inputs and outputs at their addresses."""

    device: int
    mode: str
    thread: int = field(default_factory=threading.get_ident)
    entries: list[tuple[Callable[..., Any], Any, Any, list[Tensor]]] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)
    broken: bool = False
    before: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # storage -> (its bytes, a copy)
    made: set[int] = field(default_factory=set)  # storages of results

    def record(self, func: Callable[..., Any], name: str, args: Any, kwargs: Any) -> Any:
        inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        for storage in {each.untyped_storage()._cdata: each.untyped_storage() for each in inputs}.values():
            if storage._cdata not in self.before and storage._cdata not in self.made:
                whole = torch.empty(0, dtype=torch.uint8).set_(storage)
                self.before[storage._cdata] = whole, whole.clone()
        out = func(*args, **kwargs)
        outs = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
        known = {each.untyped_storage()._cdata for each in inputs}
        views = bool(outs) and {each.untyped_storage()._cdata for each in outs} <= known
        writes = name.endswith("_") or getattr(getattr(func, "_schema", None), "is_mutable", False)
        self.made |= {each.untyped_storage()._cdata for each in outs} - self.before.keys()
        self.entries.append((func, args, kwargs, outs))
        if name not in ALLOCATING and (writes or not views):
            self.kernels.append(name)
        return out

    def end(self) -> None:
        """A recording computes nothing: everything is as it was."""
        for whole, values in self.before.values():
            whole.copy_(values)
        self.before.clear()

    def play(self) -> None:
        for func, args, kwargs, outs in self.entries:
            news = [each for each in tree_leaves(func(*args, **kwargs)) if isinstance(each, Tensor)]
            for out, new in zip(outs, news, strict=True):
                if out.data_ptr() != new.data_ptr():
                    out.copy_(new)


class CudaGraph:
    """torch.cuda.CUDAGraph."""

    cards: PretendedCards

    def __init__(self) -> None:
        self.tape: Tape | None = None
        self.cards.graphs.add(self)

    def replay(self) -> None:
        assert self.tape is not None
        with torch.inference_mode(False), torch.no_grad():
            self.tape.play()

    def pool(self) -> int:
        return id(self)

    def reset(self) -> None:
        self.tape = None


@contextlib.contextmanager
def _recording(
    cards: PretendedCards,
    graph: CudaGraph,
    pool: Any = None,
    stream: Stream | None = None,
    capture_error_mode: str = "global",
) -> Iterator[None]:
    """torch.cuda.graph: on a stream of the current card where none is given. It does not leave the stream where the
    recording cannot be ended."""
    before = dict(_streams()), current_card()
    stream = stream or torch.cuda.Stream()
    _enter(stream)
    cards.waits.append(f"start of a recording at {_place()}")
    tape = cards.tape = Tape(stream.device.index, capture_error_mode)
    try:
        yield
    finally:
        cards.tape = None
        with torch.inference_mode(False), torch.no_grad():
            tape.end()
        if tape.broken:
            raise RuntimeError("operation failed due to a previous error during capture")
        _now.streams, _now.card = before
    graph.tape = tape
    cards.recorded.append(tape.kernels)


# ---- cards and streams of a thread


class Stream:
    """torch.cuda.Stream."""

    cards: PretendedCards

    def __init__(self, device: Any = None) -> None:
        self.device = self.cards.device(device)

    def wait_stream(self, other: Stream) -> None: ...


def current_card() -> int:
    """The number of the thread's current card."""
    return getattr(_now, "card", 0)


def _streams() -> dict[int, Stream]:
    """The thread's streams that are not a card's default one."""
    if not hasattr(_now, "streams"):
        _now.streams = {}
    streams: dict[int, Stream] = _now.streams
    return streams


def on_default_stream() -> bool:
    """Whether the thread launches on the default stream of every card."""
    return not any(isinstance(each, Stream) for each in _streams().values())


def _enter(stream: Any) -> None:
    _now.card = stream.device.index
    _now.streams = {**_streams(), stream.device.index: stream if isinstance(stream, Stream) else None}


@contextlib.contextmanager
def _on_stream(stream: Any) -> Iterator[None]:
    """torch.cuda.stream."""
    before = dict(_streams()), current_card()
    _enter(stream)
    try:
        yield
    finally:
        _now.streams, _now.card = before


@contextlib.contextmanager
def _on_card(cards: PretendedCards, device: Any) -> Iterator[None]:
    """torch.cuda.device; the streams stay as they are."""
    before = current_card()
    _now.card = before if device is None else cards.device(device).index
    try:
        yield
    finally:
        _now.card = before


# ---- memory


class Allocator:
    """The memory of a card, as PyTorch's caching allocator keeps it.

    Blocks of more than a MiB are cut from segments: of 20 MiB below 10 MiB, else of their own size. Freed blocks stay
    reserved; neighbours are joined, and only whole segments are returned. Smaller blocks are only counted.
    """

    def __init__(self, total: int) -> None:
        self.total, self.reserved, self.allocated, self.peak = total, 0, 0, 0
        self._holders: dict[int, int] = {}  # storage -> tensors
        self._blocks: dict[int, tuple[int, int, int]] = {}  # storage -> (segment, start, size)
        self._free: list[tuple[int, int, int]] = []  # (size, segment, start)
        self._segments: dict[int, int] = {}  # number -> size
        self._lock, self._number = threading.RLock(), 0

    def hold(self, inner: Tensor) -> None:
        storage = inner.untyped_storage()
        with self._lock:
            self._holders[storage._cdata] = self._holders.get(storage._cdata, 0) + 1
            if self._holders[storage._cdata] == 1:
                self._allocate(storage._cdata, -(-storage.nbytes() // 512) * 512)

    def release(self, inner: Tensor) -> None:
        key = inner.untyped_storage()._cdata
        with self._lock:
            self._holders[key] -= 1
            if not self._holders[key]:
                del self._holders[key]
                segment, start, size = self._blocks.pop(key)
                self.allocated -= size
                if segment:
                    self._join(segment, start, size)

    def empty_cache(self) -> None:
        with self._lock:
            for size, segment, start in list(self._free):
                if size == self._segments[segment]:
                    self._free.remove((size, segment, start))
                    self.reserved -= self._segments.pop(segment)

    def _allocate(self, key: int, size: int) -> None:
        if size <= MIB:
            self._blocks[key] = 0, 0, size
        else:
            found = next((block for block in self._free if block[0] >= size), None) or self._new_segment(size)
            free, segment, start = found
            self._free.remove(found)
            if free - size > MIB:
                insort(self._free, (free - size, segment, start + size))
            else:
                size = free
            self._blocks[key] = segment, start, size
        self.allocated += size
        self.peak = max(self.peak, self.allocated)

    def _new_segment(self, size: int) -> tuple[int, int, int]:
        size = 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
        if self.reserved + size > self.total:
            self.empty_cache()
        if self.reserved + size > self.total:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size / MIB:.0f} MiB.")
        self._number += 1
        self.reserved += size
        self._segments[self._number] = size
        insort(self._free, (size, self._number, 0))
        return size, self._number, 0

    def _join(self, segment: int, start: int, size: int) -> None:
        for other_size, other, other_start in list(self._free):
            if other == segment and (other_start + other_size == start or start + size == other_start):
                self._free.remove((other_size, other, other_start))
                start, size = min(start, other_start), size + other_size
        insort(self._free, (size, segment, start))


# ---- the pretence


def _cuda_functions(cards: PretendedCards) -> dict[str, Any]:
    """Names in torch.cuda, and what they are meanwhile."""

    def allocator(device: Any = None) -> Allocator:
        return cards.allocators[cards.device(device).index]

    def set_device(device: Any) -> None:
        if device is not None:
            _now.card = cards.device(device).index

    def current_stream(device: Any = None) -> Any:
        index = cards.device(device).index
        return _streams().get(index) or SimpleNamespace(device=cards.device(index), wait_stream=lambda other: None)

    def properties(device: Any = None) -> SimpleNamespace:
        total = allocator(device).total
        return SimpleNamespace(name="Pretended", total_memory=total, major=9, minor=0, multi_processor_count=132)

    return {
        "is_available": lambda: True,
        "device_count": lambda: cards.count,
        "current_device": current_card,
        "set_device": set_device,
        "device": partial(_on_card, cards),
        "stream": _on_stream,
        "current_stream": current_stream,
        "Stream": type("Stream", (Stream,), {"cards": cards}),  # libraries write `Stream | None`
        "CUDAGraph": type("CUDAGraph", (CudaGraph,), {"cards": cards}),
        "graph": partial(_recording, cards),
        "synchronize": lambda device=None: cards.wait("synchronize"),
        "empty_cache": lambda: [each.empty_cache() for each in cards.allocators],
        "mem_get_info": cards.free_memory,
        "memory_allocated": lambda device=None: allocator(device).allocated,
        "max_memory_allocated": lambda device=None: allocator(device).peak,
        "memory_reserved": lambda device=None: allocator(device).reserved,
        "reset_peak_memory_stats": lambda device=None: setattr(allocator(device), "peak", allocator(device).allocated),
        "is_bf16_supported": lambda including_emulation=True: True,
        "get_device_name": lambda device=None: "Pretended",
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": properties,
    }


def _set_device_guard() -> Callable[[], None]:
    """Give PyTorch a guard for CUDA devices that does nothing: the one of "meta" devices. Returns what takes it back.

    PyTorch without CUDA has none, and refuses to index a tensor that says it is on such a device.
    """
    torch._C._ensureCUDADeviceGuardSet()  # where PyTorch was built for CUDA
    libraries = list((Path(torch.__file__).parent / "lib").glob("*c10.*"))
    try:
        c10 = ctypes.CDLL(str(libraries[0]))
        guards = (ctypes.c_void_p * 20).in_dll(c10, "_ZN3c104impl26device_guard_impl_registryE")
    except (IndexError, OSError, ValueError):
        pytest.skip("PyTorch's table of device guards is not where it is on Linux")
    cuda, meta = 1, 14  # c10::DeviceType
    before = guards[cuda]
    if before is None:
        guards[cuda] = guards[meta]
    return lambda: guards.__setitem__(cuda, before)


def _new_without_mode(cls: type[Tensor], *_: Any) -> Any:
    """A tensor that a mode made is a plain Tensor, and cannot become one of a subclass."""
    with _disable_current_modes():
        return Tensor.__new__(cls)


def _attend_to_filled_slots(
    heads: Tensor,
    cos: Tensor,
    sin: Tensor,
    position: Tensor,
    kv: Tensor,
    mask: Tensor | None,
    span: int,
    splits: int = 1,
) -> Tensor:
    """The kernel stops at the position by itself."""
    filled = (torch.arange(span) <= position)[None, None, None]
    return kernels.attend_reference(heads, cos, sin, position, kv, filled if mask is None else mask & filled, span)


@contextlib.contextmanager
def pretended_cards(
    count: int = 1,
    *,
    memory: float = 80e9,
    kernels_too: bool = False,
    hollow: bool = False,
    float64: bool = True,
) -> Iterator[PretendedCards]:
    """A machine with `count` cards of `memory` bytes each, until the end of the block, in this thread.

    kernels_too: Triton's kernels are there; each is its reference implementation as one operation. hollow: tensors on
    cards have sizes and no values, so that a model of any size fits into this machine. float64: whether cards have that
    type; Apple's have not. At the end no fault must be left in `faults`.
    """
    if torch.cuda.is_available():
        pytest.skip("this machine has a real card")
    with contextlib.suppress(ImportError):
        importlib.import_module("bitsandbytes")  # which loads CUDA where there seems to be some
    cards = PretendedCards(count, memory, hollow)
    cards.float64 = float64
    with contextlib.ExitStack() as stack:
        stack.callback(_set_device_guard())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in {**_cuda_functions(cards), "_lazy_init": lambda: None}.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(CausalBias, "__new__", _new_without_mode)
        patch.setattr(cuda_graphs, "_failed", set())
        references = {name: getattr(kernels, f"{name}_reference") for name in kernels.CHECKS}
        references["attend"] = _attend_to_filled_slots
        fused = {name: partial(cards.run_kernel, name, reference) for name, reference in references.items()}
        module = SimpleNamespace(**fused) if kernels_too else None  # None: not installed
        patch.setitem(sys.modules, "janus_app.nn.fast.triton_kernels", module)
        patch.delattr("janus_app.nn.fast.triton_kernels", raising=False)
        if module is not None:
            patch.setattr("janus_app.nn.fast.triton_kernels", module, raising=False)
        for cached in (cuda_graphs._side_stream, kernels.verified_kernels):
            cached.cache_clear()
            stack.callback(cached.cache_clear)
        lift = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is a copy, which we see
        stack.callback(torch._C._set_only_lift_cpu_tensors, lift)
        _now.card, _now.streams = 0, {}
        with cards:
            yield cards
    assert not cards.faults, cards.faults
