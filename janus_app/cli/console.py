"""The terminal: results on stdout, progress and sentences for the user on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TextIO, TypeVar

from janus_app.errors import AppError, Message, system_language
from janus_app.formatting import duration, share_text, size_text
from janus_app.runtime.watchdog import Watchdog, reporting_silence
from janus_app.types import Event, Finished, Notice, Progress, Queued, TextDelta

T = TypeVar("T")
NO_LOG = logging.NullHandler()
QUIET = 10.0  # seconds between two lines of progress where there is no terminal


class UsageError(AppError):
    """The request itself is wrong: nothing was tried, exit status 2."""


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Raise AppErrors as UsageErrors: what fails while a request is read is wrong in the request."""
    try:
        yield
    except AppError as error:
        raise UsageError(error.message) from None


def clean(text: str) -> str:
    """Text from a person, a file or a model, without characters that act on a terminal.

    Undecodable bytes stay: a request refuses them, and a terminal shows them as "?".
    """
    return "".join(c for c in text if c.isprintable() or c in "\n\t\u200d\u3000\u00a0" or "\ud800" <= c <= "\udfff")


def localized(text: str | Message) -> str:
    """A message in the language of the system."""
    return text.text(system_language()) if isinstance(text, Message) else text


def silence_libraries() -> None:
    """Keep the warnings and log lines of libraries off the terminal. Our own log, of bugs, stays."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):  # read when they are imported
        os.environ.setdefault(f"{library}_VERBOSITY", "critical")
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(NO_LOG)  # without any handler, Python prints the warnings of every library
    if logging.lastResort:
        logging.getLogger("janus_app").addHandler(logging.lastResort)


def say(text: str | Message) -> None:
    """Print a line for the user on stderr, in the language of the system."""
    print(clean(localized(text)), file=sys.stderr, flush=True)


def emit(result: dict[str, Any]) -> None:
    """Print one result as one line of JSON, in ASCII so that the terminal's encoding does not matter."""
    print(json.dumps(result), flush=True)


def follow(
    events: Iterable[Any], text_to: TextIO | None = None, on_result: Callable[[Any], None] | None = None
) -> Finished | None:
    """Run a job to its end as `shown` does. Returns the last Finished event, None for a job without one."""
    finished: Finished | None = None
    for event in shown(events, text_to, on_result):
        if isinstance(event, Finished):
            finished = event
    return finished


def shown(
    events: Iterable[Any], text_to: TextIO | None = None, on_result: Callable[[Any], None] | None = None
) -> Generator[Any, None, None]:
    """The events of a job, with progress on stderr and the text that it writes, if any, on `text_to`.

    `on_result` takes what a job yields that is no event, such as a line of the self-test. Any exception, Ctrl-C too,
    closes the job.
    """
    place, begun = 0, False
    watchdog = Watchdog()
    with _Bars() as bars, reporting_silence(watchdog, say):
        for event in watchdog.watch(events if hasattr(events, "close") else (event for event in events)):
            if isinstance(event, Progress):
                bars.show(event)
            elif isinstance(event, Notice):
                bars.clear()
                say(event.message)
            elif isinstance(event, Queued) and event.place != place:
                place = event.place
                say(Message("cli_waiting", place=place))
            elif isinstance(event, TextDelta) and text_to:
                bars.clear()
                text = clean(event.text) if begun else clean(event.text).lstrip()  # models begin with a space
                begun = begun or bool(text)
                print(text, end="", file=text_to, flush=True)
            elif on_result is not None and not isinstance(event, Event):
                bars.clear()
                on_result(event)
            yield event


def follow_to_result(work: Generator[Event, None, T]) -> T:
    """Run the generator to its end, showing its progress, and return what it returns."""
    found: list[T] = []

    def events() -> Generator[Event, None, None]:
        found.append((yield from work))

    follow(events())
    return found[0]


class _Bars:
    """A progress bar for the current stage.

    Without a terminal: a line for work on files when it begins and at every tenth, and for any work QUIET seconds after
    the last line, so that short work says nothing.
    """

    FILES = ("download", "verify", "convert")

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage = ""
        self._tenth = -1
        self._said = time.monotonic()

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def show(self, event: Progress) -> None:
        if not sys.stderr.isatty():
            self._show_line(event)
            return
        if event.stage != self._stage:
            self.clear()
            self._stage = event.stage
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                desc=event.stage,
                unit=event.unit or "it",
                unit_scale=event.total > 10_000,
                leave=False,
                file=sys.stderr,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}%|{bar:20}| {desc}" if event.unit == "B" else None,
            )
        self._bar.total = event.total or None
        self._bar.n = event.done
        if event.unit == "B":
            self._bar.set_description_str(clean(f"{event.stage} {progress_line(event)}"), refresh=False)
        elif event.detail or event.seconds_left:
            self._bar.set_postfix_str(clean(localized(event.detail) or _left(event))[:40], refresh=False)
        self._bar.refresh()

    def _show_line(self, event: Progress) -> None:
        tenth, now = event.done * 10 // event.total if event.total else 0, time.monotonic()
        changed = event.stage in self.FILES and (event.stage, tenth) != (self._stage, self._tenth)
        if changed or now - self._said >= QUIET:
            say(f"{event.stage}: {progress_line(event)}")
            self._said = now
        self._stage, self._tenth = event.stage, tenth


def progress_line(event: Progress) -> str:
    """3.1 of 4.2 GB, 41 MB/s, 27 s left, model.safetensors (2 of 8 files done); or 300 of 576 tokens, 1:10 min left"""
    if event.unit == "B":
        done, total = share_text(event.done, event.total)
        parts = [f"{done} of {total}" if event.total else ""]
    else:
        parts = [f"{event.done:,} of {event.total:,} {event.unit}".rstrip() if event.total else "", _left(event)]
    if event.rate:
        parts.append(f"{size_text(event.rate)}/s")
        if event.total > event.done:
            parts.append(f"{duration((event.total - event.done) / event.rate)} left")
    return ", ".join(part for part in (*parts, localized(event.detail)) if part)


def _left(event: Progress) -> str:
    return f"{duration(event.seconds_left)} left" if event.seconds_left else ""
