"""The handlers of "What should change?": they show what a way needs, and switch to a model that can do it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.ui.common.html import message, messages
from janus_app.ui.common.jobs import Frame
from janus_app.ui.common.running import Load
from janus_app.ui.common.visitor import visitor
from janus_app.ui.context import JOB, QUICK, PageContext, Updates, Values, attach, example_updates
from janus_app.ui.tabs.edit.editor import start_html
from janus_app.ui.tabs.edit.methods import (
    method_outputs,
    method_updates,
    offer_outputs,
    offer_updates,
    suggested,
    variant_outputs,
    variant_updates,
)
from janus_app.ui.tabs.edit.panels import EditPanels
from janus_app.ui.tabs.edit.ways import WAYS, available, method_for, missing_way, offers
from janus_app.ui.tabs.models.model_drawer import load_on, loading

# What the user has typed since stays.
AS_SUGGESTED = "(suggested, now) => suggested && suggested.before === now ? suggested.text : now"


@dataclass(frozen=True)
class WayHandlers:
    page: PageContext
    panels: EditPanels
    variant: gr.Dropdown
    loading: dict[str, Load] = field(default_factory=dict)  # of the browser tabs that switch to another model here

    def opened(self, values: Values, request: gr.Request) -> Updates:
        page, language = self.page, self.page.language(request)
        drawn = bool(page.library.gallery.find()) if page.library else None
        start = start_html(lambda key: page.texts.say(key, language), drawn)
        before, after = (escape(page.texts.say(key, language)) for key in ("before", "after"))
        sides = f'<div class="sides"><span>{before}</span><span>{after}</span></div>'
        return {**self.refresh(values, request), self.panels.source.start: start, self.panels.right.sides: sides}

    def refresh(self, values: Values, request: gr.Request) -> Updates:
        """The ways, controls and suggestions of the variant whose settings the page shows."""
        method, text = values[self.panels.method.method], values[self.panels.settings.controls.prompt] or ""
        language = self.page.language(request)
        fitted, written = values[self.panels.settings.fitted], values[self.panels.settings.written]
        tree, shown = values[self.panels.source.tree], values[self.variant]
        return variant_updates(self.page, self.panels, shown, language, method, text, fitted, written, tree)

    def choose(self, values: Values, request: gr.Request) -> Updates:
        method, text = values[self.panels.method.method], values[self.panels.settings.controls.prompt] or ""
        language = self.page.language(request)
        written, tree = values[self.panels.settings.written], values[self.panels.source.tree]
        return method_updates(self.page, self.panels, values[self.variant], method, language, text, written, tree)

    def suggest(self, values: Values, request: gr.Request) -> Updates:
        """Another picture may be in the editor: what is suggested for the last one may not fit it."""
        settings, language = self.panels.settings, self.page.language(request)
        before, method = values[settings.controls.prompt] or "", values[self.panels.method.method]
        tree = values[self.panels.source.tree]
        found, text = suggested(self.page, values[self.variant], method, tree, language, before)
        return {**example_updates(settings.examples, found), settings.suggested: {"before": before, "text": text}}

    def chosen(self) -> Updates:
        """The user takes another way: what was wrong with the last one is settled."""
        return {self.panels.right.output.notes: ""}

    def write(self, values: Values, request: gr.Request) -> Updates:
        """The user writes: an instruction is offered a model that follows one."""
        method, text = values[self.panels.method.method], values[self.panels.settings.controls.prompt] or ""
        language = self.page.language(request)
        return offer_updates(self.page, self.panels, values[self.variant], method, text, language)

    def switch(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """Choose the way that was offered, with the model that can do it."""
        page, panels, language = self.page, self.panels, self.page.language(request)
        method, text = values[panels.method.method], values[panels.settings.controls.prompt] or ""
        methods, output = available(page, values[self.variant]), panels.right.output
        way = missing_way(method, methods, text)
        found = offers(page, way)
        if own := method_for(way, methods):
            yield {panels.method.method: own}
        if own or not found:
            return
        name, buttons = page.catalog.name_of(found[0].variant), panels.settings.buttons
        starting = message(page.texts.say("starting", language))
        hidden = gr.update(visible="hidden")
        yield {output.status: starting, output.notes: "", panels.method.switch: hidden, **buttons.updates(running=True)}
        frame, stopped, tab = Frame(), False, visitor()
        try:
            load = load_on(page, lambda: loading(page, name, "auto", "auto"), (name, "auto", "auto"), language)
            self.loading[tab] = load
            for frame in load.follow():
                yield {
                    output.status: frame.status,
                    output.notes: messages(frame.notices) + message(frame.error, "error"),
                }
            stopped = load.stopped
        except AppError as error:
            frame = Frame(error=error.text(language))
            yield {output.notes: message(frame.error, "error")}
        finally:
            self.loading.pop(tab, None)
        line = message(page.texts.say("load_stopped", language)) if stopped else ""
        yield {output.status: line, **buttons.updates(running=False)}
        if frame.error or stopped:
            yield offer_updates(page, panels, values[self.variant], method, text, language)
        else:
            written = values[panels.settings.written]
            tree = values[panels.source.tree]
            shown = variant_updates(page, panels, None, language, WAYS[way][0], text, written=written, tree=tree)
            yield {self.variant: name, **shown}

    def stop(self) -> None:
        """Stop the load, if this browser tab waits for one here; its own end says so."""
        if load := self.loading.get(visitor()):
            load.stop()

    def wire(self, model_changed: gr.Textbox, opening: Any) -> list[Any]:
        """Connect the events. Returns those after which the ways are those of the model: `opening`, and a change."""
        panels = self.panels
        method, buttons = panels.method, panels.settings.buttons
        inputs = {self.variant, method.method, panels.settings.controls.prompt}
        outputs = variant_outputs(panels)
        turning = {*inputs, panels.settings.written, panels.source.tree}
        shown_for = {*turning, panels.settings.fitted}
        fitted = [
            attach(opening.then, self.opened, shown_for, {*outputs, panels.source.start, panels.right.sides}, **QUICK),
            attach(model_changed.change, self.refresh, shown_for, outputs, **QUICK),
        ]
        attach(method.method.change, self.choose, turning, method_outputs(panels), **QUICK)
        attach(method.method.input, self.chosen, None, {panels.right.output.notes}, **QUICK)
        attach(
            panels.settings.controls.prompt.input,
            self.write,
            inputs,
            offer_outputs(panels),
            trigger_mode="always_last",
            **QUICK,
        )
        prompt, suggested = panels.settings.controls.prompt, panels.settings.suggested
        suggesting = {*panels.settings.examples, suggested}
        changed = attach(panels.source.strip.change, self.suggest, {*inputs, panels.source.tree}, suggesting, **QUICK)
        changed.then(None, [suggested, prompt], prompt, js=AS_SUGGESTED)
        shown = {panels.right.output.status, panels.right.output.notes, buttons.stop}
        attach(method.switch.click, self.switch, turning, {*outputs, *shown, self.variant}, **JOB)
        attach(buttons.stop.click, self.stop, None, None, **QUICK)
        return fitted
