"""The history tab: the pictures of all sessions, found by filters, and what can be done with one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gradio as gr

from janus_app.errors import AppError
from janus_app.outputs.descriptions import description
from janus_app.outputs.gallery import Gallery, GalleryItem
from janus_app.outputs.metadata import read_metadata
from janus_app.ui.common.actions import BrowserDownload, download
from janus_app.ui.common.detail import detail_html
from janus_app.ui.common.html import empty, message
from janus_app.ui.common.more import More, more
from janus_app.ui.common.pictures import address, tile
from janus_app.ui.common.pictures.markup import large, run_heading, runs
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import NOTIFYING, QUICK, PageContext, Updates, Values, attach
from janus_app.ui.tabs.history.panels import SPANS, Filters, Listing, Opened, OpenedPanel, opened_panel, paging
from janus_app.ui.tabs.history.panels import filters as build_filters
from janus_app.ui.tabs.history.panels import listing as build_listing

PAGE_SIZE = 24
STAR = "★ "
# On a phone the opened picture is above the grid and may be out of view.
SCROLL_TO_OPENED = "() => document.getElementById('history-opened')?.scrollIntoView({block: 'nearest'})"


@dataclass(frozen=True, eq=False)
class HistoryHandlers:
    page: PageContext
    gallery: Gallery
    filters: Filters
    listing: Listing
    panel: OpenedPanel

    def choices(self, request: gr.Request) -> Updates:
        """The choices of the filters."""
        language, say = self.page.language(request), self.page.texts.say
        everything = (say("all", language), "")
        verbs = [everything, (say("verb_drawn", language), "generate"), (say("verb_edited", language), "edit")]
        spans = [(self.page.texts.named("span", name, language), name) for name in SPANS]
        models = [everything, *((title, name) for name, title in self.gallery.models().items())]
        return {
            self.filters.model: gr.update(choices=models),
            self.filters.verb: gr.update(choices=verbs),
            self.filters.span: gr.update(choices=spans),
        }

    def found(self, values: Values) -> list[GalleryItem]:
        return self.gallery.find(self.filters.query(values))

    def from_start(self, values: Values, request: gr.Request) -> Updates:
        return self._page_at(0, values, request)

    def here(self, values: Values, request: gr.Request) -> Updates:
        return self._page_at(values[self.listing.first], values, request)

    def newer(self, values: Values, request: gr.Request) -> Updates:
        return self._page_at(max(0, values[self.listing.first] - PAGE_SIZE), values, request)

    def older(self, values: Values, request: gr.Request) -> Updates:
        return self._page_at(values[self.listing.first] + PAGE_SIZE, values, request)

    def _page_at(self, first: int, values: Values, request: gr.Request) -> Updates:
        """The page that starts with picture number `first`, or the last page if there are fewer pictures."""
        language, say, listing = self.page.language(request), self.page.texts.say, self.listing
        items = self.found(values)
        first = min(first, max(0, (len(items) - 1) // PAGE_SIZE * PAGE_SIZE))
        shown = items[first : first + PAGE_SIZE]
        line = say("found", language, low=first + 1, high=first + len(shown), total=len(items)) if shown else ""
        return {
            listing.runs: self._runs(shown, language),
            listing.first: first,
            listing.count: message(line, "done"),
            listing.newer: gr.update(interactive=first > 0),
            listing.older: gr.update(interactive=first + PAGE_SIZE < len(items)),
            listing.download: gr.update(interactive=bool(shown)),
            listing.blank: "" if shown else self._blank(language),
        }

    def _runs(self, shown: list[GalleryItem], language: str) -> str:
        """The pictures in runs, each under its prompt."""
        sections = []
        seed = partial(self.page.texts.say, "seed_is", language)
        for first, end in runs([item.metadata for item in shown]):
            record = shown[first].metadata
            tiles = "".join(self._tile(number, shown[number], seed) for number in range(first, end))
            heading = run_heading(record.prompt, f"{record.title} · {record.created[:10]}")
            sections.append(f'<section class="run">{heading}<ol class="tiles">{tiles}</ol></section>')
        return f'<div class="runs">{"".join(sections)}</div>' if sections else ""

    def _tile(self, number: int, item: GalleryItem, seed: Callable[..., str]) -> str:
        images, file, record = self.page.images, self.gallery.folder / item.name, item.metadata
        small = images.thumbnail(file)
        try:
            whole = images.serve_again(file)
        except (AppError, OSError):  # gone or unreadable: its grey thumbnail says so
            whole = small
        words = description(file) or record.prompt
        mark = STAR * item.favourite
        return tile(
            number,
            address(small),
            address(whole),
            words,
            record.size,
            line=mark + seed(seed=record.seed),
            name=item.name,
        )

    def _blank(self, language: str) -> str:
        say = self.page.texts.say
        hint = "history_none_found" if self.gallery.find() else "history_empty"
        return empty(say("history_empty_title", language), say(hint, language))

    def open(self, request: gr.Request, event: gr.EventData) -> Updates:
        language = self.page.language(request)
        try:
            return self._show(str(event.name), language)
        except AppError as error:
            gr.Warning(error.text(language))
            return self.panel.closed()

    def _show(self, name: str, language: str) -> Updates:
        """The opened picture. Raises AppError if it is gone."""
        file = self.gallery.path(name)
        image = SavedImage(file, self.page.images.serve_again(file), read_metadata(file))
        favourite = self.gallery.is_favourite(name)
        return {
            self.panel.panel: gr.update(visible=True),
            self.panel.opened: Opened(name, image, favourite),
            self.panel.star: self.page.texts.say("star_off" if favourite else "star_on", language),
            self.panel.sure: gr.update(visible=False),
            **self._describe(image, language),
        }

    def _describe(self, image: SavedImage, language: str) -> Updates:
        return {
            self.panel.picture: large(0, image, self.page.texts.say("enlarge", language), image.metadata.prompt),
            self.panel.detail: detail_html(self.page, image, language),
        }

    def described(self, values: Values, request: gr.Request) -> Updates:
        """The model has described the opened picture."""
        return self._describe(self.panel.source.pick(values), self.page.language(request))

    def mark(self, values: Values, request: gr.Request) -> Updates:
        """Make the opened picture a favourite, or make it none."""
        now: Opened = values[self.panel.opened]
        language = self.page.language(request)
        try:
            self.gallery.set_favourite(now.name, not now.favourite)
            return self._show(now.name, language)
        except AppError as error:
            gr.Warning(error.text(language))
            return gr.skip()

    def pin(self, values: Values, request: gr.Request) -> Updates:
        """Compare the opened picture with the ones opened next, or no longer."""
        pinned = None if values[self.panel.pinned] else values[self.panel.opened]
        say, language = self.page.texts.say, self.page.language(request)
        return {
            self.panel.pinned: pinned,
            self.panel.compare: say("compare_with_end" if pinned else "compare_with", language),
            self.panel.whose: message(say("compare_with_hint", language)) if pinned else "",
            self.panel.both: gr.update(value=None, visible="hidden"),
        }

    def beside(self, values: Values, request: gr.Request) -> Updates:
        """The pinned picture beside the one opened now."""
        left, right = values[self.panel.pinned], values[self.panel.opened]
        say, language = self.page.texts.say, self.page.language(request)
        if left is None or right is None or left.name == right.name:
            hint = message(say("compare_with_hint", language)) if left else ""
            return {self.panel.both: gr.update(value=None, visible="hidden"), self.panel.whose: hint}
        names = {side: one.image.metadata for side, one in (("left", left), ("right", right))}
        seeds = {side: say("seed_is", language, seed=record.seed) for side, record in names.items()}
        told = {side: f"{record.prompt} ({record.title}, {seeds[side]})" for side, record in names.items()}
        both = gr.update(value=(left.image.shown, right.image.shown), visible=True)
        return {self.panel.both: both, self.panel.whose: message(say("compare_with_both", language, **told))}

    def ask_delete(self, values: Values, request: gr.Request) -> Updates:
        name = values[self.panel.opened].name
        question = self.page.texts.say("delete_picture", self.page.language(request), name=name)
        return {self.panel.sure: gr.update(visible=True), self.panel.question: message(question, "warning")}

    def keep(self) -> Updates:
        return {self.panel.sure: gr.update(visible=False)}

    def delete(self, values: Values, request: gr.Request) -> Updates:
        try:
            self.gallery.delete(values[self.panel.opened].name)
        except AppError as error:
            gr.Warning(error.text(self.page.language(request)))
        return self.panel.closed()

    def pack(self, values: Values) -> Path:
        """All pictures found, as a zip file. Raises AppError if there are none."""
        target = self.page.images.new_folder() / "pictures.zip"
        if not self.gallery.zip([item.name for item in self.found(values)], target):
            raise AppError("no_pictures_to_download")
        return target


def build(page: PageContext, gallery: Gallery, tab: gr.Tab, browser: BrowserDownload) -> OpenedPanel:
    """Build the tab over the pictures of `gallery`."""
    filters = build_filters(page)
    above = paging(page)
    with gr.Row(elem_classes="two-columns"):
        listing = build_listing(page, above)
        with gr.Column(
            scale=4, min_width=300, visible=False, elem_id="history-opened", elem_classes="chosen"
        ) as column:
            panel = opened_panel(page, column)
            further = more(page, "history", panel.menu, panel.source, browser)
    handlers = HistoryHandlers(page, gallery, filters, listing, panel)
    wire(handlers, tab, browser, further)
    attach(further.described.then, handlers.described, {panel.opened}, {panel.picture, panel.detail}, **QUICK)
    return panel


def wire(handlers: HistoryHandlers, tab: gr.Tab, browser: BrowserDownload, further: More) -> None:
    """Connect the events of the tab."""
    filters, listing, panel = handlers.filters, handlers.listing, handlers.panel
    here = {listing.first, *filters.all}
    opening = attach(tab.select, handlers.choices, None, {filters.model, filters.verb, filters.span}, **QUICK)
    attach(opening.then, handlers.here, here, listing.all, **QUICK)
    chosen = (filters.model, filters.verb, filters.span, filters.favourites)
    for event in (filters.words.change, *(choice.input for choice in chosen)):
        attach(event, handlers.from_start, filters.all, listing.all, **QUICK)
    attach(listing.newer.click, handlers.newer, here, listing.all, **QUICK)
    attach(listing.older.click, handlers.older, here, listing.all, **QUICK)
    opened = attach(listing.runs.select, handlers.open, None, panel.all, **NOTIFYING)
    opened.then(None, None, None, js=SCROLL_TO_OPENED)
    attach(opened.then, further.cleared, None, further.all, **QUICK)
    both = {panel.opened, panel.pinned}
    attach(opened.then, handlers.beside, both, panel.comparison, **QUICK)
    attach(panel.compare.click, handlers.pin, both, panel.comparison, **QUICK)
    for button, change in ((panel.star, handlers.mark), (panel.delete_yes, handlers.delete)):
        changed = attach(button.click, change, {panel.opened}, panel.all, **NOTIFYING)
        attach(changed.then, handlers.here, here, listing.all, **QUICK)  # as the filters are by then
    attach(panel.delete.click, handlers.ask_delete, {panel.opened}, {panel.sure, panel.question}, **QUICK)
    attach(panel.delete_no.click, handlers.keep, None, {panel.sure}, **QUICK)
    download(handlers.page, listing.download.click, handlers.pack, filters.all, browser)
