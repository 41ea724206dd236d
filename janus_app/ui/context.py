"""What every tab of the page shares: the studio, the catalog, the strings, and how a job is started."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.outputs.library import Library
from janus_app.registry.catalog import Catalog, Setting, Variant
from janus_app.runtime.session import ModelSession, SessionState
from janus_app.server.security import VisitorLimiter, visitor
from janus_app.types import MAX_SEED, Event, Queued, Request
from janus_app.ui.common.saved_images import SavedImages
from janus_app.ui.i18n import Texts

# Only the few doors of `public` have names for programs; everything else belongs to the page alone.
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
# Jobs draw their own progress line; Gradio's overlay would flicker over it ten times a second.
JOB: dict[str, Any] = {**PRIVATE, "show_progress": "hidden", "concurrency_limit": None}
QUICK: dict[str, Any] = {**PRIVATE, "show_progress": "hidden", "queue": False}
EXAMPLES = 4


def public(name: str) -> dict[str, Any]:
    """A job that programs may start too, by this name."""
    return {**JOB, "api_visibility": "public", "api_name": name}


@dataclass
class Sitting:
    """Who does a job: needed for the record of its pictures."""

    request: Request | None = None
    variant: Variant | None = None
    state: SessionState | None = None


@dataclass(frozen=True)
class PageContext:
    """Handed to each tab's `build`. `shared` = the page is open to strangers, so folders and downloads are closed.

    `library` is what the page's one person keeps, None where others can open the page too: then nothing is listed.
    """

    session: ModelSession
    catalog: Catalog
    texts: Texts
    prints: SavedImages
    shared: bool = False
    library: Library | None = None
    limiter: VisitorLimiter = field(default_factory=VisitorLimiter)

    def language(self, request: gr.Request | None) -> str:
        return self.texts.language(request)

    def resident(self) -> Variant | None:
        """The variant the studio holds."""
        return self.session.variant

    def variant(self, selected: str | None) -> Variant:
        """The resident variant, else the selected one, else the default: whose settings the page shows."""
        if (resident := self.resident()) is not None:
            return resident
        try:
            return self.catalog.resolve(selected) if selected else self.catalog.default()
        except AppError:
            return self.catalog.default()

    def job(self, selected: str | None, request: Request, sitting: Sitting | None = None) -> Iterator[Event]:
        """Run `request`; with an empty studio, first load the selected variant if that costs no download.

        `sitting` is filled in at the first step of the work itself: by then no other tab can change the model. On a
        shared page a visitor has a few jobs at a time; one more is refused with an AppError.
        """
        with self.limiter.slot(visitor()) if self.shared else nullcontext():
            yield from self._job(selected, request, sitting)

    def _job(self, selected: str | None, request: Request, sitting: Sitting | None) -> Iterator[Event]:
        if self.session.state.phase == "empty" and not self.session.state.resting:
            variant = self.variant(selected)
            if not variant.is_local:
                raise AppError("No model is loaded. Choose one at the top of the page and press Load.")
            yield from self.session.load(variant.id)
        events = self.session.run(request)
        if sitting is None:
            yield from events
            return
        sitting.request = request
        with closing(events):  # type: ignore[type-var]
            for event in events:
                if sitting.variant is None and not isinstance(event, Queued):
                    sitting.variant, sitting.state = self.session.variant, self.session.state
                yield event


def random_seed() -> int:
    """A seed short enough to read out, from the whole range people type."""
    return secrets.randbelow(min(MAX_SEED, 999_999_999)) + 1


def first_seed(new_seed: bool, seed: Any) -> Any:
    """The seed of a run's first picture: the one in the box, or a random one where that is wanted or none is there."""
    return random_seed() if new_seed or seed is None else seed


def whole(value: float | int | str | None, name: str) -> int:
    """A whole number from a number box, which may be empty or hold a fraction. Raises AppError."""
    try:
        number = float(value) if value is not None and value != "" else None
    except ValueError:
        number = None
    if number is None or number != number or number in (float("inf"), float("-inf")) or number != int(number):
        raise AppError(f"{name} must be a whole number, not {value!r}.")
    return int(number)


def number(value: float | int | str | None, name: str) -> float:
    """A number from a slider's box, which may be empty. Raises AppError."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise AppError(f"{name} must be a number, not {value!r}.") from None


def slider_update(setting: Setting | None) -> dict[str, Any]:
    """The range and first value of a slider for the variant now shown; hidden where the variant has no such knob."""
    if setting is None:
        return gr.update(visible=False)
    return gr.update(minimum=setting.low, maximum=setting.high, step=setting.step, value=setting.default, visible=True)


def example_updates(prompts: tuple[str, ...]) -> list[dict[str, Any]]:
    """The row of example buttons with these prompts, unused ones hidden."""
    shown = prompts[:EXAMPLES]
    return [gr.update(value=text, visible=True) for text in shown] + [
        gr.update(visible=False) for _ in range(EXAMPLES - len(shown))
    ]
