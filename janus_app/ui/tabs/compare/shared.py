"""What both halves of the compare tab share: the prompt and the seed, and where a running job shows its progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from janus_app.ui.common.html import message
from janus_app.ui.context import PageContext, Updates


@dataclass(frozen=True)
class SharedParts:
    """`pair_results` and `grid_results` are the columns of the two halves; the one whose job ran last is visible."""

    prompt: gr.Textbox
    seed: gr.Number
    new_seed: gr.Checkbox
    status: gr.HTML
    notes: gr.HTML
    preview: gr.HTML
    pair_results: gr.Column
    grid_results: gr.Column

    @property
    def inputs(self) -> set[Any]:
        return {self.prompt, self.seed, self.new_seed}

    @property
    def outputs(self) -> list[Any]:
        """Whatever a job may change."""
        return [self.preview, self.status, self.notes, self.seed, self.pair_results, self.grid_results]

    def started(self, page: PageContext, language: str, seed: Any, visible: gr.Column | None = None) -> Updates:
        """A job has begun: clear the last one and show the column of results `visible`, if any."""
        return {
            self.preview: "",
            self.status: message(page.texts.say("starting", language)),
            self.notes: "",
            self.seed: seed,
            self.pair_results: gr.update(visible=visible is self.pair_results),
            self.grid_results: gr.update(visible=visible is self.grid_results),
        }

    def ended(self, status: str = "") -> Updates:
        """A job is over; `status` is HTML. Notes stay as they are."""
        return {self.preview: "", self.status: status}

    def refused(self, reason: str) -> Updates:
        """A job cannot start or save its result, for `reason`."""
        return {**self.ended(), self.notes: message(reason, "error")}
