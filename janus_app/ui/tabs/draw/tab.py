"""The draw tab: a prompt becomes pictures, previewed while they are drawn; each can be drawn again from metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from janus_app.errors import AppError
from janus_app.models.registry import get_family
from janus_app.outputs.foreign_prompt import ForeignPrompt, read_settings
from janus_app.outputs.metadata import ImageMetadata, request_of
from janus_app.registry.types import Variant
from janus_app.types import GenerateRequest
from janus_app.ui.common.actions import BrowserDownload, halt
from janus_app.ui.common.alt_text import alts_html
from janus_app.ui.common.browser_tab import restore_draft
from janus_app.ui.common.controls import foreign_line
from janus_app.ui.common.drawing import View, draw_on
from janus_app.ui.common.html import empty, message
from janus_app.ui.common.results import MAX_GALLERY_ITEMS, newest_first
from janus_app.ui.common.running import pictures_of
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import (
    JOB,
    QUICK,
    PageContext,
    Updates,
    Values,
    attach,
    example_updates,
    first_seed,
    random_seed,
    whole_number,
)
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.draw import browser_settings, presets_panel
from janus_app.ui.tabs.draw.panels import InputPanel, ResultsPanel, build_input_panel, build_results_panel
from janus_app.ui.tabs.draw.prompt_helper import PromptHandlers
from janus_app.ui.tabs.draw.ranking import ranked
from janus_app.ui.tabs.draw.token_view import Inspected, TokenHandlers
from janus_app.workflows.token_heatmap import continued_request


@dataclass(frozen=True)
class DrawTab:
    panel: InputPanel
    right: ResultsPanel

    @property
    def settings(self) -> set[Component]:
        """The components that `request` reads and `restore` sets."""
        return {*self.panel.controls.all, self.panel.turbo, self.panel.size.width, self.panel.size.height}

    def request(self, values: Values, seed: Any, variant: Variant) -> GenerateRequest:
        """The request of the controls, for a model. Raises AppError."""
        size = self.panel.size.size(values) if "width" in variant.settings else None
        turbo = bool(values[self.panel.turbo])
        return GenerateRequest(**self.panel.controls.settings(values, seed), turbo=turbo, size=size)

    def restore(self, request: GenerateRequest, new_seed: bool = False) -> Updates:
        """The controls as they stood for one picture of a request, with its seed or a new one for each run."""
        restored = self.panel.controls.restore(request, new_seed)
        return {**restored, self.panel.turbo: request.turbo, **self.panel.size.restore(request)}


def build(
    page: PageContext,
    variant: gr.Dropdown,
    model_changed: gr.Textbox,
    joined: Any,
    browser: BrowserDownload,
    stored: gr.BrowserState,
) -> DrawTab:
    """Build the tab. `model_changed` changes when this browser tab learns of another loaded model.

    `joined` is the event after which the page knows what this browser tab drew before it was opened anew.
    """
    with gr.Row(elem_classes="two-columns"):
        with gr.Column(scale=4, min_width=300):
            panel = build_input_panel(page)
        with gr.Column(scale=7, min_width=320, elem_classes="results"):
            right = build_results_panel(page, browser)
    tab = DrawTab(panel, right)
    handlers = DrawHandlers(page, tab, variant)
    handlers.wire_jobs(joined)
    handlers.wire_pictures()
    controls = panel.controls
    presets_panel.wire(page, panel.presets, variant, controls)
    if panel.saving:
        presets_panel.wire_saving(page, panel.saving, panel.presets, variant, controls)
    TokenHandlers(page, right.tokens, right.results, variant).wire()
    runs: list[Callable[..., Any]] = [panel.buttons.run.click, controls.prompt.submit]
    restore_settings = browser_settings.wire(page, stored, variant, controls, runs)
    outputs = {
        right.output.preview_grid,
        panel.buttons.run,
        *panel.examples,
        *controls.by_setting.values(),
        panel.turbo,
        panel.size.width,
        panel.size.height,
    }
    restore_draft(joined, controls.prompt)
    for moment in (joined.then, model_changed.change):
        inputs = {variant, right.results.items}
        restore_settings(attach(moment, handlers.refresh, inputs, {*outputs, *panel.presets.all}, **QUICK))
    return tab


class DrawHandlers:
    def __init__(self, page: PageContext, tab: DrawTab, variant: gr.Dropdown) -> None:
        self.page, self.variant = page, variant
        self.panel, self.controls = tab.panel, tab.panel.controls
        self.output, self.results, self.tokens = tab.right.output, tab.right.results, tab.right.tokens
        self.right, self.tab = tab.right, tab

    def draw(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        first = first_seed(values[self.controls.new_seed], values[self.controls.seed])

        def make() -> GenerateRequest:
            return self.tab.request(values, first, self.page.variant(values[self.variant]))

        yield from self._run(values, make, request, {self.controls.seed: first})

    def redraw(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """The dropped picture again, from its image tokens."""
        record: ImageMetadata | None = values[self.panel.dropped.metadata]
        if record is not None:
            yield from self._run(values, lambda: request_of(record), request)

    def draw_on(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """The inspected picture, drawn anew from the chosen patch on."""
        yield from self._draw_on(values, None, request)

    def draw_with(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """The same with the chosen alternative in that patch."""
        yield from self._draw_on(values, values[self.tokens.token], request)

    def _draw_on(self, values: Values, token: int | None, request: gr.Request) -> Iterator[Updates]:
        inspected: Inspected | None = values[self.tokens.inspected]
        seed = random_seed()

        def make() -> GenerateRequest:
            if inspected is None:
                raise AppError("inspect_first")
            return continued_request(
                inspected.metadata, whole_number(values[self.tokens.patch], "input_cell") - 1, seed, token
            )

        yield from self._run(values, make, request)

    def _run(
        self, values: Values, make: Callable[[], GenerateRequest], request: gr.Request, started: Updates | None = None
    ) -> Iterator[Updates]:
        """Run the request that `make` builds, and put its pictures before the others of the gallery."""
        language = self.page.language(request)
        yield {**self.output.cleared(), **(started or {}), **self.panel.buttons.updates(running=True)}
        views = draw_on(self.page, "draw", values[self.variant], make, language)
        yield from self._follow(views, values[self.results.items], language)

    def rejoin(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """What this browser tab showed before it was opened anew: its pictures, and the job that still runs."""
        language, runs = self.page.language(request), self.page.runs.of("draw")
        items = pictures_of(runs)[:MAX_GALLERY_ITEMS]
        if items:
            yield {self.output.preview_grid: "", **self.results.show(self.page, items, 0, language)}
        if runs and not runs[-1].ended:
            yield {self.controls.seed: runs[-1].request.seed, **self.panel.buttons.updates(running=True)}
            yield from self._follow(runs[-1].follow(), items, language)

    def _follow(self, views: Iterator[View], items: list[SavedImage], language: str) -> Iterator[Updates]:
        for view in views:
            updates = self.output.updates(view)
            if view.saved:
                updates |= self.results.show(self.page, newest_first(items, view.saved), 0, language)
            yield updates
        yield self.panel.buttons.updates(running=False)

    def rank(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        page, results, language = self.page, self.results, self.page.language(request)
        items, index = values[results.items], values[results.chosen]
        for line, ordered in ranked(page, items, index, values[self.variant], language):
            updates = results.show(page, ordered, 0, language) if ordered else {}
            yield {self.output.status: line, **updates}

    def stop(self) -> None:
        """Stop the drawing; its own last view says so."""
        self.page.runs.stop("draw")

    def stopped(self, request: gr.Request) -> Updates:
        """What to show once a job that no run holds is stopped."""
        if any(not run.ended for run in self.page.runs.of("draw")):
            return gr.skip()
        line = message(self.page.texts.say("draw_stopped", self.page.language(request)))
        return {self.output.status: line, **self.panel.buttons.updates(running=False)}

    def choose(self, values: Values, request: gr.Request, event: gr.SelectData) -> Updates:
        items = values[self.results.items]
        return self.results.choose(self.page, items, int(event.index), self.page.language(request))

    def list_alt_texts(self, values: Values) -> Updates:
        return {self.right.alt_texts: alts_html(values[self.results.items])}

    def show_description(self, values: Values, request: gr.Request) -> Updates:
        items, index = values[self.results.items], values[self.results.chosen]
        chosen = self.results.choose(self.page, items, index, self.page.language(request))
        return {**chosen, **self.list_alt_texts(values)}

    def use_last_seed(self, values: Values) -> Updates:
        items = values[self.results.items]
        seed = items[0].metadata.seed if items else values[self.controls.seed]
        return {self.controls.seed: seed, self.controls.new_seed: False}

    def read_dropped(self, values: Values, request: gr.Request) -> Updates:
        """The settings or prompt of a dropped picture, and a button to draw it again where it has image tokens."""
        dropped, language, path = self.panel.dropped, self.page.language(request), values[self.panel.dropped.file]
        nothing: Updates = {dropped.note: "", dropped.redraw: gr.update(visible=False), dropped.metadata: None}
        if not path:
            return nothing
        try:
            record = read_settings(path)
            if isinstance(record, ForeignPrompt):
                line = message(foreign_line(self.page, record, language), "done")
                return {**nothing, dropped.note: line, **self.controls.fill(record)}
            restored = self.tab.restore(request_of(record))
        except AppError as error:
            return {**nothing, dropped.note: message(error.text(language), "error")}
        return {
            dropped.note: dropped_note_html(self.page, record, language),
            dropped.redraw: gr.update(visible=bool(record.image_tokens)),
            dropped.metadata: record,
            **restored,
        }

    def refresh(self, values: Values, request: gr.Request) -> Updates:
        """The controls, presets and examples of the variant whose settings the page shows."""
        page, panel, language = self.page, self.panel, self.page.language(request)
        now = page.variant(values[self.variant])
        updates: Updates = {
            panel.buttons.run: gr.update(interactive="generate" in now.verbs),
            **example_updates(panel.examples, now.prompts("generate", language)),
            **self.controls.variant_updates(page, now, language),
            panel.turbo: gr.update(visible=get_family(now.family).drawing == "tokens"),
            **panel.size.variant_updates(now),
            **panel.presets.variant_updates(page, now, language),
        }
        if not values[self.results.items] and not page.runs.of("draw"):
            title = page.texts.say("draw_empty_title", language)
            updates[self.output.preview_grid] = empty(title, draw_hint(page.texts, now, language))
        return updates

    def wire_jobs(self, joined: Any) -> None:
        panel, output, results, tokens = self.panel, self.output, self.results, self.tokens
        outputs = [
            output.preview_grid, output.status, output.notes, results.gallery, results.items, results.chosen,
            results.detail, self.controls.seed, panel.buttons.run, panel.buttons.stop,
        ]  # fmt: skip
        common: set[Component] = {self.variant, results.items}
        drawn = {*self.tab.settings, *common}
        patch = {tokens.inspected, tokens.patch, tokens.token, *common}
        helper = PromptHandlers(
            self.page, panel.helper, self.controls.prompt, self.variant, output.status, panel.buttons
        )
        attach(panel.buttons.run.click, self.draw, drawn, outputs, **JOB)
        attach(self.controls.prompt.submit, self.draw, drawn, outputs, **JOB)
        attach(panel.dropped.redraw.click, self.redraw, {panel.dropped.metadata, *common}, outputs, **JOB)
        attach(tokens.draw_on.click, self.draw_on, patch, outputs, **JOB)
        attach(tokens.draw_with.click, self.draw_with, patch, outputs, **JOB)
        attach(joined.then, self.rejoin, common, outputs, **JOB)
        attach(panel.buttons.stop.click, self.stop, None, None, **QUICK)
        halt(panel.buttons.stop.click, [helper.wire()]).then(self.stopped, None, outputs, **QUICK)
        attach(self.right.rank.click, self.rank, {results.chosen, *common}, {output.status, *results.all}, **JOB)

    def wire_pictures(self) -> None:
        panel, controls, results, alt_texts = self.panel, self.controls, self.results, self.right.alt_texts
        seeds = {controls.seed, controls.new_seed}
        attach(results.gallery.select, self.choose, {results.items}, {results.chosen, results.detail}, **QUICK)
        attach(results.gallery.change, self.list_alt_texts, {results.items}, alt_texts, **QUICK)
        described = {results.chosen, results.detail, alt_texts}
        attach(self.right.described.then, self.show_description, results.source.inputs, described, **QUICK)
        reuse_seed = results.reuse_seed(controls.seed, controls.new_seed)
        attach(self.right.reuse.click, reuse_seed, results.source.inputs, seeds, **QUICK)
        attach(panel.last_seed.click, self.use_last_seed, {results.items, controls.seed}, seeds, **QUICK)
        dropped = panel.dropped
        read = {dropped.note, dropped.redraw, dropped.metadata, *self.tab.settings}
        attach(dropped.file.change, self.read_dropped, {dropped.file}, read, **QUICK)
        for example in panel.examples:
            attach(example.click, lambda text: text, example, controls.prompt, **QUICK)


def draw_hint(texts: Texts, variant: Variant, language: str) -> str:
    """What to do while no picture is drawn yet, and how this variant's pictures will appear."""
    by_rows = get_family(variant.family).drawing == "tokens"
    key = "draw_empty_rows" if by_rows else "draw_empty_steps"
    return texts.say(key if "generate" in variant.verbs else "draw_cannot", language, title=variant.title)


def dropped_note_html(page: PageContext, record: ImageMetadata, language: str) -> str:
    """What was read from a dropped picture, and whether the loaded model is the one that drew it."""
    say = page.texts.say
    lines = message(say("drop_read", language, title=record.title, seed=record.seed), "done")
    loaded = page.loaded_variant()
    if record.verb == "edit":
        again = "drop_edit" if record.image_tokens else "drop_edit_flow"
        lines += message(say(again, language), "warning")
    if loaded is None or loaded.id != record.model:
        lines += message(say("drop_other_model", language, title=record.title), "warning")
    return lines
