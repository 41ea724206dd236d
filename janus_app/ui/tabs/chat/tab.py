"""The chat tab: talk with the loaded model about pictures, draw and edit in between, go back and branch off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.outputs.conversations import Conversation, new_conversation, new_id
from janus_app.types import MAX_PROMPT_CHARACTERS
from janus_app.ui.common.actions import Actions, BrowserDownload, action_row, halt
from janus_app.ui.common.html import message
from janus_app.ui.context import EXAMPLES, JOB, QUICK, PageContext, example_updates, public, slider_update
from janus_app.ui.tabs.chat import sidebar
from janus_app.ui.tabs.chat.reply import Scene, around, idle_box, reply, save
from janus_app.ui.tabs.chat.sidebar import library_of, served, side_updates
from janus_app.ui.tabs.chat.transcript import question, shown

SETTINGS = ("chat_temperature", "top_p", "max_new_tokens")


@dataclass(frozen=True)
class ChatTab:
    """`box` receives pictures from the other tabs; `cleared` fills `outputs` with a new conversation, after the
    running `answers` were cancelled."""

    box: gr.MultimodalTextbox
    answers: list[Any]
    outputs: list[Any]
    cleared: Callable[..., Any]
    talk: gr.State
    row: Actions


def build(
    page: PageContext, variant: gr.Dropdown, seen: gr.Textbox, demo: gr.Blocks, browser: BrowserDownload
) -> ChatTab:
    label = page.texts.label
    talk = gr.State(Conversation(""))  # its id comes with the first message: this value is every visitor's
    side: sidebar.Side | None = None
    with gr.Row(elem_classes="chat-row"):
        if page.library:
            with gr.Column(scale=0, min_width=230, elem_id="chat-side"):
                side = sidebar.build(page, talk, browser)
        with gr.Column(elem_classes="chat-column"):
            bot = gr.Chatbot(
                label=label("conversation"),
                show_label=False,
                elem_id="chat-bot",
                height="max(280px, calc(100vh - 540px))",
                layout="bubble",
                buttons=["copy", "copy_all"],
                editable="user",
                feedback_options=None,
                allow_tags=False,
                placeholder="",
            )
            with gr.Row(elem_classes="chips", elem_id="chat-examples"):
                examples = [
                    gr.Button("", size="sm", visible=False, elem_id=f"chat-example-{i}", min_width=60)
                    for i in range(EXAMPLES)
                ]
            box = gr.MultimodalTextbox(
                label=label("question"),
                show_label=False,
                placeholder=label("question_hint"),
                file_count="multiple",
                file_types=["image"],
                sources=["upload"],
                elem_id="chat-box",
                max_plain_text_length=MAX_PROMPT_CHARACTERS + 1,
                max_lines=8,
            )
            status = gr.HTML(elem_id="chat-status", padding=False)
            notes = gr.HTML(elem_id="chat-notes", padding=False)
            context = gr.HTML(elem_id="chat-context", padding=False)
            branch = gr.Dropdown(
                [], label=label("branch"), info=label("branch_info"), visible=False, elem_id="chat-branch"
            )
            with gr.Column(visible=False, elem_id="chat-picture", elem_classes="beside") as panel:
                gr.Markdown(label("chat_picture"))
                row = action_row(page, "chat")
            with gr.Row(elem_classes="actions"):
                retry = gr.Button(label("retry"), size="sm", elem_id="chat-retry", min_width=90)
                clear = gr.Button(label("new_chat"), size="sm", elem_id="chat-clear", min_width=90)
            temperature, top_p, length, seed = _settings(page)

    outputs = [bot, talk, box, status, notes, context, retry, clear, branch, panel]
    knobs = [temperature, top_p, length, seed, variant]

    def on_ask(
        message: dict[str, Any] | None,
        now: Conversation,
        temperature: Any,
        top_p: Any,
        max_new_tokens: Any,
        seed: Any,
        model: Any,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        asked = question(now, (message or {}).get("text") or "", tuple((message or {}).get("files") or ()))
        yield from reply(page, now, asked, [temperature, top_p, max_new_tokens, seed, model], request)

    def on_retry(now: Conversation, request: gr.Request, *settings: Any) -> Iterator[tuple[Any, ...]]:
        """Another answer beside the last one."""
        asked = next((m for m in reversed(now.path) if m.role == "user"), None)
        asked = asked or question(now, "", ())
        yield from reply(page, now, asked, list(settings), request, give_back=False)

    def on_edit(
        now: Conversation, request: gr.Request, event: gr.EditData, *settings: Any
    ) -> Iterator[tuple[Any, ...]]:
        """The message in new words beside its old self, and an answer to it: a branch."""
        index = event.index[0] if isinstance(event.index, (list, tuple)) else event.index
        old = now.path[min(int(index), len(now.path) - 1)]
        asked = replace(old, id=new_id(), text=str(event.value), created="")
        yield from reply(page, now, asked, list(settings), request)

    def stopped(now: Conversation, request: gr.Request) -> tuple[Any, ...]:
        language = page.language(request)
        line, on = message(page.texts.say("stopped", language)), gr.update(interactive=True)
        scene = Scene(shown(now, page, language), now, idle_box(), line, retry=on, clear=on)
        return scene.then(**around(page, now, language)).row()

    def cleared(request: gr.Request) -> tuple[Any, ...]:
        return scene_of(new_conversation(), page.language(request))

    def scene_of(now: Conversation, language: str, box: Any = None) -> tuple[Any, ...]:
        """Everything as it is when `now` was just opened."""
        on = gr.update(interactive=True)
        empty = gr.MultimodalTextbox(value={"text": "", "files": []}, submit_btn=True, stop_btn=False)
        scene = Scene(shown(now, page, language), now, box or empty, "", "", "", on, on)
        return scene.then(**around(page, now, language)).row()

    def choose_branch(end: str | None, now: Conversation, request: gr.Request) -> tuple[Any, ...]:
        language = page.language(request)
        now = now.at(end or now.head)
        trouble = save(page, now, language)
        scene = Scene(shown(now, page, language), now, status="", notes=trouble, context="")
        return scene.then(**around(page, now, language)).row()

    def refresh(selected: str | None, request: gr.Request) -> list[Any]:
        language = page.language(request)
        now = page.variant(selected)
        hint = "chat_empty" if "chat" in now.verbs else "chat_cannot"
        hello = f"<div class='empty'><strong>{escape(page.texts.say('chat_empty_title', language))}</strong><span>" + (
            escape(page.texts.say(hint, language, title=now.title)) + "</span></div>"
        )
        knobs = [slider_update(now.settings.get(name)) for name in SETTINGS]
        return [
            gr.update(placeholder=hello),
            *example_updates(examples, now.prompts("chat", language)).values(),
            *knobs,
        ]

    asking = box.submit(on_ask, [box, talk, *knobs], outputs, **public("chat"))
    retrying = retry.click(on_retry, [talk, *knobs], outputs, **JOB)
    redoing = bot.retry(on_retry, [talk, *knobs], outputs, **JOB)
    editing = bot.edit(on_edit, [talk, *knobs], outputs, **JOB)
    answers: list[Any] = [asking, retrying, redoing, editing]
    halted = halt(box.stop, answers).then(stopped, talk, outputs, **QUICK)
    emptied = halt(partial(gr.on, [clear.click, bot.clear]), answers).then(cleared, None, outputs, **QUICK)
    branch.input(choose_branch, [branch, talk], outputs, **QUICK)
    for example in examples:
        example.click(_with_text, [example, box], box, **QUICK)
    for moment in (demo.load, seen.change):
        moment(refresh, variant, [bot, *examples, temperature, top_p, length], **QUICK)

    if side:

        def listed(words: str, limit: int, now: Conversation, request: gr.Request) -> tuple[Any, ...]:
            return side_updates(page, now, words, limit, page.language(request))

        def opened(name: str | None, now: Conversation, request: gr.Request) -> tuple[Any, ...]:
            language = page.language(request)
            try:
                stored = library_of(page).conversations.open(name or "")
            except AppError as error:
                gr.Warning(page.texts.sentence(str(error), language))
                return scene_of(now, language, gr.skip())
            return scene_of(served(page, stored), language, gr.skip())

        def deleted(now: Conversation, request: gr.Request) -> tuple[Any, ...]:
            language = page.language(request)
            try:
                library_of(page).conversations.delete(now.id)
            except AppError as error:
                gr.Warning(page.texts.sentence(str(error), language))
                return Scene().row()
            return scene_of(new_conversation(), language)

        wanted, shut = halt(side.rows.input, answers), halt(side.delete_yes.click, answers)
        ends = [*answers, halted, emptied]
        ends.append(wanted.then(opened, [side.rows, talk], outputs, **QUICK))
        ends.append(shut.then(deleted, talk, outputs, **QUICK))
        for end in ends:
            end.then(listed, [*side.asked, talk], side.parts, **QUICK)
        demo.load(listed, [*side.asked, talk], side.parts, **QUICK)
    return ChatTab(box, answers, outputs, cleared, talk, row)


def _settings(page: PageContext) -> tuple[gr.Slider, gr.Slider, gr.Slider, gr.Number]:
    """Temperature, top-p, the longest answer and the seed."""
    label = page.texts.label
    with gr.Accordion(label("settings"), open=False, elem_id="chat-settings"):
        with gr.Row():
            temperature = gr.Slider(
                0,
                2,
                0.1,
                step=0.05,
                label=label("chat_temperature"),
                info=label("chat_temperature_info"),
                elem_id="chat-temperature",
            )
            top_p = gr.Slider(
                0.05, 1, 0.95, step=0.05, label=label("top_p"), info=label("top_p_info"), elem_id="chat-top-p"
            )
        with gr.Row():
            length = gr.Slider(
                8,
                2048,
                512,
                step=8,
                label=label("max_new_tokens"),
                info=label("max_new_tokens_info"),
                elem_id="chat-length",
            )
            seed = gr.Number(0, precision=0, label=label("seed"), info=label("chat_seed_info"), elem_id="chat-seed")
    return temperature, top_p, length, seed


def _with_text(text: str, box: dict[str, Any] | None) -> dict[str, Any]:
    """An example's words in the box, beside whatever pictures are already there."""
    return {"text": text, "files": (box or {}).get("files") or []}
