"""The parts of the history tab: filters, the grid of pictures, and the opened picture."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gradio as gr

from janus_app.outputs.gallery import GalleryQuery
from janus_app.ui.common.actions import PictureSource, action_row
from janus_app.ui.common.pictures import ADDRESSED, PICKED
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import PageContext, Updates, Values

DAY = 86_400.0
SPANS = {"any": 0.0, "day": DAY, "week": 7 * DAY, "month": 30 * DAY}  # choices of the time filter, in seconds


@dataclass(frozen=True)
class Filters:
    words: gr.Textbox
    model: gr.Dropdown
    verb: gr.Dropdown
    span: gr.Dropdown
    favourites: gr.Checkbox

    @property
    def all(self) -> set[Any]:
        return {self.words, self.model, self.verb, self.span, self.favourites}

    def query(self, values: Values) -> GalleryQuery:
        span = SPANS.get(values[self.span] or "any")
        return GalleryQuery(
            words=values[self.words] or "",
            model=values[self.model] or "",
            verb=values[self.verb] or "",
            favourites=bool(values[self.favourites]),
            since=time.time() - span if span else 0.0,
        )


def filters(page: PageContext) -> Filters:
    label = page.texts.label

    def dropdown(name: str, key: str, scale: int, width: int) -> gr.Dropdown:
        return gr.Dropdown(
            [("", "")], value="", label=label(key), scale=scale, min_width=width, elem_id=f"history-{name}"
        )

    with gr.Row(elem_classes="filters bare", elem_id="history-filters"):
        words = gr.Textbox(
            label=label("search_pictures"), placeholder=label("search_pictures_hint"), max_lines=1, scale=3,
            min_width=180, elem_id="history-words",
        )  # fmt: skip
        model, verb = dropdown("model", "model", 2, 140), dropdown("verb", "made_by", 1, 110)
        spans: list[Any] = list(SPANS)
        span = gr.Dropdown(spans, value="any", label=label("made_when"), scale=1, min_width=150, elem_id="history-span")
        favourites = gr.Checkbox(False, label=label("favourites_only"), min_width=170, elem_id="history-stars")
    return Filters(words, model, verb, span, favourites)


@dataclass(frozen=True)
class Listing:
    """The pictures found, one page at a time.

    `first` holds the number of the first of them (from 0). It is a hidden component and no State: the browser keeps
    what belongs to the newest question, in whichever order the server answers.
    """

    count: gr.HTML
    newer: gr.Button
    older: gr.Button
    download: gr.Button
    blank: gr.HTML
    runs: gr.HTML
    first: gr.Number

    @property
    def all(self) -> set[Any]:
        return set(vars(self).values())


def paging(page: PageContext) -> tuple[gr.HTML, gr.Button, gr.Button, gr.Button]:
    """The line above the pictures: how many there are, newer, older, download."""
    label = page.texts.label
    with gr.Row(elem_classes="actions paging"):
        return (
            gr.HTML(elem_id="history-count", padding=False),
            gr.Button(label("newer"), size="sm", interactive=False, elem_id="history-back", min_width=60),
            gr.Button(label("older"), size="sm", interactive=False, elem_id="history-on", min_width=60),
            gr.Button(label("download_found"), size="sm", elem_id="history-zip", min_width=60),
        )


def listing(page: PageContext, paging: tuple[gr.HTML, gr.Button, gr.Button, gr.Button]) -> Listing:
    with gr.Column(scale=6, min_width=300, elem_classes="results"):
        blank = gr.HTML(elem_id="history-blank", padding=False)
        runs = gr.HTML(elem_id="history-runs", html_template=ADDRESSED, js_on_load=PICKED)
        first = gr.Number(0, precision=0, visible="hidden", elem_id="history-first", label="history-first")
    return Listing(*paging, blank, runs, first)


@dataclass(frozen=True)
class Opened:
    """A picture opened in a browser tab."""

    name: str  # in the gallery of the outputs folder
    image: SavedImage
    favourite: bool


@dataclass(frozen=True)
class OpenedPanel:
    """The opened picture. `opened` holds an Opened or None; `sure` asks before a picture is deleted.

    `pinned` holds the Opened that the next ones are compared with, or None; `both` shows the two.
    """

    panel: gr.Column
    picture: gr.HTML
    menu: gr.Column
    star: gr.Button
    compare: gr.Button
    delete: gr.Button
    whose: gr.HTML
    both: gr.ImageSlider
    pinned: gr.State
    sure: gr.Column
    question: gr.HTML
    delete_yes: gr.Button
    delete_no: gr.Button
    detail: gr.HTML
    opened: gr.State

    @property
    def all(self) -> set[Any]:
        return {self.panel, self.picture, self.opened, self.star, self.detail, self.sure}

    @property
    def comparison(self) -> set[Any]:
        return {self.compare, self.whose, self.both, self.pinned}

    @property
    def source(self) -> PictureSource:
        return PictureSource({self.opened}, lambda values: values[self.opened].image)

    def closed(self) -> Updates:
        return {
            self.panel: gr.update(visible=False),
            self.picture: "",
            self.opened: None,
            self.detail: "",
            self.sure: gr.update(visible=False),
        }


def opened_panel(page: PageContext, panel: gr.Column) -> OpenedPanel:
    """Built inside `panel`."""
    label = page.texts.label

    def button(key: str, name: str, variant: Any = "secondary") -> gr.Button:
        return gr.Button(label(key), size="sm", variant=variant, elem_id=f"history-{name}", min_width=60)

    picture = gr.HTML(elem_id="history-picture", html_template=ADDRESSED)
    whose = gr.HTML(elem_id="history-whose", padding=False)
    both = gr.ImageSlider(
        label=label("compare_slider"), show_label=False, type="filepath", interactive=False, slider_position=50,
        visible="hidden", buttons=[], height=420, elem_id="history-both",
    )  # fmt: skip
    menu = action_row(page, "history")
    with gr.Row(elem_classes="actions"):
        star, compare = button("star_on", "star"), button("compare_with", "compare-with")
        delete = button("delete", "delete")
    with gr.Column(visible=False, elem_classes="sure") as sure:
        question = gr.HTML(elem_id="history-sure", padding=False)
        with gr.Row(elem_classes="actions"):
            yes, no = button("delete_yes", "delete-yes", "stop"), button("delete_no", "delete-no")
    with gr.Accordion(label("details"), open=False, elem_id="history-details", elem_classes="quiet"):
        detail = gr.HTML(elem_id="history-detail", padding=False)
    return OpenedPanel(
        panel, picture, menu, star, compare, delete, whose, both, gr.State(None), sure, question, yes, no, detail,
        gr.State(None),
    )  # fmt: skip
