"""A job as the page sees it: the events of a session's job, summarised in at most ten frames a second, or four where
there is nothing but progress to show.

A frame is all that a tab needs to update itself. Events between two frames are merged into the next one and never
queued, so a slow browser gets fewer frames, not later ones. Closing the iterator closes the job.
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
from janus_app.formatting import duration, share_text, size_text
from janus_app.types import Event, Finished, Notice, Preview, Progress, Queued, Started, TextDelta
from janus_app.ui.common.html import bar, message
from janus_app.ui.i18n import Texts

FRAMES_PER_SECOND = 10
# Between frames of one stage without a new preview or word: each costs the browser, which may share the processor with
# the model, tens of milliseconds, and a click on Stop waits behind them.
PROGRESS_SECONDS = 0.25
WAITING_SECONDS = 1.0  # between unchanged frames of a waiting job; a stopped job leaves the queue at the next one
KNOWN_STAGES = (
    "connect",
    "download",
    "verify",
    "import",
    "convert",
    "read",
    "think",
    "look",
    "replicas",
    "draw",
    "write",
    "decode",
    "encode",
    "unloaded",
    "ready",
    "inspect",
    "rank",
    "selftest",
    "check",
)
UNITS = {
    "tokens": "unit_tokens",
    "steps": "unit_steps",
    "pictures": "unit_pictures",
    "weights": "unit_weights",
    "vectors": "unit_vectors",
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """`status` is HTML and shows `progress`, the latest one. `error` is a sentence.

    `previews` is empty where nothing new was drawn since the last frame.
    """

    status: str = ""
    text: str = ""
    previews: tuple[Image, ...] = ()
    notices: tuple[str, ...] = ()
    finished: Finished | None = None
    error: str = ""
    progress: Progress | None = None


class Speed:
    """Units per second over the last few seconds of one stage."""

    def __init__(self, window: float = 4.0) -> None:
        self._window = window
        self._stage = ""
        self._points: deque[tuple[float, int]] = deque()

    def update(self, stage: str, done: int) -> float:
        """The rate after `done` units of `stage`; 0 while it is too early to say."""
        now = time.monotonic()
        if stage != self._stage or (self._points and done < self._points[-1][1]):
            self._stage = stage
            self._points.clear()
        self._points.append((now, done))
        while len(self._points) > 2 and now - self._points[0][0] > self._window:
            self._points.popleft()
        elapsed = now - self._points[0][0]
        return (done - self._points[0][1]) / elapsed if elapsed > 0.3 else 0.0


class _Summary:
    """What the events of a job so far add up to."""

    def __init__(self, texts: Texts, language: str) -> None:
        self.texts, self.language = texts, language
        self.text, self.status, self.tokens = "", "", 0
        self.notices: list[str] = []
        self.previews: tuple[Image, ...] = ()  # since the last frame
        self.finished: Finished | None = None
        self.progress: Progress | None = None
        self.speed = Speed()

    def add(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self.text += event.text
            self.tokens += len(event.token_ids)
            if event.token_ids:  # without a total, because the length of an answer is not known before its end
                self.status = self._bar(Progress("write", self.tokens, 0, "tokens"))
        elif isinstance(event, Notice):
            self.notices.append(event.message.text(self.language))
        elif isinstance(event, Preview):
            self.previews = event.images
        elif isinstance(event, Finished):
            self.finished = event
        elif isinstance(event, Queued):
            self.status = message(queue_line(event.place, self.texts, self.language))
        elif isinstance(event, Progress):
            self.status, self.progress = self._bar(event), event

    def _bar(self, progress: Progress) -> str:
        return progress_html(progress, self.speed, self.texts, self.language)

    def has_progress_alone(self, shown: Frame) -> bool:
        """Whether nothing is new since the frame `shown` but progress of the same stage."""
        stages = [progress and progress.stage for progress in (self.progress, shown.progress)]
        words = (self.text, tuple(self.notices)) == (shown.text, shown.notices)
        return not self.previews and words and stages[0] == stages[1]

    def frame(self) -> Frame:
        frame = Frame(self.status, self.text, self.previews, tuple(self.notices), self.finished, progress=self.progress)
        self.previews = ()
        return frame

    def failed(self, error: str) -> Frame:
        return Frame("", self.text, (), tuple(self.notices), error=error)


def watch(make: Callable[[], Iterator[Event]], texts: Texts, language: str) -> Iterator[Frame]:
    """Run the job that `make` returns and summarise it in frames. The last frame has `finished` or `error`.

    A cancelled job has neither. `make` is called inside, because building a request already refuses bad settings, and
    the refusal must become a frame too.
    """
    summary, last, shown = _Summary(texts, language), 0.0, Frame()
    try:
        with closing(_closable(make())) as events:
            for event in events:
                if isinstance(event, Started):  # nothing to show yet
                    continue
                summary.add(event)
                now = time.monotonic()
                pause = 1 / FRAMES_PER_SECOND
                if isinstance(event, Progress) and summary.has_progress_alone(shown):
                    pause = PROGRESS_SECONDS
                # Each frame takes the server a pass through Gradio's queue. Ten unchanged frames a second for each of
                # twenty waiting visitors took most of a machine's time from the job that was running.
                if isinstance(event, Queued) and summary.status == shown.status:
                    pause = WAITING_SECONDS
                if now - last >= pause:
                    last, shown = now, summary.frame()
                    yield shown
            yield summary.frame()
    except AppError as error:
        yield summary.failed(error.text(language))
    except Exception as error:
        # A bug: the log gets the traceback, the user gets a sentence and a page that still works.
        logger.exception("a job on the page failed")
        yield summary.failed(texts.say("error_bug", language, kind=type(error).__name__))


def _closable(events: Iterator[Event]) -> Any:
    return events if hasattr(events, "close") else (event for event in events)


def queue_line(place: int, texts: Texts, language: str) -> str:
    return texts.say("queue_next", language) if place <= 1 else texts.say("queue_place", language, place=place)


def progress_html(event: Progress, speed: Speed, texts: Texts, language: str) -> str:
    """A progress event as a line with rate and time left, above a bar."""
    stage = texts.say(f"stage_{event.stage}", language) if event.stage in KNOWN_STAGES else event.stage
    rate = speed.update(event.stage, event.done)
    parts = [stage]
    if event.unit in ("bytes", "B") and not (event.done or event.total):  # how much there is to do is not known yet
        rate = 0.0
    elif event.unit in ("bytes", "B"):
        rate = event.rate  # measured by the download, which knows what an earlier attempt left
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
    left = event.seconds_left
    if left is None and rate and event.total > event.done:
        left = (event.total - event.done) / rate
    if left:
        parts.append(texts.say("time_left", language, time=duration(left).text(language)))
    if event.detail:
        parts.append(event.detail.text(language) if isinstance(event.detail, Message) else event.detail)
    return bar(" · ".join(parts), event.done / event.total if event.total else None, stage)
