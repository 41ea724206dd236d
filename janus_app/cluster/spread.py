"""A job in parts on several replicas, and a part that is run again: what its user sees is one job that ran once.

Both rest on the same fact: picture i depends only on seed + i, and an answer only on its seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from PIL import Image

from janus_app.types import (
    EditRequest,
    Event,
    Finished,
    GenerateRequest,
    Notice,
    Preview,
    Progress,
    Queued,
    Request,
    Started,
    TextDelta,
)

BLANK = (128, 128, 128)  # a picture that nobody has begun


def split(request: Request, parts: int) -> list[Request]:
    """A request for several pictures as up to `parts` requests for some of them each, in order; others as they are."""
    if not isinstance(request, GenerateRequest | EditRequest):
        return [request]
    if isinstance(request, GenerateRequest) and request.think and not request.plan:
        return [request]  # all pictures share the plan
    parts = min(parts, request.count)
    sizes = [request.count // parts + (number < request.count % parts) for number in range(parts)]
    first = [sum(sizes[:number]) for number in range(parts)]
    return [replace(request, count=size, seed=request.seed + at) for size, at in zip(sizes, first, strict=True)]


@dataclass
class Shown:
    """What was shown of a job. After `again`, the events of its next run pass only as far as they are new."""

    _started: bool = False
    _characters: int = 0
    _tokens: int = 0
    _at: tuple[int, int] = (0, 0)  # characters and tokens of this run
    _preview: int = 0
    _progress: dict[str, int] = field(default_factory=dict)
    _notices: list[Notice] = field(default_factory=list)
    _repeated: list[Notice] | None = None  # notices that this run may repeat; None in the first run

    def again(self) -> None:
        self._at, self._repeated = (0, 0), list(self._notices)

    def new(self, event: Event) -> Event | None:
        """The event, or what is new of it."""
        if isinstance(event, Started):
            begun, self._started = self._started, True
            return None if begun else event
        if isinstance(event, TextDelta):
            return self._new_text(event)
        if isinstance(event, Notice):
            if self._repeated and event in self._repeated:
                self._repeated.remove(event)
                return None
            self._notices.append(event)
        elif isinstance(event, Preview):
            if self._repeated is not None and event.done <= self._preview:
                return None
            self._preview = event.done
        elif isinstance(event, Progress):
            if self._repeated is not None and event.done <= self._progress.get(event.stage, -1):
                return None
            self._progress[event.stage] = event.done
        return event

    def _new_text(self, event: TextDelta) -> TextDelta | None:
        characters, tokens = self._at
        text = event.text[max(0, self._characters - characters) :]
        ids = event.token_ids[max(0, self._tokens - tokens) :]
        self._at = (characters + len(event.text), tokens + len(event.token_ids))
        self._characters, self._tokens = max(self._characters, self._at[0]), max(self._tokens, self._at[1])
        return TextDelta(text, ids) if text or ids else None


class Whole:
    """The events of a job from those of its parts. `finished` is its end, once each part has ended."""

    def __init__(self, request: Request | None, parts: Sequence[Request | None]) -> None:
        self.request = request
        self._counts = [getattr(part, "count", 1) for part in parts]
        self._ends: list[Finished | None] = [None] * len(parts)
        self._previews: list[Preview | None] = [None] * len(parts)
        self._progress: list[Progress | None] = [None] * len(parts)
        self._started = False
        self._notices: list[Notice] = []

    def take(self, part: int, event: Event) -> Event | None:
        """What the user sees of an event of one part."""
        if isinstance(event, Started):
            begun, self._started = self._started, True
            provenance = event.provenance
            return None if begun else Started(replace(provenance, request=self.request or provenance.request))
        if isinstance(event, Queued):
            return None
        if isinstance(event, Notice):
            if event in self._notices:
                return None
            self._notices.append(event)
            return event
        if isinstance(event, Finished):
            self._ends[part] = event
            return None
        if len(self._ends) == 1 or isinstance(event, TextDelta):
            return event
        if isinstance(event, Preview):
            self._previews[part] = event
            return self._all_previews(event, part)
        self._progress[part] = event
        return self._all_progress(event, part)

    def _all_previews(self, event: Preview, part: int) -> Preview:
        images: list[Image.Image] = []
        for seen, end, count in zip(self._previews, self._ends, self._counts, strict=True):
            if end is not None:
                images += [picture.image for picture in end.pictures]
            elif seen is not None:
                images += seen.images
            else:
                images += [Image.new("RGB", event.images[0].size, BLANK)] * count
        done = [seen.done if seen else 0 for seen in self._previews]
        totals = [seen.total if seen else self._expected(event.total, part, i) for i, seen in enumerate(self._previews)]
        return Preview(tuple(images), sum(done), sum(totals))

    def _all_progress(self, event: Progress, part: int) -> Progress:
        """The parts at the same stage together; one that is elsewhere counts as not begun, one that ended as done."""
        same = [seen if seen and seen.stage == event.stage else None for seen in self._progress]
        totals = [seen.total if seen else self._expected(event.total, part, i) for i, seen in enumerate(same)]
        done = [
            total if end else seen.done if seen else 0
            for seen, end, total in zip(same, self._ends, totals, strict=True)
        ]
        running = [seen for seen, end in zip(same, self._ends, strict=True) if seen and not end]
        left = max((seen.seconds_left for seen in running if seen.seconds_left is not None), default=None)
        return replace(event, done=sum(done), total=sum(totals), seconds_left=left)

    def _expected(self, total: int, part: int, other: int) -> int:
        """The steps of another part, from those of one that has begun."""
        return total * self._counts[other] // self._counts[part]

    @property
    def finished(self) -> Finished | None:
        ends = [end for end in self._ends if end is not None]
        if len(ends) < len(self._ends):
            return None
        first, provenance = ends[0], ends[0].provenance
        return replace(
            first,
            pictures=tuple(picture for end in ends for picture in end.pictures),
            compute_seconds=max(end.compute_seconds for end in ends),
            provenance=replace(provenance, request=self.request) if provenance and self.request else provenance,
        )
