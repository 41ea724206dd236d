"""What both halves of the compare tab share: the prompt and the seed, and where a running job shows its progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from janus_app.ui.common.controls import RunButtons
from janus_app.ui.common.html import message
from janus_app.ui.common.running import Stopped
from janus_app.ui.common.shown_jobs import show_on
from janus_app.ui.context import PageContext, Updates


@dataclass(frozen=True)
class SharedParts:
    """`pair_results` and `grid_results` are the columns of the two halves; the one whose job ran last is visible.

    `buttons` run and stop the one and the other half, one job at a time.
    """

    prompt: gr.Textbox
    seed: gr.Number
    new_seed: gr.Checkbox
    status: gr.HTML
    notes: gr.HTML
    preview: gr.HTML
    pair_results: gr.Column
    grid_results: gr.Column
    buttons: tuple[RunButtons, RunButtons]

    @property
    def inputs(self) -> set[Any]:
        return {self.prompt, self.seed, self.new_seed}

    @property
    def outputs(self) -> list[Any]:
        """Whatever a job may change."""
        columns = [self.pair_results, self.grid_results]
        buttons = [button for pair in self.buttons for button in vars(pair).values()]
        return [self.preview, self.status, self.notes, self.seed, *columns, *buttons]

    def run(self, page: PageContext, language: str, views: Callable[[Stopped], Iterator[Updates]]) -> Iterator[Updates]:
        """Start a job, which goes on where the browser tab is closed or refreshed, and show its `views`."""
        yield from show_on(page, "compare", views, self.refused, language)

    def stop(self, page: PageContext) -> None:
        """Stop the job; its own last view says so."""
        page.runs.stop("compare")

    def started(self, page: PageContext, language: str, seed: Any, visible: gr.Column | None = None) -> Updates:
        """A job has begun: clear the last one and show the column of results `visible`, if any."""
        return {
            self.preview: "",
            self.status: message(page.texts.say("starting", language)),
            self.notes: "",
            self.seed: seed,
            self.pair_results: gr.update(visible=visible is self.pair_results),
            self.grid_results: gr.update(visible=visible is self.grid_results),
            **self._buttons(running=True),
        }

    def _buttons(self, running: bool) -> Updates:
        return {button: update for pair in self.buttons for button, update in pair.updates(running).items()}

    def ended(self, status: str = "") -> Updates:
        """A job is over; `status` is HTML. Notes stay as they are."""
        return {self.preview: "", self.status: status, **self._buttons(running=False)}

    def refused(self, reason: str) -> Updates:
        """A job cannot start or save its result, for `reason`."""
        return {**self.ended(), self.notes: message(reason, "error")}
