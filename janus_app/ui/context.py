"""What every tab of the page shares: the model session, the catalog, the texts, and how handlers are attached.

Handlers follow one convention. They are attached with sets of components as inputs and outputs, take `Values` (what
the inputs hold, by component) and return or yield `Updates` (new values by component). An output that a handler leaves
out stays as it is; a handler that changes nothing at all returns `gr.skip()`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import gradio as gr
from gradio.blocks import Block

from janus_app.errors import AppError, Message
from janus_app.outputs.library import Library
from janus_app.registry.catalog import Catalog
from janus_app.registry.types import Variant
from janus_app.runtime.face import Session
from janus_app.server.api.gate import Access
from janus_app.server.security import VisitorLimiter
from janus_app.types import Event, Notice, Request, Setting, Started
from janus_app.ui.common.running import Runs
from janus_app.ui.common.saved_images import SavedImages
from janus_app.ui.common.visitor import visitor
from janus_app.ui.i18n import Texts
from janus_app.workflows.settings import random_seed

T = TypeVar("T")
Values = dict[Block, Any]
Updates = dict[Block, Any]

# Programs can call what janus_app/ui/endpoints.py attaches; every other event belongs to the page alone.
# Gradio would name these after their handlers, and then number the endpoints of the same names.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "api_name": "page"}
# Jobs draw their own progress line; Gradio's overlay would flicker over it ten times a second.
# Without `show_progress_on` Gradio renews the progress of all outputs of all handlers when any of them starts or ends.
HIDDEN: dict[str, Any] = {"show_progress": "hidden", "show_progress_on": []}
JOB: dict[str, Any] = {**PRIVATE, **HIDDEN, "concurrency_limit": None}
QUICK: dict[str, Any] = {**PRIVATE, **HIDDEN, "queue": False}
# Handlers that call gr.Info or gr.Warning: Gradio shows them of queued events alone.
NOTIFYING = JOB
EXAMPLES = 4


def attach(
    event: Callable[..., Any],
    handler: Callable[..., Any],
    inputs: Set[Block] | Block | None,
    outputs: Set[Block] | Sequence[Block] | Block | None,
    **options: Any,
) -> Any:
    """Attach `handler` to an event like `button.click` or `earlier.then`, and return the event for further ones.

    Gradio itself takes sets, but its type stubs do not allow them as outputs.
    """
    return event(handler, inputs, outputs, **options)


@dataclass(frozen=True)
class PageContext:
    """What each tab's `build` is given.

    `shared` means that strangers can open the page: they may neither name folders nor start downloads. `library` holds
    the pictures and conversations of the page's only user; it is None where others can open the page too, and then
    nothing saved is listed. `access` is who may use the API. `shown` is set once a browser shows the page.
    """

    session: Session
    catalog: Catalog
    texts: Texts
    images: SavedImages
    shared: bool = False
    library: Library | None = None
    limiter: VisitorLimiter = field(default_factory=VisitorLimiter)
    runs: Runs = field(default_factory=Runs)
    access: Access = field(default_factory=Access)
    shown: threading.Event = field(default_factory=threading.Event)

    def language(self, request: gr.Request | None) -> str:
        return self.texts.language(request)

    def loaded_variant(self) -> Variant | None:
        """The variant that is loaded, None where none is."""
        return self.session.variant

    def variant(self, selected: str | None) -> Variant:
        """The variant whose settings the page shows: the loaded one, else the selected one, else the default."""
        if (loaded := self.loaded_variant()) is not None:
            return loaded
        try:
            return self.resolve(selected) if selected else self.catalog.default()
        except AppError:
            return self.catalog.default()

    def resolve(self, name: str | None) -> Variant:
        """The variant of a name in a dropdown, on a shared page only a listed or the loaded one. Raises AppError."""
        if (loaded := self.loaded_variant()) is not None and name == loaded.id:
            return loaded  # a folder that is in no list has an id too
        if self.shared and (name or "") not in self.catalog:
            raise AppError("shared_page_model_unlisted")
        return self.catalog.resolve(name or "")

    def job(self, selected: str | None, request: Request) -> Iterator[Event]:
        """Run `request`. Where no model is loaded, first load the selected variant if that needs no download.

        Where another one than the selected is loaded, as another browser tab may have done a moment ago, it says so.
        """
        return self.limited(self._job(selected, request))

    def _job(self, selected: str | None, request: Request) -> Iterator[Event]:
        if self.session.state.phase == "empty" and not self.session.state.idle_unloaded:
            variant = self.variant(selected)
            if not self.session.hub.status(variant).complete:
                raise AppError("no_model_loaded")
            yield from self.session.load(self.catalog.name_of(variant))
        told = False
        with closing(self.session.run(request)) as events:
            for event in events:
                if isinstance(event, Started) and not told:  # now its turn has come, and the model is known
                    told = True
                    yield from self._other_model(selected)
                yield event

    def _other_model(self, selected: str | None) -> Iterator[Event]:
        loaded = self.loaded_variant()
        if selected and loaded is not None and selected not in (loaded.id, self.catalog.name_of(loaded)):
            with suppress(AppError):  # a name that is gone by now
                wanted = self.resolve(selected)
                if (wanted.id, wanted.folder) != (loaded.id, loaded.folder):
                    yield Notice(Message("another_model_loaded", title=loaded.title, wanted=wanted.title))

    def limited(self, job: Iterator[T]) -> Iterator[T]:
        """Run `job`. On a shared page each visitor may run a few at a time; one too many raises AppError."""
        with self.limiter.slot(visitor()) if self.shared else nullcontext():
            yield from job


def first_seed(new_seed: bool, seed: Any) -> Any:
    """The seed of a run's first picture: the one in the box, or a random one if wanted or if the box is empty."""
    return random_seed() if new_seed or seed is None else seed


def whole_number(value: float | int | str | None, name: str) -> int:
    """The whole number in a number box. `name` is the code of the box's name.

    Raises AppError where the box is empty or holds a fraction.
    """
    try:
        number = float(value) if value is not None else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not number.is_integer():  # neither NaN nor an infinity is one
        raise AppError("whole_number_expected", name=Message(name), given=value)
    return int(number)


def number(value: float | int | str | None, name: str) -> float:
    """The number in a slider's box. `name` is the code of its name. Raises AppError where the box is empty."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise AppError("number_expected", name=Message(name), given=value) from None


def slider_update(setting: Setting | None) -> dict[str, Any]:
    """The range and default of a slider for the variant now shown; hidden where the variant has no such setting."""
    if setting is None:
        return gr.update(visible=False)
    return gr.update(minimum=setting.low, maximum=setting.high, step=setting.step, value=setting.default, visible=True)


def example_updates(buttons: list[gr.Button], prompts: tuple[str, ...]) -> Updates:
    """The example buttons with these prompts; unused ones are hidden."""
    shown = [gr.update(value=text, visible=True) for text in prompts[: len(buttons)]]
    hidden = [gr.update(visible=False)] * (len(buttons) - len(shown))
    return dict(zip(buttons, shown + hidden, strict=True))
