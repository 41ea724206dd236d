"""The right column of the draw tab and of the edit tab: a running job, then its pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from janus_app.ui.common.actions import Actions, PictureSource
from janus_app.ui.common.detail import detail_html
from janus_app.ui.common.drawing import View
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import PageContext, Updates, Values

MAX_GALLERY_ITEMS = 60  # pictures a browser tab keeps in its gallery; the files stay in the outputs folder


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


def job_output(tab: str) -> JobOutput:
    return JobOutput(
        gr.HTML(elem_id=f"{tab}-status", padding=False),
        gr.HTML(elem_id=f"{tab}-notes", padding=False),
        gr.HTML(elem_id=f"{tab}-easel", padding=False),
    )


@dataclass(frozen=True)
class ResultGallery:
    """The pictures made in this browser tab, and details and buttons of the chosen one.

    `items` holds a list of SavedImage, newest job first; `chosen` the index of one of them.
    """

    gallery: gr.Gallery
    detail: gr.HTML
    row: Actions
    items: gr.State
    chosen: gr.State

    @property
    def all(self) -> set[Component]:
        return {self.gallery, self.detail, self.items, self.chosen}

    @property
    def source(self) -> PictureSource:
        """The chosen picture."""
        return PictureSource({self.items, self.chosen}, self.chosen_picture)

    def chosen_picture(self, values: Values) -> SavedImage:
        picture: SavedImage = values[self.items][values[self.chosen]]
        return picture

    def show(self, page: PageContext, items: list[SavedImage], index: int, language: str) -> Updates:
        """`items` in the gallery, and the details of the one at `index`."""
        return {
            # Paths, so that the files reach the browser byte for byte.
            self.gallery: gr.update(
                value=[(item.shown, caption(item, page, language)) for item in items],
                visible=True,
                selected_index=None,
            ),
            self.items: items,
            **self.choose(page, items, index, language),
        }

    def choose(self, page: PageContext, items: list[SavedImage], index: int, language: str) -> Updates:
        """The details of the picture at `index`, or of the last one where there are fewer."""
        index = min(index, len(items) - 1)
        return {self.chosen: index, self.detail: detail_html(page, items[index], language)}

    def reuse_seed(self, seed: gr.Number, new_seed: gr.Checkbox) -> Any:
        """A handler that puts the seed of the chosen picture into the seed box."""
        return lambda values: {seed: self.chosen_picture(values).metadata.seed, new_seed: False}


def caption(item: SavedImage, page: PageContext, language: str) -> str:
    """The line under a picture: its seed, and its score where the pictures were ranked."""
    seed = page.texts.say("seed_is", language, seed=item.metadata.seed)
    if item.score is None:
        return seed
    return page.texts.say("seed_score", language, caption=seed, score=f"{100 * item.score:.0f}")


def newest_first(items: list[SavedImage], new: tuple[SavedImage, ...]) -> list[SavedImage]:
    """`new` in its own order before the earlier pictures; the oldest leave beyond MAX_GALLERY_ITEMS."""
    return [*new, *items][:MAX_GALLERY_ITEMS]
