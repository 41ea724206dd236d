"""A session: one loaded model, and a fair queue of jobs for it.

Each method that does something returns a generator. It waits its turn (`Queued`), works step by step, and leaves the
queue when it ends or is closed, also while it waits. A place in the queue belongs to a ticket, not to a thread, because
a page may advance a generator from a different thread each time.
"""

from __future__ import annotations

import contextlib
import gc
import platform
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Literal, TypeVar

from janus_app.errors import AppError, LoadOutOfMemory, Message, is_out_of_memory
from janus_app.files import typed_path
from janus_app.hub import Hub
from janus_app.registry.catalog import Catalog
from janus_app.registry.types import Variant
from janus_app.runtime import malloc, weight_check
from janus_app.runtime.unknown import unknown_in
from janus_app.runtime.watchdog import Watchdog
from janus_app.runtime.weight_check import WeightCheck, WeightChecks
from janus_app.types import (
    Capabilities,
    ChatRequest,
    EditRequest,
    Event,
    Events,
    Finished,
    GenerateRequest,
    InspectRequest,
    Notice,
    Progress,
    Provenance,
    Queued,
    Ranker,
    RankRequest,
    Request,
    Started,
    TokenView,
    Verb,
    finish,
)

if TYPE_CHECKING:
    from janus_app.runtime.adapters import Adapter
    from janus_app.runtime.fit import LoadOptions, LoadPlan
    from janus_app.runtime.loader import LoadedModel

Item = TypeVar("Item")
Phase = Literal["empty", "loading", "ready", "busy"]

VERB_NAMES = {"chat": "verb_chat", "generate": "verb_generate", "edit": "verb_edit"}
LIBRARIES = ("torch", "transformers", "tokenizers", "pillow", "bitsandbytes")
_QUEUE_POLL = 0.1  # seconds between two looks at the queue; a closed job leaves it within this time
_QUIET_BYTES = 1e9  # a model whose weights are smaller is loaded without a notice of what it needs


@dataclass(frozen=True)
class SessionState:
    """What a session holds and does.

    `verb` and `progress` tell what the running job does ("" and None without one). `memory` is what this program
    holds of the memory of the model's device, in bytes, None where no model is loaded. `queue` is the number of
    waiting jobs. `silence` explains why the running job has sent no event for a while. `idle_unloaded` is the title
    of a model that was unloaded because nobody used it; the next job loads it again. `weight_check` is what a check
    of the loaded model's weights found on this machine, None where there was none. `replicas` are how many are ready
    and how many there can be, None where there is no cluster. `adapters` are those merged into the loaded model.
    """

    variant_id: str | None = None
    title: str = ""
    precision: str = ""
    device: str = ""
    phase: Phase = "empty"
    verb: str = ""
    progress: Progress | None = None
    capabilities: Capabilities | None = None
    memory: int | None = None
    queue: int = 0
    silence: Message | None = None
    idle_unloaded: str = ""
    weight_check: WeightCheck | None = None
    replicas: tuple[int, int] | None = None
    adapters: tuple[Adapter, ...] = ()


@dataclass(frozen=True)
class ModelFacts:
    """The model that is about to answer, for who makes its request."""

    variant: Variant
    capabilities: Capabilities


class FairQueue:
    """First come, first served; the first ticket is the one whose job runs."""

    def __init__(self) -> None:
        self._tickets: list[object] = []
        self._changed = threading.Condition()

    def join(self) -> object:
        ticket = object()
        with self._changed:
            self._tickets.append(ticket)
        return ticket

    def leave(self, ticket: object) -> None:
        with self._changed:
            self._tickets.remove(ticket)
            self._changed.notify_all()

    def place(self, ticket: object, timeout: float) -> int:
        """The number of jobs before this one; waits up to `timeout` seconds for a change if there are any."""
        with self._changed:
            if self._tickets[0] is not ticket:
                self._changed.wait(timeout)
            return self._tickets.index(ticket)

    def __len__(self) -> int:
        with self._changed:
            return len(self._tickets)


class ModelSession:
    """Owns the loaded model of a process. `state` may be read from any thread at any time.

    `idle_minutes` is how long an unused model stays loaded, None = forever.
    """

    def __init__(self, catalog: Catalog, hub: Hub) -> None:
        self.catalog = catalog
        self.hub = hub
        self.idle_minutes: float | None = None
        self.watchdog = Watchdog()
        self._queue = FairQueue()
        self._loaded: LoadedModel | None = None
        self._idle_unloaded: LoadPlan | None = None
        self._weight_check: WeightCheck | None = None
        self._phase: Phase = "empty"
        self._verb = ""
        self._last_used = time.monotonic()

    @property
    def state(self) -> SessionState:
        # The phase first: an idle model is noted as unloaded before the phase says that none is loaded.
        phase, loaded, unloaded, silence = self._phase, self._loaded, self._idle_unloaded, self.watchdog.silence()
        state = SessionState(
            phase=phase,
            verb=self._verb,
            progress=self.watchdog.progress,
            queue=max(0, len(self._queue) - 1),
            silence=silence.reason if silence else None,
            idle_unloaded=unloaded.variant.title if unloaded else "",
        )
        if loaded is None:
            return state
        from janus_app.runtime.devices import program_memory

        plan = loaded.plan
        return replace(
            state,
            variant_id=plan.variant.id,
            title=plan.variant.title,
            precision=plan.precision,
            device=plan.placement.name,
            capabilities=loaded.model.capabilities,
            memory=program_memory(plan.placement.main),
            weight_check=self._weight_check,
            adapters=plan.adapters,
        )

    @property
    def loaded(self) -> LoadedModel | None:
        """The loaded model, with the plan it was loaded by."""
        return self._loaded

    @property
    def variant(self) -> Variant | None:
        """The variant of the loaded model."""
        return self._loaded.plan.variant if self._loaded else None

    @staticmethod
    def device_names() -> list[str]:
        """The devices of this machine, "auto" first."""
        from janus_app.runtime.devices import device_names

        return device_names()

    def plan_load(self, variant: Variant, device: str = "auto") -> LoadOptions:
        """What a variant needs in each precision and what fits; the loaded model's memory counts as free.

        Raises AppError for an absent device or a damaged config.json in a checkpoint folder of the user.
        """
        from janus_app.runtime.fit import plan_load

        loaded = self._loaded
        freed = loaded.plan.held if loaded else {}
        folder = self.hub.status(variant).folder
        return plan_load(variant, folder, device, components=self.hub.part_folders(variant), freed=freed)

    def load(
        self, name: str, device: str = "auto", precision: str = "auto", adapters: Sequence[Adapter] = ()
    ) -> Events:
        """Load `name` (a manifest id or a checkpoint folder) in place of the loaded model; download it where needed.

        `adapters` are merged into its weights. What does not fit is refused before anything is downloaded or unloaded.
        The files are fetched before the old model is unloaded, so a failed or cancelled download keeps it.
        """
        variant = self.catalog.resolve(name)
        return self._queued(lambda: self._load_named(name, variant, device, precision, tuple(adapters)))

    def check_weights(self) -> Events:
        """Check the loaded model's weights once more, as its first load did. Raises AppError where none is loaded."""
        return self._queued(self._check_again)

    def run(self, request: Request) -> Events:
        """Do a request with the loaded model. Raises AppError where none is loaded or it lacks the verb."""
        return self._queued(lambda: self._run(request))

    def run_on(
        self,
        variant: Variant | None,
        make: Callable[[ModelFacts], Request],
        adapters: tuple[Adapter, ...] | None = None,
    ) -> Events:
        """Load `variant` if another model is loaded, and do the request that `make` returns for it, all in one turn.

        None = the loaded model, or the default one where none is loaded. Where `adapters` are given and others are
        merged into the loaded model, it is loaded again with them. Raises AppError where files of the variant are
        missing: nothing is downloaded.
        """
        return self._queued(lambda: self._run_on(variant, make, adapters))

    def result(self, request: Request, on_event: Callable[[Event], None] | None = None) -> Finished:
        """Do a request to its end; `on_event` sees each event."""
        return finish(self.run(request), on_event)

    def unload(self) -> Events:
        """Unload the model once the jobs before this one are done."""
        return self._queued(self._unload)

    def exclusively(self, work: Callable[[], Generator[Item, None, None]]) -> Generator[Item | Queued, None, None]:
        """Do work that no job may run beside, such as the self-test, when its turn has come."""
        return self._queued(work)

    def unload_if_idle(self) -> bool:
        """Unload the model if nobody used it for `idle_minutes`; the next job loads it again. True if it did.

        It never waits: where another job has a place in the queue, the model is in use.
        """
        if len(self._queue) or not self._idle():
            return False
        with closing(self._queued(self._unload_idle)) as job:
            return isinstance(next(job, None), Progress)  # Queued: a job came first

    def _idle(self) -> bool:
        limit = self.idle_minutes
        return self._loaded is not None and bool(limit) and time.monotonic() - self._last_used >= 60 * (limit or 0)

    def _unload_idle(self) -> Events:
        if self._loaded is not None and self._idle():  # again: what ran before this job's turn may have used it
            self._idle_unloaded = self._loaded.plan  # before the drop, so that `state` never shows neither
            self._drop()
            yield Progress("unloaded", 1, 1)

    def run_idle_unload(self, interval: float = 10.0) -> None:
        """Call `unload_if_idle` every `interval` seconds; never returns. For a thread of a program with a page."""
        while True:
            time.sleep(interval)
            with contextlib.suppress(AppError):
                self.unload_if_idle()

    def _queued(self, job: Callable[[], Generator[Item, None, None]]) -> Generator[Item | Queued, None, None]:
        """Wait, then do the job; the place in the queue is taken at the first step and always given back."""
        ticket = self._queue.join()
        try:
            while place := self._queue.place(ticket, _QUEUE_POLL):
                yield Queued(place)  # repeated, so that a waiting job can be closed
            yield from self.watchdog.watch(job())
        finally:
            self._last_used = time.monotonic()
            self._queue.leave(ticket)

    def _load_named(
        self, name: str, variant: Variant, device: str, precision: str, adapters: tuple[Adapter, ...]
    ) -> Events:
        """Load, and say where the checkpoint was found if that is not the folder that was named."""
        folder = None if variant.id in self.catalog else variant.folder
        if folder and typed_path(name).expanduser().resolve() != folder:
            yield Notice(Message("checkpoint_found_inside", given=name, folder=folder))
        yield from self._load(variant, device, precision, adapters)

    def _load(self, variant: Variant, device: str, precision: str, adapters: tuple[Adapter, ...] = ()) -> Events:
        from janus_app.runtime import loader

        self._phase = "loading"
        try:
            options = self.plan_load(variant, device)
            plan = options.choose(precision)
            if plan is not options.plans[0] or plan.need.weights > _QUIET_BYTES:
                yield Notice(options.judge(precision)[0])
            folder = yield from self.hub.fetch(variant)
            if plan.config is None or plan.folder != folder:  # now its config.json is here
                options = self.plan_load(variant, device)
                plan = replace(options.choose(precision), folder=folder)
            plan = replace(plan, adapters=adapters)
            loader.check_adapters(plan)
            self._drop()
            self._phase = "loading"
            try:
                self._loaded = yield from loader.load(plan)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            if self._loaded is None:  # raised only here, where what was loaded so far is gone with the error
                _free_memory()
                raise _load_out_of_memory(options, plan)
            self._idle_unloaded = None
            yield from self._first_contact(self._loaded)
            yield Progress("ready", 1, 1, detail=variant.title)
        finally:
            self._phase = "ready" if self._loaded else "empty"
            if self._loaded is None:
                _free_memory()

    def _first_contact(self, loaded: LoadedModel) -> Events:
        """Check the weights, unless they were checked on this machine before; then only say what looked wrong."""
        if not weight_check.wanted(loaded.plan.variant):
            return
        self._weight_check = WeightChecks().find(loaded.plan)
        if self._weight_check is None:
            yield from self._check_weights(loaded)
        elif self._weight_check.problems:
            yield Notice(self._weight_check.message(loaded.plan.variant.title))

    def _check_weights(self, loaded: LoadedModel) -> Events:
        """Closed at any step, or where another job waits, the model is there, unchecked."""
        from janus_app.runtime.devices import under_device

        self._phase = "busy"
        try:
            steps = weight_check.check(loaded, stop=lambda: len(self._queue) > 1)
            found = yield from under_device(loaded.plan.placement.main, steps)
        finally:
            self._phase = "ready"
        if found is not None:
            self._weight_check = found
            WeightChecks().keep(loaded.plan, found)
            yield Notice(found.message(loaded.plan.variant.title))

    def _check_again(self) -> Events:
        if self._loaded is None:
            raise AppError("no_model_loaded")
        yield from self._check_weights(self._loaded)

    def _run(self, request: Request) -> Events:
        yield from self._load_again()
        loaded = self._loaded
        if loaded is None:
            raise AppError("no_model_loaded")
        from janus_app.runtime.devices import under_device

        verb, events = _answer(loaded, request)
        self._check(loaded, verb, request)
        plan = loaded.plan
        provenance = provenance_of(plan.variant, plan.precision, plan.placement.name, request)
        provenance = replace(provenance, adapters=tuple(map(str, plan.adapters)))
        self._phase, self._verb = "busy", verb
        try:
            yield Started(provenance)
            for message in unknown_in(request, plan.variant, plan.folder):
                yield Notice(message)
            with closing(under_device(plan.placement.main, events())) as job:
                for event in job:
                    yield replace(event, provenance=provenance) if isinstance(event, Finished) else event
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        finally:
            self._phase, self._verb = "ready", ""
        _free_memory()  # only here, because the error kept everything that the job had allocated
        raise AppError("job_out_of_memory")

    def _run_on(
        self,
        variant: Variant | None,
        make: Callable[[ModelFacts], Request],
        adapters: tuple[Adapter, ...] | None,
    ) -> Events:
        plan = self._loaded.plan if self._loaded else self._idle_unloaded
        wanted = variant or (plan.variant if plan else self.catalog.default())
        if plan is None or (plan.variant.id, plan.variant.folder) != (wanted.id, wanted.folder):
            if not self.hub.status(wanted).complete:
                raise AppError("model_not_downloaded", title=wanted.title, name=wanted.id)
            yield from self._load(wanted, "auto", "auto", adapters or ())
        elif adapters not in (None, plan.adapters):
            yield from self._load(plan.variant, plan.placement.name, plan.precision, adapters or ())
        yield from self._load_again()
        assert self._loaded is not None
        facts = ModelFacts(self._loaded.plan.variant, self._loaded.model.capabilities)
        yield from self._run(make(facts))

    def _load_again(self) -> Events:
        """Load the model that was unloaded because nobody used it."""
        if self._loaded is None and self._idle_unloaded is not None:
            plan = self._idle_unloaded
            yield Notice(Message("model_loaded_again", title=plan.variant.title))
            yield from self._load(plan.variant, plan.placement.name, plan.precision, plan.adapters)

    def _check(self, loaded: LoadedModel, verb: Verb, request: Request) -> None:
        """Raises AppError where the loaded model lacks the verb, edits fewer pictures or draws in one size alone."""
        title, capabilities = loaded.plan.variant.title, loaded.model.capabilities
        if verb not in capabilities.verbs:
            able = ", ".join(v.title for v in self.catalog.values() if verb in v.verbs)
            raise AppError(
                "verb_unsupported", title=title, verb=Message(VERB_NAMES[verb]), able=able or Message("no_models")
            )
        pictures = 1 + len(request.more_images) if isinstance(request, EditRequest) else 1
        if pictures > capabilities.edit_pictures > 1:
            raise AppError("edit_images_too_many", title=title, limit=capabilities.edit_pictures, given=pictures)
        if pictures > capabilities.edit_pictures:
            raise AppError("edit_takes_one_image", title=title, given=pictures)
        size = request.size if isinstance(request, GenerateRequest | EditRequest) else None
        if size not in (None, capabilities.size) and capabilities.sizes is None:
            width, height = capabilities.size
            raise AppError("picture_size_fixed", title=title, width=width, height=height)

    def _unload(self) -> Events:
        self._drop()
        self._idle_unloaded = None
        yield Progress("unloaded", 1, 1)

    def _drop(self) -> None:
        self._loaded, self._weight_check, self._phase = None, None, "empty"
        _free_memory()


def _load_out_of_memory(options: LoadOptions, plan: LoadPlan) -> LoadOutOfMemory:
    smaller = options.smaller(plan.precision)
    if smaller is None:
        return LoadOutOfMemory("load_out_of_memory", title=options.title, precision=plan.label)
    return LoadOutOfMemory(
        "load_out_of_memory_try_smaller",
        smaller_precision=smaller.precision,
        title=options.title,
        precision=plan.label,
        smaller=smaller.label,
    )


def _answer(loaded: LoadedModel, request: Request) -> tuple[Verb, Callable[[], Events]]:
    """The verb that a request needs, and what answers it. Raises AppError where the model's family cannot."""
    model, title = loaded.model, loaded.plan.variant.title
    if isinstance(request, ChatRequest):
        return "chat", lambda: model.chat(request)
    if isinstance(request, GenerateRequest):
        return "generate", lambda: model.generate(request)
    if isinstance(request, EditRequest):
        return "edit", lambda: model.edit(request)
    if isinstance(request, RankRequest):
        if not isinstance(model, Ranker):
            raise AppError("rank_unsupported", title=title)
        return "chat", lambda: model.rank(request)
    if not isinstance(model, TokenView):
        raise AppError("token_view_unsupported", title=title)
    if isinstance(request, InspectRequest):
        return "generate", lambda: model.inspect(request)
    return "generate", lambda: model.swap(request)


def provenance_of(variant: Variant, precision: str, device: str, request: Request) -> Provenance:
    """What the metadata of pictures says that `variant` draws for `request`."""
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
    torch = sys.modules.get("torch")  # not imported where no model was ever loaded
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    malloc.trim()
