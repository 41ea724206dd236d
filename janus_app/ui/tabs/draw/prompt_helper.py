"""Help with the prompt: a random one that fits the model, and the model expanding a short one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from janus_app.errors import AppError, Message
from janus_app.types import ChatRequest, Turn
from janus_app.ui.common.controls import RunButtons
from janus_app.ui.common.html import message, messages
from janus_app.ui.common.jobs import watch
from janus_app.ui.context import JOB, QUICK, PageContext, Updates, Values, attach, random_seed
from janus_app.workflows.presets import random_prompt, writes_prompts, written_prompt

MAX_ANSWER_TOKENS = 160
TEMPERATURE = 0.7  # above 0, so that pressing the button again gives another wording


@dataclass(frozen=True)
class PromptHelper:
    """Two buttons, and a panel that is hidden until one of them has something to show.

    `before` holds the prompt that the model expanded.
    """

    surprise: gr.Button
    expand: gr.Button
    panel: gr.Column
    note: gr.HTML
    offer: gr.Button
    undo: gr.Button
    before: gr.State

    @property
    def all(self) -> set[Any]:
        return {self.panel, self.note, self.offer, self.undo, self.before}

    def show(self, note: str, offer: str | None = None, undo: bool = False) -> Updates:
        """The panel with `note`, with a button for the prompt `offer`, and with the undo button."""
        return {
            self.panel: gr.update(visible=True),
            self.note: note,
            self.offer: gr.update(visible=False) if offer is None else gr.update(value=offer, visible=True),
            self.undo: gr.update(visible=undo),
        }


def build_buttons(page: PageContext) -> tuple[gr.Button, gr.Button]:
    label = page.texts.label
    return (
        gr.Button(label("surprise"), size="sm", elem_id="draw-surprise", elem_classes="glyph icon-dice", min_width=0),
        gr.Button(label("expand"), size="sm", elem_id="draw-expand", elem_classes="glyph icon-expand", min_width=0),
    )


def build_panel(page: PageContext, surprise: gr.Button, expand: gr.Button) -> PromptHelper:
    with gr.Column(visible=False, elem_id="draw-words") as panel:
        note = gr.HTML(elem_id="draw-words-note", padding=False)
        with gr.Row(elem_classes="chips"):
            offer = gr.Button("", size="sm", visible=False, elem_id="draw-offer", min_width=60)
            undo = gr.Button(
                page.texts.label("expand_undo"), size="sm", visible=False, elem_id="draw-words-undo", min_width=60
            )
    return PromptHelper(surprise, expand, panel, note, offer, undo, gr.State(""))


@dataclass(frozen=True)
class PromptHandlers:
    """What the buttons do. A job shows its progress in `status`, and `buttons` are the tab's run and stop button."""

    page: PageContext
    helper: PromptHelper
    prompt: gr.Textbox
    variant: gr.Dropdown
    status: gr.HTML
    buttons: RunButtons

    def surprise(self, values: Values, request: gr.Request) -> Updates:
        words = random_prompt(self.page.variant(values[self.variant]), self.page.language(request))
        return {self.prompt: words, self.helper.panel: gr.update(visible=False)}

    def expand(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        language, say, helper = self.page.language(request), self.page.texts.say, self.helper
        words, selected = values[self.prompt], values[self.variant]
        model = self.page.variant(selected)
        if not writes_prompts(model):
            note = message(say("expand_cannot", language, title=model.title))
            yield helper.show(note, offer=random_prompt(model, language))
            return

        def ask() -> Iterator[Any]:
            if not words.strip():
                raise AppError("text_empty", name=Message("input_prompt"))
            turn = Turn("user", say("expand_request", language, prompt=words.strip()))
            chat = ChatRequest((turn,), temperature=TEMPERATURE, seed=random_seed(), max_new_tokens=MAX_ANSWER_TOKENS)
            return self.page.job(selected, chat)

        yield {**helper.show(""), self.status: message(say("starting", language)), **self.buttons.updates(running=True)}
        frame = None
        for frame in watch(ask, self.page.texts, language):
            notes = messages(frame.notices) + (message(frame.error, "error") if frame.error else message(frame.text))
            yield {**helper.show(notes), self.status: frame.status}
        ended: Updates = {self.status: "", **self.buttons.updates(running=False)}
        if frame is None or frame.error:
            yield ended
            return
        try:
            written = written_prompt(frame.text, words)
        except AppError as error:
            yield {**helper.show(message(error.text(language), "warning")), **ended}
            return
        note = message(say("expanded", language, title=model.title), "done")
        yield {self.prompt: written, **helper.show(note, undo=True), helper.before: words, **ended}

    def take(self, source: gr.Button | gr.State) -> Any:
        """A handler that makes the text of `source` the prompt."""
        return lambda values: {self.prompt: values[source], self.helper.panel: gr.update(visible=False)}

    def wire(self) -> Any:
        """Attach the buttons. Returns the event of the job."""
        helper, shown = self.helper, {self.prompt, self.helper.panel}
        attach(helper.surprise.click, self.surprise, {self.variant}, shown, **QUICK)
        attach(helper.offer.click, self.take(helper.offer), {helper.offer}, shown, **QUICK)
        attach(helper.undo.click, self.take(helper.before), {helper.before}, shown, **QUICK)
        outputs: set[Component] = {self.prompt, *helper.all, self.status, self.buttons.run, self.buttons.stop}
        return attach(helper.expand.click, self.expand, {self.prompt, self.variant}, outputs, **JOB)
