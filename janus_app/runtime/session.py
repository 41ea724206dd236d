"""The studio: one resident model, one job at a time whichever door it came through.

Every act is a generator. It waits its turn (`Queued`), does its work step by step, and gives its place back when it
ends or is closed; closing one that waits takes it out of the line. Places are kept by ticket, not by thread, because
a page may advance a generator from a different thread each time.
"""

from __future__ import annotations

import contextlib
import gc
import platform
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Literal, TypeVar

from janus_app.errors import AppError, LoadOutOfMemory, is_out_of_memory
from janus_app.hub import Hub
from janus_app.registry.catalog import Catalog
from janus_app.registry.types import Variant
from janus_app.runtime import malloc
from janus_app.runtime.watchdog import Watchdog
from janus_app.types import (
    Capabilities,
    ChatRequest,
    EditRequest,
    Event,
    Finished,
    GenerateRequest,
    InspectRequest,
    Model,
    Notice,
    Progress,
    Provenance,
    Queued,
    Ranker,
    RankRequest,
    Request,
    Started,
    TokenView,
    drain,
)

if TYPE_CHECKING:
    from janus_app.runtime.fit import LoadOption, LoadPlan
    from janus_app.runtime.loader import Loaded

Phase = Literal["empty", "loading", "ready", "busy"]
T = TypeVar("T")

_LOOK_AGAIN = 0.1  # seconds between two looks at the line; also how late a closed waiter leaves it
LIBRARIES = ("torch", "transformers", "tokenizers", "pillow", "bitsandbytes")
_WORTH_SAYING = 1e9  # bytes: what a smaller model needs is not worth a line before its load


@dataclass(frozen=True)
class SessionState:
    """What the model bar shows. Memory is that of the model's device, in bytes, None where nobody asked yet.

    `silence` is a sentence where the job at work has said nothing for a while, `resting` the title of a model that was
    unloaded because nobody used it; the next job loads it again.
    """

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
    silence: str = ""
    resting: str = ""


@dataclass(frozen=True)
class LoadedModel:
    variant: Variant
    model: Model
    device: str
    precision: str
    main: str
    weights: int


class FairQueue:
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


class ModelSession:
    """Owns the resident model of a process. `state` may be read from any thread at any time."""

    def __init__(self, catalog: Catalog, hub: Hub) -> None:
        self.catalog = catalog
        self.hub = hub
        self.idle_minutes: float | None = None  # unload a model nobody used for so long; None = never
        self.watchdog = Watchdog()
        self._line = FairQueue()
        self._resident: LoadedModel | None = None
        self._resting: tuple[Variant, str, str] | None = None  # variant, device, precision
        self._phase: Phase = "empty"
        self._detail = ""
        self._last_used = time.monotonic()

    @property
    def state(self) -> SessionState:
        resident, queue = self._resident, max(0, len(self._line) - 1)
        heard = self.watchdog.silence()
        silence = heard.why if heard else ""
        if resident is None:
            resting = self._resting[0].title if self._resting else ""
            return SessionState(phase=self._phase, detail=self._detail, queue=queue, silence=silence, resting=resting)
        used, total = _memory(resident.main)
        return SessionState(
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
            silence,
        )

    @property
    def variant(self) -> Variant | None:
        """The variant of the resident model."""
        return self._resident.variant if self._resident else None

    @staticmethod
    def device_names() -> list[str]:
        """The devices of this machine, "auto" first."""
        from janus_app.runtime.devices import device_names

        return device_names()

    def advice(self, variant: Variant, device: str = "auto") -> LoadPlan:
        """What a variant needs in every precision and what fits, with the resident model's memory counted as free.

        Raises AppError for an absent device or a damaged config.json.
        """
        from janus_app.runtime.fit import plan_load

        resident = self._resident
        given_back = {resident.main: resident.weights} if resident else {}
        return plan_load(variant, self.hub.status(variant).folder, device, given_back=given_back)

    def load(self, name: str, device: str = "auto", precision: str = "auto") -> Iterator[Event]:
        """Make `name` (a manifest id or a checkpoint folder) the resident model, downloading it where needed.

        What cannot fit is refused before anything is downloaded or dropped. The files are fetched before the old model
        is dropped, so a failed or cancelled download keeps it.
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
            yield from self.watchdog.watch(work())
        finally:
            self._last_used = time.monotonic()
            self._line.leave(ticket)

    def _load(self, variant: Variant, device: str, precision: str) -> Iterator[Event]:
        from janus_app.runtime import loader

        self._phase = "loading"
        try:
            advice = self.advice(variant, device)
            option = advice.choose(precision)
            if option is not advice.options[0] or option.need.weights > _WORTH_SAYING:
                yield Notice(advice.sentence)
            folder = yield from self._reporting(self.hub.fetch(variant))
            self._drop()
            self._phase = "loading"
            work = loader.load(variant, folder, option.place.name, option.precision, self.hub.part_folders(variant))
            failed = yield from self._loading(variant, work, option)
            if failed:  # said only here, where what was loaded so far is gone with the error
                _free_memory()
                raise _no_room(advice, option)
            yield Progress("ready", 1, 1, detail=variant.title)
        finally:
            self._phase = "ready" if self._resident else "empty"
            self._detail = ""
            if self._resident is None:
                _free_memory()

    def _loading(
        self, variant: Variant, work: Generator[Progress, None, Loaded], option: LoadOption
    ) -> Generator[Progress, None, bool]:
        """Make what `work` loads the resident model; True where memory ran out on the way."""
        try:
            loaded = yield from self._reporting(work)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return True
        weights = option.need.weights
        self._resident = LoadedModel(variant, loaded.model, loaded.device, loaded.precision, loaded.main, weights)
        self._resting = None
        return False

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
        if self._resident is None and self._resting is not None:
            yield Notice(f"{self._resting[0].title} was unloaded while nobody used it; it is loaded again.")
            yield from self._load(*self._resting)
        resident = self._resident
        if resident is None:
            raise AppError("No model is loaded. Choose one in the model bar and press Load.")
        verb, act = _verb(resident, request)
        if verb not in resident.model.capabilities.verbs:
            able = ", ".join(v.title for v in self.catalog.values() if verb in v.verbs)
            raise AppError(f"{resident.variant.title} cannot {verb}. These can: {able or 'none'}.")
        most = resident.model.capabilities.edit_pictures
        if isinstance(request, EditRequest) and len(request.more_images) >= most:
            pictures = f"{most} pictures" if most > 1 else "one picture"
            given = 1 + len(request.more_images)
            raise AppError(f"{resident.variant.title} edits {pictures} at a time and got {given}. Remove some.")
        self._phase, self._detail = "busy", verb
        provenance = provenance_of(resident.variant, resident.precision, resident.device, request)
        try:
            yield Started(provenance)
            with contextlib.closing(act()) as events:  # type: ignore[type-var]
                for event in events:
                    yield replace(event, provenance=provenance) if isinstance(event, Finished) else event
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        finally:
            self._phase, self._detail = "ready", ""
        _free_memory()  # only now: the error held on to everything the job had allocated
        raise AppError(
            "The device ran out of memory. The model is still loaded: try fewer pictures or a shorter conversation, "
            "or load it in a smaller precision."
        )

    def _unload(self) -> Iterator[Event]:
        self._drop()
        self._resting = None
        yield Progress("unloaded", 1, 1)

    def rest(self) -> bool:
        """Unload the model where nobody has used it for `idle_minutes`; the next job loads it again. True if so."""
        resident, limit = self._resident, self.idle_minutes
        unused = time.monotonic() - self._last_used
        if resident is None or not limit or len(self._line) or unused < 60 * limit:
            return False
        drain(self.unload())
        self._resting = (resident.variant, resident.device, resident.precision)
        return True

    def rest_when_idle(self, look_again: float = 10.0) -> None:
        """Rest whenever it is time; never returns. For a thread of the program that serves the studio."""
        while True:
            time.sleep(look_again)
            with contextlib.suppress(AppError):
                self.rest()

    def _drop(self) -> None:
        self._resident, self._phase = None, "empty"
        _free_memory()


def _no_room(advice: LoadPlan, option: LoadOption) -> LoadOutOfMemory:
    smaller = advice.smaller(option.precision)
    remedy = f"Load it in {smaller.words}." if smaller else "Choose a smaller model, or close other programs."
    sentence = f"Memory ran out while {advice.title} was loaded in {option.words}; nothing is loaded now. {remedy}"
    return LoadOutOfMemory(sentence, smaller.precision if smaller else "")


def _verb(
    resident: LoadedModel, request: Request
) -> tuple[Literal["chat", "generate", "edit"], Callable[[], Iterator[Event]]]:
    """The verb a request belongs to and what does it. Raises AppError where the model's family cannot."""
    model = resident.model
    if isinstance(request, ChatRequest):
        return "chat", lambda: model.chat(request)
    if isinstance(request, GenerateRequest):
        return "generate", lambda: model.generate(request)
    if isinstance(request, EditRequest):
        return "edit", lambda: model.edit(request)
    if isinstance(request, RankRequest):
        if not isinstance(model, Ranker):
            raise AppError(f"{resident.variant.title} cannot rank pictures. Load a Janus or JanusFlow model for it.")
        return "chat", lambda: model.rank(request)
    if not isinstance(model, TokenView):
        raise AppError(
            f"{resident.variant.title} does not draw picture tokens, so there is no token view of its pictures. "
            "Load a Janus model."
        )
    if isinstance(request, InspectRequest):
        return "generate", lambda: model.inspect(request)
    return "generate", lambda: model.swap(request)


def provenance_of(variant: Variant, precision: str, device: str, request: Request) -> Provenance:
    """What pictures that `variant` makes for `request` say of their origin."""
    solver = {"solver"} if variant.solvers else set()
    return Provenance(
        variant_id=variant.id,
        title=variant.title,
        family=variant.family,
        repo=variant.repo or "",
        revision=variant.revision or "",
        settings=frozenset(variant.settings) | solver,
        precision=precision,
        device=device.partition(":")[0],
        request=request,
        versions=library_versions(),
    )


@lru_cache
def library_versions() -> Mapping[str, str]:
    """The versions of Python and of the libraries that have a part in a result."""
    found = {"python": platform.python_version()}
    for package in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _free_memory() -> None:
    gc.collect()
    import sys

    torch = sys.modules.get("torch")  # nothing to free where no model was ever loaded
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    malloc.trim()


def _memory(device: str) -> tuple[int, int]:
    """Used and total bytes of a device."""
    import torch

    from janus_app.runtime.devices import device_memory

    memory = device_memory(torch.device(device))
    return memory.total - memory.free, memory.total
