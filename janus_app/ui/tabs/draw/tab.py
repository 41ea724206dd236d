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
from janus_app.ui.common import unknown_words
from janus_app.ui.common.actions import BrowserDownload, halt
from janus_app.ui.common.browser_tab import kept
from janus_app.ui.common.controls import foreign_line, ranges_only
from janus_app.ui.common.drawing import View, draw_on
from janus_app.ui.common.html import empty, message
from janus_app.ui.common.pictures import MAX_ITEMS, newest_first
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
from janus_app.ui.tabs.draw.examples import example
from janus_app.ui.tabs.draw.panels import InputPanel, PicturesPanel, build_canvas, build_drawer, build_pictures
from janus_app.ui.tabs.draw.prompt_helper import PromptHandlers
from janus_app.ui.tabs.draw.ranking import ranked
from janus_app.ui.tabs.draw.token_view import Inspected, TokenHandlers
from janus_app.workflows.token_heatmap import continued_request


@dataclass(frozen=True)
class DrawTab:
    panel: InputPanel
    right: PicturesPanel

    @property
    def settings(self) -> set[Component]:
        """The components that `request` reads."""
        return {
            *self.panel.controls.all,
            self.panel.think,
            self.panel.turbo,
            self.panel.size.width,
            self.panel.size.height,
        }

    @property
    def restored(self) -> set[Any]:
        """The components that `restore` sets."""
        return {*self.settings, self.panel.plan.box, self.panel.plan.text}

    def request(self, values: Values, seed: Any, variant: Variant, plan: str = "") -> GenerateRequest:
        """The request of the controls, for a model and perhaps with a plan. Raises AppError."""
        size = self.panel.size.size(values) if "width" in variant.settings else None
        turbo = bool(values[self.panel.turbo])
        think = bool(values[self.panel.think]) and variant.thinking is not None
        settings = self.panel.controls.settings(values, seed)
        return GenerateRequest(**settings, turbo=turbo, size=size, think=think, plan=plan.strip())

    def restore(self, request: GenerateRequest, new_seed: bool = False) -> Updates:
        """The controls as they stood for one picture of a request, with its seed or a new one for each run."""
        restored = self.panel.controls.restore(request, new_seed)
        thought = {self.panel.think: request.think or bool(request.plan), **self.panel.plan.show(request.plan)}
        return {**restored, **thought, self.panel.turbo: request.turbo, **self.panel.size.restore(request)}


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
    with gr.Row(elem_id="draw-layout"):
        with gr.Column(elem_id="draw-main", min_width=0):
            canvas = build_canvas(page)
            right = build_pictures(page, canvas, browser)
        panel = build_drawer(page, canvas)
    tab = DrawTab(panel, right)
    handlers = DrawHandlers(page, tab, variant, stored)
    handlers.wire_jobs(joined)
    handlers.wire_pictures()
    controls = panel.controls
    presets_panel.wire(page, panel.presets, variant, controls)
    if panel.saving:
        presets_panel.wire_saving(page, panel.saving, panel.presets, variant, controls)
    TokenHandlers(page, right.tokens, right.wall, variant).wire()
    runs: list[Callable[..., Any]] = [panel.buttons.run.click, controls.prompt.submit]
    unknown_words.wire(page, controls.prompt, canvas.unknown, model_changed, runs)
    browser_settings.wire(page, stored, variant, controls, runs)
    outputs = {
        panel.buttons.run,
        *panel.examples,
        *controls.by_setting.values(),
        controls.prompt,
        panel.offered,
        panel.fitted,
        panel.think,
        panel.turbo,
        panel.size.width,
        panel.size.height,
        *right.wall.all,
    }
    words = kept("draw-words", [controls.prompt, controls.negative])
    others = [panel.think, panel.turbo, *vars(panel.size).values()]
    entered = kept("draw-settings", [*controls.by_setting.values(), controls.seed, controls.new_seed, *others], variant)
    for moment in (words(joined).then, model_changed.change):
        inputs = {variant, right.wall.items, controls.prompt, panel.offered, panel.fitted, stored}
        entered(attach(moment, handlers.refresh, inputs, {*outputs, *panel.presets.all}, **QUICK))
    return tab


class DrawHandlers:
    def __init__(self, page: PageContext, tab: DrawTab, variant: gr.Dropdown, stored: gr.BrowserState) -> None:
        self.page, self.variant, self.stored = page, variant, stored
        self.panel, self.controls = tab.panel, tab.panel.controls
        self.output, self.wall, self.tokens = tab.right.output, tab.right.wall, tab.right.tokens
        self.right, self.tab = tab.right, tab

    def draw(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        yield from self._draw(values, "", request)

    def draw_plan(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """The prompt again, with the plan in the box."""
        yield from self._draw(values, values[self.panel.plan.text] or "", request)

    def _draw(self, values: Values, plan: str, request: gr.Request) -> Iterator[Updates]:
        first = first_seed(values[self.controls.new_seed], values[self.controls.seed])

        def make() -> GenerateRequest:
            return self.tab.request(values, first, self.page.variant(values[self.variant]), plan)

        yield from self._run(values, make, request, {self.controls.seed: first, **self.panel.plan.show(plan)})

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
        running = self.panel.buttons.updates(running=True)
        yield {**self.output.cleared(), **self.right.more.cleared(), **(started or {}), **running}
        views = draw_on(self.page, "draw", values[self.variant], make, language)
        yield from self._follow(views, values[self.wall.items], language)

    def rejoin(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """What this browser tab showed before it was opened anew: its pictures, and the job that still runs."""
        language, runs = self.page.language(request), self.page.runs.of("draw")
        items = pictures_of(runs)[:MAX_ITEMS]
        yield gr.skip()  # of a generator that yields nothing, Gradio empties all outputs
        if items:
            yield {self.output.preview_grid: "", **self.wall.show(self.page, items, 0, language)}
        if runs and not runs[-1].ended:
            yield {self.controls.seed: runs[-1].seed, **self.panel.buttons.updates(running=True)}
            yield from self._follow(runs[-1].follow(), items, language)

    def _follow(self, views: Iterator[View], items: list[SavedImage], language: str) -> Iterator[Updates]:
        shown: str | None = None
        for view in views:
            updates = self.output.updates(view)
            if view.plan is not None and view.plan != shown:  # what was shown may have been changed since
                shown = view.plan
                updates |= self.panel.plan.show(shown)
            if view.saved:
                updates |= self.wall.show(self.page, newest_first(items, view.saved), 0, language)
            yield updates
        yield self.panel.buttons.updates(running=False)

    def rank(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        page, wall, language = self.page, self.wall, self.page.language(request)
        items, index = values[wall.items], values[wall.chosen]
        for line, ordered in ranked(page, items, index, values[self.variant], language):
            updates = wall.show(page, ordered, 0, language) if ordered else {}
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

    def chosen(self, values: Values) -> Updates:
        """Another picture is chosen: what the page said about the last one, and a stopped drawing, leave the canvas."""
        further, idle = self.right.more.cleared(), 'class="progress"' not in (values[self.output.status] or "")
        items, index = values[self.wall.items], values[self.wall.chosen]
        if idle and index < len(items):
            further |= self.panel.plan.show(items[index].metadata.plan)
        return {**further, **({self.output.preview_grid: "", self.output.status: ""} if idle else {})}

    def show_description(self, values: Values, request: gr.Request) -> Updates:
        items, index = values[self.wall.items], values[self.wall.chosen]
        return self.wall.show(self.page, items, index, self.page.language(request))

    def use_last_seed(self, values: Values) -> Updates:
        items = values[self.wall.items]
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
        """The controls, presets and examples of the variant whose settings the page shows.

        Controls that are this variant's already keep their values.
        """
        page, panel, language = self.page, self.panel, self.page.language(request)
        now = page.variant(values[self.variant])
        controls = self._settings(values, now, language)
        return {
            panel.buttons.run: gr.update(interactive="generate" in now.verbs),
            **example_updates(panel.examples, now.prompts("generate", language)),
            **(ranges_only(controls) if values[panel.fitted] == now.id else controls),
            panel.fitted: now.id,
            panel.turbo: gr.update(visible=get_family(now.family).drawing == "tokens"),
            panel.presets.note: panel.presets.hint(page, now, language),
            **self._begin(values, now, language),
        }

    def _settings(self, values: Values, now: Variant, language: str) -> Updates:
        """The ranges and values of a variant's settings: those last used with it in this browser, or its defaults."""
        updates = {
            **self.controls.variant_updates(self.page, now, language),
            self.panel.think: gr.update(visible=now.thinking is not None, value=True),
            **self.panel.size.variant_updates(now),
            **self.panel.presets.variant_updates(self.page, now, language),
        }
        for name, value in browser_settings.remembered(values[self.stored], now).items():
            updates[self.controls.by_setting[name]] |= {"value": value}
        return updates

    def _begin(self, values: Values, now: Variant, language: str) -> Updates:
        """A prompt to begin with, and on the canvas what this model draws from it, or what to do."""
        page, wall = self.page, self.wall
        image = example(page, now, language)
        words = image.metadata.prompt if image else next(iter(now.prompts("generate", language)), "")
        updates: Updates = {}
        # Pictures of this browser tab are there, or on their way: their prompt stays for the next model, too.
        drawn = any(not item.example for item in values[wall.items]) or bool(page.runs.of("draw"))
        prompt = values[self.controls.prompt] or ""
        if not prompt or (prompt == values[self.panel.offered] and not drawn):
            updates = {self.controls.prompt: words, self.panel.offered: words}
        if drawn:
            return updates
        if image:
            return {**updates, **wall.show(page, [image], 0, language)}
        hint = empty(page.texts.say("draw_empty_title", language), draw_hint(page.texts, now, language))
        return {**updates, wall.picture: hint, wall.items: [], wall.chosen: 0, wall.detail: "", wall.runs: ""}

    def wire_jobs(self, joined: Any) -> None:
        panel, output, wall, tokens = self.panel, self.output, self.wall, self.tokens
        more = self.right.more.all
        plan = {panel.plan.box, panel.plan.text}
        outputs = {*output.all, *wall.all, *more, *plan, self.controls.seed, panel.buttons.run, panel.buttons.stop}
        common: set[Component] = {self.variant, wall.items}
        drawn = {*self.tab.settings, *common}
        patch = {tokens.inspected, tokens.patch, tokens.token, *common}
        helper = PromptHandlers(
            self.page, panel.helper, self.controls.prompt, self.variant, output.status, panel.buttons
        )
        attach(panel.buttons.run.click, self.draw, drawn, outputs, **JOB)
        attach(self.controls.prompt.submit, self.draw, drawn, outputs, **JOB)
        attach(panel.plan.run.click, self.draw_plan, {*drawn, panel.plan.text}, outputs, **JOB)
        attach(panel.dropped.redraw.click, self.redraw, {panel.dropped.metadata, *common}, outputs, **JOB)
        attach(tokens.draw_on.click, self.draw_on, patch, outputs, **JOB)
        attach(tokens.draw_with.click, self.draw_with, patch, outputs, **JOB)
        attach(joined.then, self.rejoin, common, outputs, **JOB)
        attach(panel.buttons.stop.click, self.stop, None, None, **QUICK)
        halt(panel.buttons.stop.click, [helper.wire()]).then(self.stopped, None, outputs, **QUICK)
        attach(self.right.rank.click, self.rank, {wall.chosen, *common}, {output.status, *wall.all}, **JOB)

    def wire_pictures(self) -> None:
        panel, controls, wall, right = self.panel, self.controls, self.wall, self.right
        seeds = {controls.seed, controls.new_seed}
        plan = {panel.plan.box, panel.plan.text}
        cleared = {self.output.status, self.output.preview_grid, *right.more.all, *plan}
        for picked in wall.wire(self.page):
            attach(picked.then, self.chosen, {self.output.status, wall.items, wall.chosen}, cleared, **QUICK)
        attach(right.more.described.then, self.show_description, wall.source.inputs, wall.all, **QUICK)
        reuse_seed = wall.reuse_seed(controls.seed, controls.new_seed)
        attach(right.reuse.click, reuse_seed, wall.source.inputs, seeds, **QUICK)
        attach(panel.last_seed.click, self.use_last_seed, {wall.items, controls.seed}, seeds, **QUICK)
        dropped = panel.dropped
        read = {dropped.note, dropped.redraw, dropped.metadata, *self.tab.restored}
        attach(dropped.file.change, self.read_dropped, {dropped.file}, read, **QUICK)
        for chip in panel.examples:
            attach(chip.click, lambda text: text, chip, controls.prompt, **QUICK)


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
