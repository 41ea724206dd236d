"""A job as the page sees it: the studio's events turned into frames, at most ten a second.

A frame is everything a tab needs to redraw itself. Events between two frames are folded into the next one and never
queued, so a slow browser sees fewer frames and not older ones. Closing the iterator closes the studio's.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from janus_app.errors import AppError, Message
from janus_app.formatting import share_text, size_text, time_text
from janus_app.types import Event, Finished, Notice, Preview, Progress, Queued, Started, TextDelta
from janus_app.ui.common.html import bar, message
from janus_app.ui.i18n import Texts

FRAMES_PER_SECOND = 10
WAITING_SECONDS = 1.0  # between two frames that say the same of a waiting job; one that was stopped leaves by then
KNOWN_STAGES = (
    "download",
    "verify",
    "import",
    "convert",
    "read",
    "build",
    "quantise",
    "draw",
    "write",
    "decode",
    "encode",
    "unload",
    "unloaded",
    "wait",
    "ready",
    "inspect",
    "rank",
)
UNITS = {"tokens": "unit_tokens", "token": "unit_tokens", "steps": "unit_steps"}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """`status` is HTML. `previews` is empty where nothing new was drawn since the last frame. `error` is a sentence.

    `progress` is what `status` was made from, where it was progress.
    """

    status: str = ""
    text: str = ""
    previews: tuple[Image, ...] = ()
    notices: tuple[str, ...] = ()
    finished: Finished | None = None
    error: str = ""
    progress: Progress | None = None


class Speed:
    """Units a second over the last few seconds of one stage."""

    def __init__(self, window: float = 4.0) -> None:
        self._window = window
        self._stage = ""
        self._points: deque[tuple[float, int]] = deque()

    def seen(self, stage: str, done: int) -> float:
        """The rate after `done` units of `stage`; 0 while it is too early to tell."""
        now = time.monotonic()
        if stage != self._stage or (self._points and done < self._points[-1][1]):
            self._stage = stage
            self._points.clear()
        self._points.append((now, done))
        while len(self._points) > 2 and now - self._points[0][0] > self._window:
            self._points.popleft()
        elapsed = now - self._points[0][0]
        return (done - self._points[0][1]) / elapsed if elapsed > 0.3 else 0.0


def watch(make: Callable[[], Iterator[Event]], texts: Texts, language: str) -> Iterator[Frame]:
    """Run the iterator `make` gives and report it in frames; the last one is finished, failed, or just the last.

    `make` is called inside, because building a request already refuses bad settings and that must become a frame too.
    """
    text, status, written = "", "", 0
    notices: list[str] = []
    previews: tuple[Image, ...] = ()
    finished: Finished | None = None
    progress: Progress | None = None
    speed, last, said = Speed(), 0.0, ""
    try:
        with closing(_closable(make())) as events:
            for event in events:
                if isinstance(event, Started):  # nothing to show yet
                    continue
                if isinstance(event, TextDelta):
                    text += event.text
                    written += len(event.token_ids)
                    if event.token_ids:  # how long the answer will be nobody knows, so there is no time left to tell
                        status = progress_html(Progress("write", written, 0, "tokens"), speed, texts, language)
                elif isinstance(event, Notice):
                    notices.append(texts.sentence(event.message.text(language), language))
                elif isinstance(event, Preview):
                    previews = event.images
                elif isinstance(event, Finished):
                    finished = event
                if isinstance(event, Queued):
                    status = message(queue_line(event.place, texts, language))
                elif isinstance(event, Progress):
                    status, progress = progress_html(event, speed, texts, language), event
                now = time.monotonic()
                # Each frame costs the server a round through its queue. Twenty people in line, each told the same ten
                # times a second, took most of a machine's time from the one whose picture was being drawn.
                same = isinstance(event, Queued) and status == said
                if now - last >= (WAITING_SECONDS if same else 1 / FRAMES_PER_SECOND):
                    yield Frame(status, text, previews, tuple(notices), progress=progress)
                    last, previews, said = now, (), status
            yield Frame(status, text, previews, tuple(notices), finished, progress=progress)
    except AppError as error:
        yield Frame("", text, (), tuple(notices), error=texts.text(error, language))
    except Exception as error:
        # A bug of ours: the log gets the traceback, the person gets a sentence and a page that still works.
        logger.exception("a job on the page failed")
        yield Frame("", text, (), tuple(notices), error=texts.say("error_bug", language, kind=type(error).__name__))


def _closable(events: Iterator[Event]) -> Any:
    return events if hasattr(events, "close") else (event for event in events)


def queue_line(place: int, texts: Texts, language: str) -> str:
    return texts.say("queue_next", language) if place <= 1 else texts.say("queue_place", language, place=place)


def progress_html(event: Progress, speed: Speed, texts: Texts, language: str) -> str:
    """A progress event as a line with rate and time left, over a bar."""
    stage = texts.say(f"stage_{event.stage}", language) if event.stage in KNOWN_STAGES else event.stage
    rate = speed.seen(event.stage, event.done)
    parts = [stage]
    if event.unit in ("bytes", "B"):
        rate = event.rate  # what an earlier try left counts as done at once, and is no speed
        done, total = share_text(event.done, event.total)
        parts.append(texts.say("amount_of", language, done=done, total=total) if event.total else size_text(event.done))
        if rate:
            parts.append(f"{size_text(rate)}/s")
    elif event.total or event.done:
        unit = texts.say(UNITS[event.unit], language) if event.unit in UNITS else event.unit
        of = f" / {event.total:,}" if event.total else ""
        parts.append(f"{event.done:,}{of} {unit}".strip())
        if rate:
            parts.append(f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.1f} {unit}/s")
    if rate and event.total > event.done:
        parts.append(texts.say("time_left", language, time=time_text((event.total - event.done) / rate)))
    if isinstance(event.detail, Message):
        parts.append(texts.text(event.detail, language))
    elif event.detail:
        parts.extend(texts.sentence(part, language) for part in event.detail.split(" · "))
    return bar(" · ".join(parts), event.done / event.total if event.total else None, stage)
