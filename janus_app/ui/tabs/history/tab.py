"""The history tab: the pictures of all sessions as a grid, found by their words, and what can be done with one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.outputs.gallery import Gallery, GalleryItem, GalleryQuery
from janus_app.outputs.metadata import read_metadata
from janus_app.ui.common.actions import Actions, BrowserDownload, PictureSource, action_row, download
from janus_app.ui.common.alt_text import alt_of
from janus_app.ui.common.detail import detail_html
from janus_app.ui.common.html import empty, message
from janus_app.ui.common.more import more
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import QUICK, PageContext

PAGE = 24  # pictures in sight at once
DAY = 86_400.0
SPANS = {"any": 0.0, "day": DAY, "week": 7 * DAY, "month": 30 * DAY}  # the filter's choices, in seconds
STAR = "★ "
# On a phone the opened picture stands above the grid and may be out of sight.
SHOW = "() => document.getElementById('history-opened')?.scrollIntoView({block: 'nearest'})"


@dataclass(frozen=True)
class Opened:
    """The picture opened in a browser tab, and where it stands in the gallery."""

    name: str
    print: SavedImage
    favourite: bool


@dataclass(frozen=True)
class HistoryTab:
    """The opened picture with its row of actions."""

    opened: gr.State
    row: Actions


def build(page: PageContext, images: Gallery, tab: gr.Tab, browser: BrowserDownload) -> HistoryTab:
    label = page.texts.label
    names, first, opened = gr.State([]), gr.State(0), gr.State(None)
    with gr.Row(elem_classes="filters", elem_id="history-filters"):
        spans: list[Any] = list(SPANS)
        words = gr.Textbox(
            label=label("search_pictures"), placeholder=label("search_pictures_hint"), max_lines=1, scale=3,
            min_width=180, elem_id="history-words",
        )  # fmt: skip
        model = gr.Dropdown([("", "")], value="", label=label("model"), scale=2, min_width=140, elem_id="history-model")
        verb = gr.Dropdown([("", "")], value="", label=label("made_by"), scale=1, min_width=110, elem_id="history-verb")
        span = gr.Dropdown(spans, value="any", label=label("made_when"), scale=1, min_width=120, elem_id="history-span")
        stars = gr.Checkbox(False, label=label("favourites_only"), min_width=170, elem_id="history-stars")
    with gr.Row(elem_classes="actions paging"):
        count = gr.HTML(elem_id="history-count", padding=False)
        back = gr.Button(label("newer"), size="sm", interactive=False, elem_id="history-back", min_width=60)
        on = gr.Button(label("older"), size="sm", interactive=False, elem_id="history-on", min_width=60)
        take_all = gr.Button(label("download_found"), size="sm", elem_id="history-zip", min_width=60)
    with gr.Row(elem_classes="two-columns"):
        with gr.Column(scale=6, min_width=300, elem_classes="results"):
            blank = gr.HTML(elem_id="history-blank", padding=False)
            gallery = gr.Gallery(
                label=label("pictures"),
                show_label=False,
                columns=6,
                fit_columns=False,
                height="auto",
                object_fit="cover",
                allow_preview=False,
                buttons=[],
                interactive=False,
                visible=False,
                elem_id="history-gallery",
            )
        with gr.Column(scale=4, min_width=300, visible=False, elem_id="history-opened", elem_classes="chosen") as panel:
            picture = gr.Image(
                label=label("picture"),
                show_label=False,
                type="filepath",
                interactive=False,
                buttons=["fullscreen"],
                height=340,
                elem_id="history-picture",
            )
            row = action_row(page, "history")
            with gr.Row(elem_classes="actions"):
                star = gr.Button(label("star_on"), size="sm", elem_id="history-star", min_width=60)
                delete = gr.Button(label("delete"), size="sm", elem_id="history-delete", min_width=60)
            with gr.Column(visible=False, elem_classes="sure") as sure:
                asked = gr.HTML(elem_id="history-sure", padding=False)
                with gr.Row(elem_classes="actions"):
                    yes = gr.Button(
                        label("delete_yes"), size="sm", variant="stop", elem_id="history-delete-yes", min_width=60
                    )
                    no = gr.Button(label("delete_no"), size="sm", elem_id="history-delete-no", min_width=60)
            detail = gr.HTML(elem_id="history-detail", padding=False)
            written = more(page, "history", PictureSource({opened}, lambda values: values[opened].print), browser)

    filters: list[Any] = [words, model, verb, span, stars]
    grid = [gallery, names, first, count, back, on, take_all, blank]
    sight = [panel, picture, opened, star, detail, sure]

    def found(values: tuple[Any, ...]) -> list[GalleryItem]:
        text, of, by, within, starred = values
        since = time.time() - SPANS[within] if SPANS.get(within or "any") else 0.0
        return images.find(GalleryQuery(text or "", of or "", by or "", bool(starred), since))

    def seen(request: gr.Request, start: int, *values: Any) -> tuple[Any, ...]:
        """The grid from the picture number `start` on, or its last page where there are fewer."""
        entries = found(values)
        return grid_updates(page, entries, start, any([*values[:3], values[4], values[3] != "any"]), request)

    def anew(request: gr.Request, *values: Any) -> tuple[Any, ...]:
        return seen(request, 0, *values)

    def newer(request: gr.Request, start: int, *values: Any) -> tuple[Any, ...]:
        return seen(request, max(0, start - PAGE), *values)

    def older(request: gr.Request, start: int, *values: Any) -> tuple[Any, ...]:
        return seen(request, start + PAGE, *values)

    def choices(request: gr.Request) -> tuple[Any, ...]:
        language, say = page.language(request), page.texts.say
        everything = (say("all", language), "")
        verbs = [everything, (say("verb_drawn", language), "generate"), (say("verb_edited", language), "edit")]
        spans = [(page.texts.named("span", name, language), name) for name in SPANS]
        models = [everything, *((title, name) for name, title in images.models().items())]
        return gr.update(choices=models), gr.update(choices=verbs), gr.update(choices=spans)

    def show(name: str, language: str) -> tuple[Any, ...]:
        """The opened picture's side of the page. Raises AppError where it is gone."""
        file = images.path(name)
        now = Opened(
            name, SavedImage(file, page.images.serve_again(file), read_metadata(file)), images.is_favourite(name)
        )
        return (
            gr.update(visible=True),
            gr.update(value=now.print.shown, alt_text=alt_of(now.print)),
            now,
            page.texts.say("star_off" if now.favourite else "star_on", language),
            detail_html(page, now.print, language),
            gr.update(visible=False),
        )

    def told_anew(now: Opened, request: gr.Request) -> tuple[Any, ...]:
        return gr.update(alt_text=alt_of(now.print)), detail_html(page, now.print, page.language(request))

    def choose(listed: list[str], request: gr.Request, event: gr.SelectData) -> tuple[Any, ...]:
        language = page.language(request)
        try:
            return show(listed[min(int(event.index), len(listed) - 1)], language)
        except AppError as error:
            gr.Warning(page.texts.sentence(str(error), language))
            return closed()

    def mark(now: Opened, start: int, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        language = page.language(request)
        try:
            images.set_favourite(now.name, not now.favourite)
            return *show(now.name, language), *seen(request, start, *values)
        except AppError as error:
            gr.Warning(page.texts.sentence(str(error), language))
            return *(gr.skip() for _ in sight), *seen(request, start, *values)

    def remove(now: Opened, start: int, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        language = page.language(request)
        try:
            images.delete(now.name)
        except AppError as error:
            gr.Warning(page.texts.sentence(str(error), language))
        return *closed(), *seen(request, start, *values)

    def ask(now: Opened, request: gr.Request) -> tuple[Any, ...]:
        line = page.texts.say("delete_picture", page.language(request), name=now.name)
        return gr.update(visible=True), message(line, "warning")

    def packed(*values: Any) -> Path:
        target = page.images.new_folder() / "pictures.zip"
        if not images.zip([entry.name for entry in found(values)], target):
            raise AppError("There is no picture to download. Clear the filters, or draw one.")
        return target

    opening = tab.select(choices, None, [model, verb, span], **QUICK)
    opening.then(seen, [first, *filters], grid, **QUICK)
    gr.on([words.change, *(f.input for f in filters[1:])], anew, filters, grid, **QUICK)
    back.click(newer, [first, *filters], grid, **QUICK)
    on.click(older, [first, *filters], grid, **QUICK)
    gallery.select(choose, names, sight, **QUICK).then(None, None, None, js=SHOW)
    star.click(mark, [opened, first, *filters], [*sight, *grid], **QUICK)
    delete.click(ask, opened, [sure, asked], **QUICK)
    no.click(lambda: gr.update(visible=False), None, sure, **QUICK)
    yes.click(remove, [opened, first, *filters], [*sight, *grid], **QUICK)
    written.then(told_anew, opened, [picture, detail], **QUICK)
    download(page, take_all.click, lambda values: packed(*map(values.get, filters)), set(filters), browser)
    return HistoryTab(opened, row)


def closed() -> tuple[Any, ...]:
    """No picture opened."""
    return gr.update(visible=False), None, None, gr.skip(), "", gr.update(visible=False)


def grid_updates(
    page: PageContext, entries: list[GalleryItem], start: int, filtered: bool, request: gr.Request
) -> tuple[Any, ...]:
    """One page of thumbnails with its counter and buttons, or what to do where there is nothing."""
    language, say = page.language(request), page.texts.say
    start = min(start, max(0, (len(entries) - 1) // PAGE * PAGE))
    part = entries[start : start + PAGE]
    images = page.library.gallery if page.library else None
    thumbs = []
    for entry in part:
        assert images is not None  # the tab is built only where there is one
        words = f"{STAR if entry.favourite else ''}{entry.metadata.prompt}"
        thumbs.append((page.images.thumbnail(images.folder / entry.name), words))
    line = say("found", language, low=start + 1, high=start + len(part), total=len(entries)) if part else ""
    hint = "history_none_found" if filtered else "history_empty"
    return (
        gr.update(value=thumbs, visible=bool(part), selected_index=None),
        [entry.name for entry in part],
        start,
        message(line, "done"),
        gr.update(interactive=start > 0),
        gr.update(interactive=start + PAGE < len(entries)),
        gr.update(interactive=bool(part)),
        "" if part else empty(say("history_empty_title", language), say(hint, language)),
    )
