"""The pictures of a tab: the chosen one large with its verbs, and all of them in runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from janus_app.ui.common.actions import PictureSource, action_row
from janus_app.ui.common.detail import detail_html
from janus_app.ui.common.pictures.markup import ADDRESSED, PICKED, large, run_heading, runs, tiles
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import QUICK, PageContext, Updates, Values, attach

MAX_ITEMS = 60  # pictures a browser tab keeps; the files stay in the outputs folder


@dataclass(frozen=True)
class PictureWall:
    """`picture` shows the chosen picture large and the others of its run, `runs` all pictures, `detail` metadata.

    `items` holds a list of SavedImage, newest job first; `chosen` the number of one of them.
    """

    picture: gr.HTML
    runs: gr.HTML
    detail: gr.HTML
    menu: gr.Column
    items: gr.State
    chosen: gr.State

    @property
    def all(self) -> set[Component]:
        return {self.picture, self.runs, self.detail, self.items, self.chosen}

    @property
    def choosing(self) -> set[Component]:
        """The outputs of `choose`."""
        return {self.picture, self.detail, self.chosen}

    @property
    def source(self) -> PictureSource:
        """The chosen picture."""
        return PictureSource({self.items, self.chosen}, self.chosen_picture)

    def chosen_picture(self, values: Values) -> SavedImage:
        picture: SavedImage = values[self.items][values[self.chosen]]
        return picture

    def build_details(self, page: PageContext, tab: str) -> None:
        """Place the metadata of the chosen picture here, behind a disclosure."""
        with gr.Accordion(page.texts.label("details"), open=False, elem_id=f"{tab}-details", elem_classes="quiet"):
            self.detail.render()

    def build_runs(self) -> None:
        """Place the runs here."""
        self.runs.render()

    def show(self, page: PageContext, items: list[SavedImage], index: int, language: str) -> Updates:
        """`items` in runs, with the one at `index` chosen. An example picture is shown large alone."""
        chosen = self.choose(page, items, index, language)
        return {
            self.runs: runs_html(page, items, chosen[self.chosen], language),
            self.items: items,
            **chosen,
        }

    def choose(self, page: PageContext, items: list[SavedImage], index: int, language: str) -> Updates:
        """The picture at `index` large, or the last one where there are fewer."""
        index = min(index, len(items) - 1)
        return {
            self.chosen: index,
            self.picture: chosen_html(page, items, index, language),
            self.detail: detail_html(page, items[index], language),
        }

    def reuse_seed(self, seed: gr.Number, new_seed: gr.Checkbox) -> Any:
        """A handler that puts the seed of the chosen picture into the seed box."""
        return lambda values: {seed: self.chosen_picture(values).metadata.seed, new_seed: False}

    def wire(self, page: PageContext) -> list[Any]:
        """A click on a picture chooses it. Returns the events after that."""

        def pick(values: Values, request: gr.Request, event: gr.EventData) -> Updates:
            items: list[SavedImage] = values[self.items]
            return self.choose(page, items, int(event.picture), page.language(request)) if items else gr.skip()

        return [attach(part.select, pick, {self.items}, self.choosing, **QUICK) for part in (self.picture, self.runs)]


def picture_wall(page: PageContext, tab: str) -> PictureWall:
    """Build the large picture and its verbs here. `build_details` and `build_runs` place the rest."""
    picture = gr.HTML(elem_id=f"{tab}-picture", html_template=ADDRESSED, js_on_load=PICKED)
    return PictureWall(
        picture,
        gr.HTML(elem_id=f"{tab}-runs", html_template=ADDRESSED, js_on_load=PICKED, render=False),
        gr.HTML(elem_id=f"{tab}-detail", render=False),
        action_row(page, tab),
        gr.State([]),
        gr.State(0),
    )


def caption(item: SavedImage, page: PageContext, language: str) -> str:
    """The line under a picture: its seed, and its score where the pictures were ranked."""
    seed = page.texts.say("seed_is", language, seed=item.metadata.seed)
    if item.score is None:
        return seed
    return page.texts.say("seed_score", language, caption=seed, score=f"{100 * item.score:.0f}")


def runs_of(items: list[SavedImage]) -> list[tuple[int, int]]:
    return runs([item.metadata for item in items], [item.score is not None for item in items])


def chosen_html(page: PageContext, items: list[SavedImage], index: int, language: str) -> str:
    """The picture at `index` large, beside the others of its run."""
    item, say = items[index], page.texts.say
    if item.example:
        line = say("example_drawn", language, title=item.metadata.title)
    else:
        line = f"{item.metadata.prompt} · {caption(item, page, language)}"
    strip = ""
    first, end = next((first, end) for first, end in runs_of(items) if first <= index < end)
    if end - first > 1:
        strip = tiles(page, items[first:end], first, index, lambda one: caption(one, page, language))
    shape = " alone" if not strip else ""
    return f'<div class="chosen-picture{shape}">{large(index, item, say("enlarge", language), line)}{strip}</div>'


def runs_html(page: PageContext, items: list[SavedImage], chosen: int, language: str) -> str:
    """All pictures in runs, each under its prompt. Examples are left out."""
    sections = []
    for first, end in runs_of(items):
        run = items[first:end]
        if run[0].example:
            continue
        heading = run_heading(run[0].metadata.prompt, run[0].metadata.title)
        pictures = tiles(page, run, first, chosen, lambda one: caption(one, page, language))
        sections.append(f'<section class="run">{heading}{pictures}</section>')
    return f'<div class="runs">{"".join(sections)}</div>' if sections else ""


def newest_first(items: list[SavedImage], new: tuple[SavedImage, ...]) -> list[SavedImage]:
    """`new` in its own order before the earlier pictures; examples leave, and the oldest beyond MAX_ITEMS."""
    return [*new, *(item for item in items if not item.example)][:MAX_ITEMS]
