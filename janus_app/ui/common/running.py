"""Jobs that do not end with the browser tab that started them: drawings, comparisons, answers, loads of models, work on
their files, self-tests.

A run advances its job in a thread of its own and keeps the latest view. Handlers only follow it: a closed or refreshed
tab looks away, and the tab that is opened in its place finds the run again and follows it further. On a shared page
nobody holds the machine without looking: a run that nobody followed for PATIENCE seconds is stopped there.

A browser tab is known by its Gradio session, which is new at each opening, and by a key that the browser keeps until
the tab is closed. Each opening takes over what the tab with the old key had, and gets a new key, so a duplicated tab
does not mix with the first.
"""

from __future__ import annotations

import contextvars
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

from janus_app.errors import AppError
from janus_app.outputs.conversations import Conversation
from janus_app.types import EditRequest, GenerateRequest
from janus_app.ui.common.jobs import Frame
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.common.visitor import visitor

PATIENCE = 60.0  # seconds that an unwatched run goes on on a shared page
LOOK_SECONDS = 1.0  # a follower gets a view at least this often, so that Gradio notices a closed tab
STOP_SECONDS = 2.0  # that a stopped answer is waited for; one in a longer step is saved later
MAX_RUNNING = 60  # runs of all tabs together that wait or draw
MAX_TABS = 200  # browser tabs that are remembered
MAX_RUNS = 30  # runs that are remembered of each place of a tab

Place = Literal["draw", "edit", "compare", "files", "machine"]
Drawing = GenerateRequest | EditRequest
Stopped = Callable[[], bool]  # whether a job shall end at its next step
V = TypeVar("V")
E = TypeVar("E")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """What to show now. `preview_grid` and `plan` are None where they stay as they are; `saved` is given once, at the
    end."""

    preview_grid: str | None
    status: str
    notes: str = ""
    saved: tuple[SavedImage, ...] | None = None
    plan: str | None = None


class Job(Generic[V]):
    """A job that is followed by whoever looks. Its views are what to show now."""

    def __init__(self, first: V, watched: bool) -> None:
        """`first` is shown until the job says more. A job that is `watched` stops when nobody follows it."""
        self.ended = False
        self._patience = PATIENCE if watched else None
        self._view, self._views = first, 0
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._looked = time.monotonic()

    def start(self, views: Callable[[Stopped], Iterator[V]], failed: Callable[[Exception], V]) -> None:
        """Advance the job in a thread. `failed` gives the last view where `views` raises, which is a bug."""
        advance = contextvars.copy_context().run  # the job counts as the visitor's
        threading.Thread(target=advance, args=(self._advance, views, failed), daemon=True, name="drawing").start()

    @property
    def view(self) -> V:
        """The latest view. Who reads it is somebody who looks."""
        self._looked = time.monotonic()
        return self._view

    @property
    def stopped(self) -> bool:
        """Whether somebody stopped the job."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End the job within one step."""
        self._stop.set()

    def wait(self, seconds: float) -> None:
        """Wait until the job has ended, at most so long."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended, seconds)

    def follow(self) -> Iterator[V]:
        """The latest view as often as it changes, until the last one. Closing the iterator leaves the job alone."""
        seen = 0
        while True:
            with self._changed:
                if not self.ended and self._views == seen:
                    self._changed.wait(LOOK_SECONDS)
                self._looked = time.monotonic()
                fresh, ended = self._views > seen, self.ended
                view = self._since(seen)
                seen = self._views
            if fresh or not ended:
                yield view
            if ended:
                return

    def _advance(self, views: Callable[[Stopped], Iterator[V]], failed: Callable[[Exception], V]) -> None:
        try:
            for view in views(self._stopped):
                self._show(view)
        except Exception as error:
            logger.exception("a job of the page failed")
            self._show(failed(error))
        finally:
            with self._changed:
                self.ended = True
                self._changed.notify_all()

    def _stopped(self) -> bool:
        alone = self._patience is not None and time.monotonic() - self._looked > self._patience
        return alone or self._stop.is_set()

    def _since(self, seen: int) -> V:
        """The latest view for a follower who had `seen` so many."""
        return self._view

    def _show(self, view: V) -> None:
        with self._changed:
            self._view = view
            self._views += 1
            self._changed.notify_all()


class Run(Job[View]):
    """One drawing job. `saved` are its finished pictures, none until it ends.

    `seed` is that of its first picture. `before` is a served file of the picture that it edits, "" where it edits none.
    """

    def __init__(self, seed: int, before: str, watched: bool) -> None:
        super().__init__(View(None, ""), watched)
        self.seed, self.before = seed, before
        self.saved: tuple[SavedImage, ...] = ()
        self._grid: str | None = None
        self._grid_at = 0  # the number of the view that brought the latest preview grid

    def _since(self, seen: int) -> View:
        return replace(
            self._view,
            preview_grid=self._grid if self._grid_at > seen else None,
            saved=self._view.saved if self._views > seen else None,
        )

    def _show(self, view: View) -> None:
        with self._changed:
            if view.preview_grid is not None:
                self._grid, self._grid_at = view.preview_grid, self._views + 1
            self.saved = view.saved or ()
            super()._show(view)


class Showing(Job[dict[Any, Any]]):
    """A job whose views are new values of components. A follower gets all so far: a busy browser may miss some."""

    def __init__(self, watched: bool) -> None:
        super().__init__({}, watched)
        self.shown: dict[Any, Any] = {}

    def show(self, updates: dict[Any, Any]) -> None:
        """What the user has done with the results since, for the next opening of the tab."""
        self._show(updates)

    def _since(self, seen: int) -> dict[Any, Any]:
        return self.shown.copy()

    def _show(self, view: dict[Any, Any]) -> None:
        with self._changed:
            self.shown |= view
            super()._show(view)


class Talk(Showing):
    """An answer in the chat. `conversation` holds what is written of it so far; `unwanted`, it is not saved."""

    def __init__(self, conversation: Conversation, watched: bool) -> None:
        super().__init__(watched)
        self.conversation, self.unwanted = conversation, False
        self._left = False

    def leave(self, last: dict[Any, Any]) -> None:
        """Let the followers of the answer go with a `last` view, in the middle of a long step."""
        with self._changed:
            if not self.ended:
                self._show(last)
                self._left = True

    def follow(self) -> Iterator[dict[Any, Any]]:
        for view in super().follow():
            left = self._left
            yield self.shown.copy() if left else view
            if left:
                return

    def _show(self, view: dict[Any, Any]) -> None:
        with self._changed:
            if not self._left:
                super()._show(view)


class Load(Job[Frame]):
    """A model that is loaded or unloaded; `wanted` says which and how."""

    def __init__(self, first: Frame, wanted: tuple[Any, ...], watched: bool) -> None:
        super().__init__(first, watched)
        self.wanted = wanted


@dataclass
class _BrowserTab:
    runs: dict[Place, list[Run]] = field(default_factory=dict)
    talk: Talk | Conversation | None = None
    showing: dict[Place, Showing] = field(default_factory=dict)
    load: Load | None = None
    kept: dict[Place, Any] = field(default_factory=dict)

    def copy(self) -> _BrowserTab:
        runs = {place: list(runs) for place, runs in self.runs.items()}
        return _BrowserTab(runs, self.talk, dict(self.showing), self.load, dict(self.kept))


class Runs:
    """The runs of all browser tabs; the tab meant is the one whose request is being handled."""

    def __init__(self) -> None:
        self._by_session: OrderedDict[str, _BrowserTab] = OrderedDict()
        self._by_key: OrderedDict[str, _BrowserTab] = OrderedDict()
        self._alive: list[Job[Any]] = []
        self._page = _BrowserTab()  # what all tabs of a page that is not shared have in common
        self._lock = threading.Lock()

    def new(self, place: Place, seed: int, before: str, watched: bool) -> Run:
        """A run for the tab to start; `watched`: it is stopped when nobody follows it. Raises AppError if too many."""
        with self._lock:
            run = Run(seed, before, watched)
            self._admit(run)
            runs = self._tab().runs
            runs[place] = [*runs.get(place, []), run][-MAX_RUNS:]
        return run

    def answer(self, conversation: Conversation, watched: bool) -> Talk:
        """An answer for the tab to start in its chat. Raises AppError if too many jobs run."""
        with self._lock:
            talk = Talk(conversation, watched)
            self._admit(talk)
            self._tab().talk = talk
        return talk

    def begin(self, place: Place, watched: bool) -> Showing:
        """A job for the tab to start in a place, where it is shown from now on. Raises AppError if too many run."""
        self.stop(place)
        with self._lock:
            job = Showing(watched)
            self._admit(job)
            self._tab().showing[place] = job
        return job

    def showing(self, place: Place) -> Showing | None:
        """The job that the tab shows in a place."""
        with self._lock:
            return self._tab().showing.get(place)

    def keep(self, place: Place, value: Any) -> None:
        """Keep what the tab shows in a place, for its next opening; it must not change any more."""
        with self._lock:
            self._tab().kept[place] = value

    def kept(self, place: Place) -> Any:
        """What was kept last; None where nothing was."""
        with self._lock:
            return self._tab().kept.get(place)

    def load(self, first: Frame, wanted: tuple[Any, ...], shared: bool) -> tuple[Load, bool]:
        """A load for the tab to start, and True; or the one that runs already with what is `wanted`, and False.

        Another load that runs is stopped: who wants another model before that changed their mind. All tabs of a page
        that is not `shared` have one load. Raises AppError if too many jobs run.
        """
        with self._lock:
            holder = self._tab() if shared else self._page
            before = holder.load
            if before and not before.ended and not before.stopped:
                if before.wanted == wanted:
                    return before, False
                before.stop()
            holder.load = Load(first, wanted, watched=shared)
            self._admit(holder.load)
            return holder.load, True

    def loading(self, shared: bool) -> Load | None:
        """The load that the tab started last, or any tab of a page that is not `shared`; it may have ended."""
        with self._lock:
            return (self._tab() if shared else self._page).load

    @property
    def talk(self) -> Talk | Conversation | None:
        """What the tab's chat shows: an answer that runs or has ended, or a conversation that was opened since."""
        with self._lock:
            return self._tab().talk

    def stop_answer(self, unwanted: bool = False) -> Talk | None:
        """Stop what is answered in the tab's chat and let it be saved, but `unwanted`, nothing of it is. Returns it."""
        if not isinstance(talk := self.talk, Talk):
            return None
        talk.unwanted |= unwanted
        talk.stop()
        talk.wait(STOP_SECONDS)
        return talk

    def leave_answer(self, last: dict[Any, Any]) -> None:
        """Show a `last` view in place of what is answered in the tab's chat; stop that and let it be saved."""
        if isinstance(talk := self.talk, Talk):
            talk.leave(last)
            self.stop_answer()

    def show_talk(self, conversation: Conversation) -> None:
        """Another conversation is opened in the tab's chat."""
        with self._lock:
            self._tab().talk = conversation

    def _admit(self, job: Job[Any]) -> None:
        self._alive = [other for other in self._alive if not other.ended]
        if len(self._alive) >= MAX_RUNNING:
            raise AppError("page_jobs_full")
        self._alive.append(job)

    def of(self, place: Place) -> list[Run]:
        """The tab's runs, the first one first."""
        with self._lock:
            return list(self._tab().runs.get(place, []))

    def stop(self, place: Place) -> bool:
        """Stop what the tab draws in a place. False if it draws nothing there."""
        running: list[Job[Any]] = [run for run in self.of(place) if not run.ended]
        if (job := self.showing(place)) and not job.ended:
            running.append(job)
        for run in running:
            run.stop()
        return bool(running)

    def join(self, key: str) -> str:
        """Take over the runs of the tab that had `key`, if there was one. Returns the key for the next opening."""
        new = secrets.token_urlsafe(16)
        with self._lock:
            tab = self._by_key[key].copy() if key in self._by_key else self._tab()
            self._remember(self._by_session, visitor(), tab)
            self._remember(self._by_key, new, tab)
        return new

    def _tab(self) -> _BrowserTab:
        tab = self._by_session.get(visitor()) or _BrowserTab()
        self._remember(self._by_session, visitor(), tab)
        return tab

    @staticmethod
    def _remember(tabs: OrderedDict[str, _BrowserTab], name: str, tab: _BrowserTab) -> None:
        if name:  # "" outside of a request
            tabs[name] = tab
            tabs.move_to_end(name)
            while len(tabs) > MAX_TABS:
                tabs.popitem(last=False)


def until(stopped: Stopped, events: Iterator[E]) -> Iterator[E]:
    """`events` until `stopped` says so; then they are closed."""
    with closing(cast(Generator[E], events)):
        for event in events:
            if stopped():
                return
            yield event


def pictures_of(runs: list[Run]) -> list[SavedImage]:
    """The pictures of runs, the newest run first, without those whose copy for the page is deleted by now."""
    return [picture for run in reversed(runs) for picture in run.saved if Path(picture.shown).exists()]
