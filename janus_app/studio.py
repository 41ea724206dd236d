"""The studio: one resident model, one job at a time whichever door it came through.

Every act is a generator. It waits its turn (`Queued`), does its work step by step, and gives its place back when it
ends or is closed; closing one that waits takes it out of the line. Places are kept by ticket, not by thread, because
a page may advance a generator from a different thread each time.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from janus_app import heap
from janus_app.catalog import Catalog, Variant
from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.models.base import (
    Capabilities,
    ChatRequest,
    Event,
    GenerateRequest,
    Model,
    Progress,
    Queued,
    Request,
)

Phase = Literal["empty", "loading", "ready", "busy"]
T = TypeVar("T")

_LOOK_AGAIN = 0.1  # seconds between two looks at the line; also how late a closed waiter leaves it


@dataclass(frozen=True)
class StudioState:
    """What the model bar shows. Memory is that of the model's device, in bytes, None where nobody asked yet."""

    variant_id: str | None = None
    title: str = ""
    precision: str = ""
    device: str = ""
    phase: Phase = "empty"
    detail: str = ""
    capabilities: Capabilities | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    queue: int = 0


@dataclass(frozen=True)
class _Resident:
    variant: Variant
    model: Model
    device: str
    precision: str


class _Line:
    """A fair line with one place at the counter."""

    def __init__(self) -> None:
        self._tickets: list[object] = []
        self._change = threading.Condition()

    def join(self) -> object:
        ticket = object()
        with self._change:
            self._tickets.append(ticket)
        return ticket

    def leave(self, ticket: object) -> None:
        with self._change:
            self._tickets.remove(ticket)
            self._change.notify_all()

    def place(self, ticket: object, wait: float) -> int:
        """0 at the counter, else the number of jobs ahead; who is not there waits up to `wait` seconds."""
        with self._change:
            if self._tickets[0] is not ticket:
                self._change.wait(wait)
            return self._tickets.index(ticket)

    def __len__(self) -> int:
        with self._change:
            return len(self._tickets)


class Studio:
    """Owns the resident model of a process. `state` may be read from any thread at any time."""

    def __init__(self, catalog: Catalog, hub: Hub) -> None:
        self.catalog = catalog
        self.hub = hub
        self._line = _Line()
        self._resident: _Resident | None = None
        self._phase: Phase = "empty"
        self._detail = ""

    @property
    def state(self) -> StudioState:
        resident, queue = self._resident, max(0, len(self._line) - 1)
        if resident is None:
            return StudioState(phase=self._phase, detail=self._detail, queue=queue)
        used, total = _memory(resident.device)
        return StudioState(
            resident.variant.id,
            resident.variant.title,
            resident.precision,
            resident.device,
            self._phase,
            self._detail,
            resident.model.capabilities,
            used,
            total,
            queue,
        )

    @property
    def variant(self) -> Variant | None:
        """The variant of the resident model."""
        return self._resident.variant if self._resident else None

    def load(self, name: str, device: str = "auto", precision: str = "auto") -> Iterator[Event]:
        """Make `name` (a manifest id or a checkpoint folder) the resident model, downloading it where needed.

        The files are fetched before the old model is dropped, so a failed or cancelled download keeps it.
        """
        variant = self.catalog.resolve(name)
        return self._in_turn(lambda: self._load(variant, device, precision))

    def run(self, request: Request) -> Iterator[Event]:
        """Do a request on the resident model. Raises AppError where none is loaded or it lacks the verb."""
        return self._in_turn(lambda: self._run(request))

    def unload(self) -> Iterator[Event]:
        """Drop the resident model once the jobs before this one are done."""
        return self._in_turn(self._unload)

    def _in_turn(self, work: Callable[[], Iterator[Event]]) -> Iterator[Event]:
        """Wait, then do the work; the place in the line is taken at the first step and always given back."""
        ticket = self._line.join()
        try:
            while place := self._line.place(ticket, _LOOK_AGAIN):
                yield Queued(place)  # said again and again, so that a waiting job can be closed
            with contextlib.closing(work()) as events:  # type: ignore[type-var]
                yield from events
        finally:
            self._line.leave(ticket)

    def _load(self, variant: Variant, device: str, precision: str) -> Iterator[Event]:
        from janus_app import loader

        self._phase = "loading"
        try:
            folder = yield from self._reporting(self.hub.fetch(variant))
            self._drop()
            self._phase = "loading"
            parts = self.hub.part_folders(variant)
            loaded = yield from self._reporting(loader.load(variant, folder, device, precision, parts))
            self._resident = _Resident(variant, loaded.model, loaded.device, loaded.precision)
            yield Progress("ready", 1, 1, detail=variant.title)
        except MemoryError:
            raise AppError(f"{variant.title} does not fit into memory. Choose a smaller model or precision.") from None
        finally:
            self._phase = "ready" if self._resident else "empty"
            self._detail = ""
            if self._resident is None:
                _free_memory()

    def _reporting(self, work: Generator[Progress, None, T]) -> Generator[Progress, None, T]:
        """Pass a stage's progress on and keep the last line for `state`."""
        with contextlib.closing(work):
            while True:
                try:
                    step = next(work)
                except StopIteration as end:
                    return end.value
                share = f" {step.done * 100 // step.total} %" if step.total else ""
                self._detail = f"{step.stage}{share} {step.detail}".strip()
                yield step

    def _run(self, request: Request) -> Iterator[Event]:
        resident = self._resident
        if resident is None:
            raise AppError("No model is loaded. Choose one in the model bar and press Load.")
        verb, act = _verb(resident.model, request)
        if verb not in resident.model.capabilities.verbs:
            able = ", ".join(v.title for v in self.catalog.values() if verb in v.verbs)
            raise AppError(f"{resident.variant.title} cannot {verb}. These can: {able or 'none'}.")
        self._phase, self._detail = "busy", verb
        try:
            yield from act()
        except Exception as error:
            if not _out_of_memory(error):
                raise
            _free_memory()
            raise AppError(
                "The device ran out of memory. The model is still loaded: try fewer pictures, a shorter "
                "conversation, or load it in int8."
            ) from None
        finally:
            self._phase, self._detail = "ready", ""

    def _unload(self) -> Iterator[Event]:
        self._drop()
        yield Progress("unloaded", 1, 1)

    def _drop(self) -> None:
        self._resident, self._phase = None, "empty"
        _free_memory()


def _verb(model: Model, request: Request) -> tuple[Literal["chat", "generate", "edit"], Callable[[], Iterator[Event]]]:
    if isinstance(request, ChatRequest):
        return "chat", lambda: model.chat(request)
    if isinstance(request, GenerateRequest):
        return "generate", lambda: model.generate(request)
    return "edit", lambda: model.edit(request)


def drain(events: Iterator[Event], on_event: Callable[[Event], None] | None = None) -> Event | None:
    """Run an act to its end and return its last event: for scripts and the command line."""
    last: Event | None = None
    for last in events:
        if on_event:
            on_event(last)
    return last


def _out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError)


def _free_memory() -> None:
    gc.collect()
    import sys

    torch = sys.modules.get("torch")  # nothing to free where no model was ever loaded
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    heap.trim()


def _memory(device: str) -> tuple[int, int]:
    """Used and total bytes of a device."""
    import torch

    from janus_app.devices import device_memory

    memory = device_memory(torch.device(device))
    return memory.total - memory.free, memory.total
