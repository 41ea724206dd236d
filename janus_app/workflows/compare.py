"""Two variants, or two settings of one, with the same prompt and seed: each side is drawn once, one after the other."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

from janus_app.errors import AppError, Message
from janus_app.outputs.store import OutputStore, StoredImage
from janus_app.registry.types import Variant
from janus_app.runtime.face import Session
from janus_app.types import Event, Finished, GenerateRequest, Progress, Started


@dataclass(frozen=True)
class Side:
    """A variant and the request it draws."""

    variant: Variant
    request: GenerateRequest


@dataclass(frozen=True)
class DrawnSide:
    """The saved picture of side 0 or 1."""

    side: int
    picture: StoredImage


def checked_sides(session: Session, sides: tuple[Side, Side]) -> tuple[Side, Side]:
    """The sides with one picture each. Raises AppError if they are equal or a model is not on this machine."""
    one, other = (Side(side.variant, replace(side.request, count=1, image_tokens=())) for side in sides)
    if vote_key(one) == vote_key(other):
        raise AppError("compare_sides_equal")
    for side in (one, other):
        if "generate" not in side.variant.verbs:
            raise AppError("compare_model_cannot_draw", title=side.variant.title)
        if not session.hub.status(side.variant).complete:
            raise AppError("compare_model_not_downloaded", title=side.variant.title)
    return one, other


def draw_sides(
    session: Session, sides: tuple[Side, Side], store: OutputStore
) -> Generator[Event | DrawnSide, None, list[DrawnSide]]:
    """Draw both sides, loading models as needed, and finally load the model again that was loaded before.

    The loaded model draws first, so that there are at most two loads. Closing stops within a step and leaves the model
    that was drawing loaded. Raises AppError if another job changes the model meanwhile.
    """
    before, was = session.variant, session.state
    order = sorted((0, 1), key=lambda i: before is None or sides[i].variant.id != before.id)
    drawn: list[DrawnSide] = []
    for number in order:
        side = sides[number]
        if session.variant is None or session.variant.id != side.variant.id:
            why = Message("compare_loading_side", title=side.variant.title)
            yield from _load(session, session.catalog.name_of(side.variant), why)
        with closing(session.run(side.request)) as events:
            for event in events:
                if isinstance(event, Started) and event.provenance.variant_id != side.variant.id:
                    raise AppError("compare_model_changed", title=event.provenance.title)
                if isinstance(event, Finished):
                    drawn.append(DrawnSide(number, store.save(event)[0]))
                else:
                    yield event
        yield drawn[-1]
    if before is not None and session.variant is not None and session.variant.id != before.id:
        why = Message("compare_loading_again", title=before.title)
        yield from _load(session, session.catalog.name_of(before), why, was.device, was.precision)
    return sorted(drawn, key=lambda one: one.side)


def _load(session: Session, name: str, why: Message, device: str = "auto", precision: str = "auto") -> Iterator[Event]:
    """Load a model, and say for what as long as it takes: notices would stay when it is over."""
    yield Progress("read", 0, 0, detail=why)
    for event in session.load(name, device, precision):
        yield replace(event, detail=event.detail or why) if isinstance(event, Progress) else event


def vote_key(side: Side) -> str:
    """The key of the side in votes: its model and the settings that affect it, without prompt and seed."""
    request, settings = side.request, side.variant.settings
    parts = [side.variant.id, f"guidance {request.guidance:g}"]
    parts += [f"{name} {getattr(request, name):g}" for name in ("temperature", "steps") if name in settings]
    parts += [f"solver {request.solver}"] if side.variant.solvers else []
    return ", ".join(parts)
