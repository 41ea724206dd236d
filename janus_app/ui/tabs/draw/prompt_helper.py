"""Help with the words: a random prompt that fits the model, and the model writing a short one out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.types import ChatRequest, Turn
from janus_app.ui.common.controls import run_or_stop
from janus_app.ui.common.html import message, messages
from janus_app.ui.common.jobs import watch
from janus_app.ui.context import JOB, QUICK, PageContext, random_seed
from janus_app.workflows.presets import random_prompt, writes_prompts, written_prompt

LONGEST_ANSWER = 160  # tokens
WARMTH = 0.7  # temperature: another press gives another wording


@dataclass(frozen=True)
class PromptHelper:
    """Two buttons, and a panel unseen until one of them has something to say."""

    surprise: gr.Button
    expand: gr.Button
    panel: gr.Column
    note: gr.HTML
    offer: gr.Button
    undo: gr.Button


def buttons(page: PageContext) -> tuple[gr.Button, gr.Button]:
    label = page.texts.label
    return (
        gr.Button(label("surprise"), elem_id="draw-surprise", min_width=100, scale=1),
        gr.Button(label("expand"), elem_id="draw-expand", min_width=90, scale=1),
    )


def panel(page: PageContext, surprise: gr.Button, expand: gr.Button) -> PromptHelper:
    with gr.Column(visible=False, elem_id="draw-words") as whole:
        note = gr.HTML(elem_id="draw-words-note", padding=False)
        with gr.Row(elem_classes="chips"):
            offer = gr.Button("", size="sm", visible=False, elem_id="draw-offer", min_width=60)
            undo = gr.Button(
                page.texts.label("expand_undo"), size="sm", visible=False, elem_id="draw-words-undo", min_width=60
            )
    return PromptHelper(surprise, expand, whole, note, offer, undo)


def wire(page: PageContext, helper: PromptHelper, prompt: gr.Textbox, variant: gr.Dropdown, around: list[Any]) -> Any:
    """Give the buttons their work; `around` is the status line, the run and the stop button. Returns the job."""
    before = gr.State("")
    outputs = [prompt, helper.panel, helper.note, helper.offer, helper.undo, before, *around]

    def on_surprise(selected: str | None, request: gr.Request) -> tuple[Any, ...]:
        return random_prompt(page.variant(selected), page.language(request)), gr.update(visible=False)

    def on_expand(words: str, selected: str | None, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        language, say, model = page.language(request), page.texts.say, page.variant(selected)
        stay, nothing = gr.skip(), gr.update(visible=False)
        rest = (stay, stay, *run_or_stop(running=False))

        def shown(note: str, offer: Any = nothing, undo: Any = nothing) -> tuple[Any, ...]:
            return gr.update(visible=True), note, offer, undo

        if not writes_prompts(model):
            note = message(say("expand_cannot", language, title=model.title))
            yield stay, *shown(note, gr.update(value=random_prompt(model, language), visible=True)), *rest
            return
        frame = None

        def ask() -> Iterator[Any]:
            if not words.strip():
                raise AppError("The prompt is empty. Type a few words first.")
            turn = Turn("user", say("expand_request", language, prompt=words.strip()))
            asked = ChatRequest((turn,), temperature=WARMTH, seed=random_seed(), max_new_tokens=LONGEST_ANSWER)
            return page.job(selected, asked)

        yield stay, *shown(""), stay, message(say("starting", language)), *run_or_stop(running=True)
        for frame in watch(ask, page.texts, language):
            notes = messages(frame.notices) + (message(frame.error, "error") if frame.error else message(frame.text))
            yield stay, *shown(notes), stay, frame.status, stay, stay
        if frame is None or frame.error:
            yield stay, *(stay,) * 5, "", *run_or_stop(running=False)
            return
        try:
            written = written_prompt(frame.text, words)
        except AppError as error:
            note = message(page.texts.text(error, language), "warning")
            yield stay, *shown(note), stay, "", *run_or_stop(running=False)
            return
        note = message(say("expanded", language, title=model.title), "done")
        yield written, *shown(note, undo=gr.update(visible=True)), words, "", *run_or_stop(running=False)

    helper.surprise.click(on_surprise, variant, [prompt, helper.panel], **QUICK)
    helper.offer.click(lambda text: (text, gr.update(visible=False)), helper.offer, [prompt, helper.panel], **QUICK)
    helper.undo.click(lambda words: (words, gr.update(visible=False)), before, [prompt, helper.panel], **QUICK)
    return helper.expand.click(on_expand, [prompt, variant], outputs, **JOB)
