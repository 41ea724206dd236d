"""The edit tab: a picture, what should change about it, and the result beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from janus_app.errors import AppError
from janus_app.outputs.image_io import open_picture
from janus_app.types import DESCRIBE, ChatRequest, EditRequest, Turn
from janus_app.ui.common.actions import BrowserDownload, halt
from janus_app.ui.common.browser_tab import kept
from janus_app.ui.common.drawing import View, draw_on
from janus_app.ui.common.html import message, messages
from janus_app.ui.common.jobs import watch
from janus_app.ui.common.pictures import MAX_ITEMS, newest_first
from janus_app.ui.common.running import pictures_of
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import JOB, QUICK, PageContext, Updates, Values, attach, first_seed, number
from janus_app.ui.tabs.edit.editor import more_pictures, painted
from janus_app.ui.tabs.edit.methods import settings_of
from janus_app.ui.tabs.edit.panels import EditPanels, build_panels
from janus_app.ui.tabs.edit.stage import CANVAS, COMPARISON
from janus_app.ui.tabs.edit.undo import Tree
from janus_app.ui.tabs.edit.undo_panel import UndoHandlers, compared
from janus_app.ui.tabs.edit.ways_panel import WayHandlers
from janus_app.ui.tabs.edit.words import INSTRUCT

MAX_DESCRIPTION_TOKENS = 120


@dataclass(frozen=True)
class EditTab:
    panels: EditPanels
    undo: UndoHandlers

    @property
    def settings(self) -> set[Component]:
        """The components that the metadata of an edited picture sets."""
        settings, method = self.panels.settings, self.panels.method
        own = {method.method, method.source_prompt, settings.strength, settings.image_guidance, settings.written}
        return {*settings.controls.all, *own}


def build(
    page: PageContext,
    variant: gr.Dropdown,
    model_changed: gr.Textbox,
    joined: Any,
    browser: BrowserDownload,
) -> EditTab:
    """Build the tab. `model_changed` changes when this browser tab learns of another loaded model.

    `joined` is the event after which the page knows what this browser tab edited before it was opened anew.
    """
    panels = build_panels(page, browser)
    undo = UndoHandlers(page, panels)
    handlers = EditHandlers(page, panels, variant, undo)
    undo.wire(handlers.wire_jobs(joined))
    handlers.wire_controls()
    settings, method, controls = panels.settings, panels.method, panels.settings.controls
    words = kept("edit-words", [controls.prompt, settings.written, controls.negative, method.source_prompt])
    numbers = [*controls.by_setting.values(), controls.seed, controls.new_seed]
    changes = [method.method, settings.go_on, settings.strength, settings.image_guidance]
    entered = kept("edit-settings", [*changes, *numbers], variant)
    for opening in WayHandlers(page, panels, variant).wire(model_changed, words(joined)):
        words(entered(opening))
    return EditTab(panels, undo)


@dataclass(frozen=True)
class EditHandlers:
    page: PageContext
    panels: EditPanels
    variant: gr.Dropdown
    undo: UndoHandlers

    def edit(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        language, settings, right = self.page.language(request), self.panels.settings, self.panels.right
        seed = first_seed(values[settings.controls.new_seed], values[settings.controls.seed])
        yield {
            **right.output.cleared(),
            **right.more.cleared(),
            settings.controls.seed: seed,
            **settings.buttons.updates(running=True),
        }
        views = draw_on(self.page, "edit", values[self.variant], lambda: self.request(values, seed), language)
        yield from self._follow(views, values[self.panels.source.tree], values[right.results.items], language)

    def rejoin(self, request: gr.Request) -> Iterator[Updates]:
        """What this browser tab showed before it was opened anew: its pictures, and the job that still runs."""
        page, source = self.page, self.panels.source
        language, runs, tree = page.language(request), page.runs.of("edit"), self.undo.kept()
        yield gr.skip()  # of a generator that yields nothing, Gradio empties all outputs
        last = runs[-1] if runs else None
        running = last is not None and not last.ended  # asked first: one that ends meanwhile is followed to its end
        items = pictures_of(runs)[:MAX_ITEMS]
        with suppress(AppError):  # the page's copies of pictures are deleted after a day
            if last and not running and last.saved and tree.latest != last.saved[0]:  # it ended while nobody looked
                tree = tree.with_results(open_picture(last.before), last.saved, page.images)
        if last and running:
            tree, number = tree.with_given(open_picture(last.before), page.images)
            tree = tree.at(number)
        updates: Updates = self.panels.settings.buttons.updates(running=True) if running else {}
        if tree.here is not None:
            updates |= self.undo.moved(tree, tree.here, request)
            del updates[self.panels.method.source_prompt]  # the browser puts back what was entered
            updates[source.tree] = tree  # with a new result, which is the next picture where the user wants that
        elif tree.steps or tree.emptied:
            updates |= self.undo.shown(tree, request)
            if tree.emptied:
                updates[source.editor] = None
        updates |= self._results_again(tree, items, language)
        if updates:
            yield updates
        if last and running:
            yield from self._follow(last.follow(), tree, items, language)

    def _results_again(self, tree: Tree, items: list[SavedImage], language: str) -> Updates:
        """The results of a browser tab that was opened anew: the one in the editor compared, else the newest chosen."""
        right, step = self.panels.right, tree.next
        if not items:
            return {}
        edited = step.saved if step and step.saved in items else None
        updates = right.results.show(self.page, items, items.index(edited) if edited else 0, language)
        if before_after := compared(tree, edited or items[0]):
            view = COMPARISON if edited or not (tree.here or tree.emptied) else CANVAS
            updates[right.compare] = gr.update(value=before_after, visible=True)
            updates[right.view] = gr.update(value=view, visible=True)
        return updates

    def _follow(self, views: Iterator[View], tree: Tree, items: list[SavedImage], language: str) -> Iterator[Updates]:
        page, right, source, settings = self.page, self.panels.right, self.panels.source, self.panels.settings
        shown: Any = CANVAS  # where nothing comes of it, the picture to mend or to paint on
        for view in views:
            updates = right.output.updates(view)
            if view.saved:
                items = newest_first(items, view.saved)
                run = next(run for run in page.runs.of("edit") if run.saved == view.saved)
                tree = tree.with_results(open_picture(run.before), view.saved, page.images)
                updates |= {
                    **right.results.show(page, items, 0, language),
                    right.compare: gr.update(value=compared(tree, items[0]), visible=True),
                    source.tree: tree,
                }
                shown = gr.update(value=COMPARISON, visible=True)
            yield updates
        yield {right.view: shown, **settings.buttons.updates(running=False)}

    def request(self, values: Values, seed: Any) -> EditRequest:
        """The request of the controls. Raises AppError for values out of range."""
        settings, method = self.panels.settings, values[self.panels.method.method]
        used = settings_of(method)
        tree: Tree = values[self.panels.source.tree]
        picture = tree.picture()
        mask = painted(values[self.panels.source.editor], tree.shown(), picture.size) if "mask" in used else None
        return EditRequest(
            image=picture,
            mask=mask,
            method=method or "region",
            source_prompt=(values[self.panels.method.source_prompt] or "").strip() if "source_prompt" in used else "",
            image_guidance=number(values[settings.image_guidance], "input_image_guidance"),
            strength=number(values[settings.strength], "input_strength"),
            more_images=more_pictures(values[self.panels.source.more]) if method == INSTRUCT else (),
            **settings.controls.settings(values, seed),
        )

    def describe(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """The model's description of the picture, into the box where it can be corrected."""
        language, selected = self.page.language(request), values[self.variant]
        output, buttons = self.panels.right.output, self.panels.settings.buttons

        def ask() -> Iterator[Any]:
            turn = Turn("user", DESCRIBE, (values[self.panels.source.tree].picture(),))
            return self.page.job(selected, ChatRequest((turn,), temperature=0, max_new_tokens=MAX_DESCRIPTION_TOKENS))

        yield {output.status: "", output.notes: "", **buttons.updates(running=True)}
        for frame in watch(ask, self.page.texts, language):
            notes = messages(frame.notices) + (message(frame.error, "error") if frame.error else "")
            updates: Updates = {output.status: frame.status, output.notes: notes}
            if not frame.error:
                updates[self.panels.method.source_prompt] = frame.text.strip()
            yield updates
        yield {output.status: "", **buttons.updates(running=False)}

    def stop(self) -> None:
        """Stop the drawing; its own last view says so."""
        self.page.runs.stop("edit")

    def stopped(self, request: gr.Request) -> Updates:
        """What to show once a job that no run holds is stopped."""
        if any(not run.ended for run in self.page.runs.of("edit")):
            return gr.skip()
        line = message(self.page.texts.say("draw_stopped", self.page.language(request)))
        return {self.panels.right.output.status: line, **self.panels.settings.buttons.updates(running=False)}

    def compare(self, values: Values, request: gr.Request) -> Updates:
        """The chosen result beside the picture it was made from, or in the editor where that one is not known now."""
        right, tree = self.panels.right, values[self.panels.source.tree]
        if not values[right.results.items]:
            return gr.skip()
        result = right.results.chosen_picture(values)
        before_after = compared(tree, result)
        if before_after is None:
            return self.undo.receive(tree, result, request)
        return {right.compare: gr.update(value=before_after), right.view: COMPARISON, **right.more.cleared()}

    def reuse_seed(self, values: Values) -> Updates:
        controls = self.panels.settings.controls
        return {controls.seed: self.panels.right.shown.pick(values).metadata.seed, controls.new_seed: False}

    def describe_again(self, values: Values, request: gr.Request) -> Updates:
        """The chosen picture with the description that it has by now."""
        results = self.panels.right.results
        items, index = values[results.items], values[results.chosen]
        return results.show(self.page, items, index, self.page.language(request))

    def wire_jobs(self, joined: Any) -> list[Any]:
        """Attach the jobs and the stop button. Returns the events of jobs that add results."""
        source, method, settings, right = (
            self.panels.source,
            self.panels.method,
            self.panels.settings,
            self.panels.right,
        )
        inputs = {
            source.editor, source.more, source.tree, method.method, method.source_prompt, settings.strength,
            settings.image_guidance, *settings.controls.all, self.variant, right.results.items,
        }  # fmt: skip
        buttons = {settings.buttons.run, settings.buttons.stop}
        outputs = {
            *right.output.all, *right.more.all, *right.results.all, right.compare, right.view, source.tree,
            settings.controls.seed, *buttons,
        }  # fmt: skip
        edits = [
            attach(settings.buttons.run.click, self.edit, inputs, outputs, **JOB),
            attach(settings.controls.prompt.submit, self.edit, inputs, outputs, **JOB),
            attach(joined.then, self.rejoin, None, {*outputs, *self.undo.outputs}, **JOB),
        ]
        described = {method.source_prompt, right.output.status, right.output.notes, *buttons}
        describing = attach(method.describe.click, self.describe, {source.tree, self.variant}, described, **JOB)
        stopped = {right.output.status, *buttons}
        attach(settings.buttons.stop.click, self.stop, None, None, **QUICK)
        halt(settings.buttons.stop.click, [describing]).then(self.stopped, None, stopped, **QUICK)
        return edits

    def wire_controls(self) -> None:
        settings, right = self.panels.settings, self.panels.right
        controls, results = settings.controls, right.results
        inputs = {*results.source.inputs, self.panels.source.tree}
        for picked in results.wire(self.page):
            attach(picked.then, self.compare, inputs, {right.compare, *self.undo.outputs}, **QUICK)
        attach(right.more.described.then, self.describe_again, results.source.inputs, results.all, **QUICK)
        attach(right.reuse.click, self.reuse_seed, right.shown.inputs, {controls.seed, controls.new_seed}, **QUICK)
        for example in settings.examples:
            attach(example.click, lambda text: text, example, controls.prompt, **QUICK)
