"""Where the draw tab and the edit tab show a running job."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from janus_app.ui.common.drawing import View
from janus_app.ui.context import Updates


@dataclass(frozen=True)
class JobOutput:
    """The progress line of a job, its notices and errors, and its previews. All three hold HTML."""

    status: gr.HTML
    notes: gr.HTML
    preview_grid: gr.HTML

    @property
    def all(self) -> set[Component]:
        return {self.status, self.notes, self.preview_grid}

    def cleared(self) -> Updates:
        return dict.fromkeys((self.preview_grid, self.status, self.notes), "")

    def updates(self, view: View) -> Updates:
        updates: Updates = {self.status: view.status, self.notes: view.notes}
        if view.preview_grid is not None:
            updates[self.preview_grid] = view.preview_grid
        return updates
