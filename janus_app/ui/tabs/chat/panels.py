"""The parts of the chat tab."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from janus_app.outputs.conversations import Conversation
from janus_app.types import MAX_PROMPT_CHARACTERS
from janus_app.ui.common.actions import Actions, action_row
from janus_app.ui.common.controls import example_buttons
from janus_app.ui.context import PageContext


@dataclass(frozen=True)
class ChatSettings:
    """The controls of an answer, by the names of the API endpoint."""

    temperature: gr.Slider
    top_p: gr.Slider
    max_new_tokens: gr.Slider
    seed: gr.Number

    @property
    def sliders(self) -> dict[str, gr.Slider]:
        """Setting of a variant -> slider."""
        return {"chat_temperature": self.temperature, "top_p": self.top_p, "max_new_tokens": self.max_new_tokens}


def settings(page: PageContext) -> ChatSettings:
    label = page.texts.label

    def slider(elem_id: str, name: str, info: str, low: float, high: float, value: float, step: float) -> gr.Slider:
        return gr.Slider(low, high, value, step=step, label=label(name), info=label(info), elem_id=elem_id)

    with gr.Accordion(label("settings"), open=False, elem_id="chat-settings"):
        with gr.Row():
            temperature = slider("chat-temperature", "chat_temperature", "chat_temperature_info", 0, 2, 0.1, 0.05)
            top_p = slider("chat-top-p", "top_p", "top_p_info", 0.05, 1, 0.95, 0.05)
        with gr.Row():
            length = slider("chat-length", "max_new_tokens", "max_new_tokens_info", 8, 2048, 512, 8)
            seed = gr.Number(0, precision=0, label=label("seed"), info=label("chat_seed_info"), elem_id="chat-seed")
    return ChatSettings(temperature, top_p, length, seed)


@dataclass(frozen=True)
class ChatPanel:
    """The conversation and what belongs to it. `conversation` holds a Conversation."""

    bot: gr.Chatbot
    examples: tuple[gr.Button, ...]
    box: gr.MultimodalTextbox
    status: gr.HTML
    notes: gr.HTML
    context: gr.HTML
    branch: gr.Dropdown
    picture: gr.Column  # visible if the conversation has a picture
    row: Actions
    retry: gr.Button
    clear: gr.Button
    settings: ChatSettings
    conversation: gr.State

    @property
    def outputs(self) -> list[Any]:
        """Whatever an answer may change."""
        first = [self.bot, self.conversation, self.box, self.status, self.notes, self.context]
        return [*first, self.retry, self.clear, self.branch, self.picture]


def chat_panel(page: PageContext, conversation: gr.State) -> ChatPanel:
    label = page.texts.label
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
    examples = tuple(example_buttons("chat"))
    box = gr.MultimodalTextbox(
        label=label("question"),
        show_label=False,
        placeholder=label("question_hint"),
        file_count="multiple",
        sources=["upload"],  # of any name: `open_picture` looks at the content
        elem_id="chat-box",
        max_plain_text_length=MAX_PROMPT_CHARACTERS + 1,
        max_lines=8,
    )
    status, notes, context = (gr.HTML(elem_id=f"chat-{name}", padding=False) for name in ("status", "notes", "context"))
    branch = gr.Dropdown([], label=label("branch"), info=label("branch_info"), visible=False, elem_id="chat-branch")
    with gr.Column(visible=False, elem_id="chat-picture", elem_classes="beside") as picture:
        gr.Markdown(label("chat_picture"))
        row = action_row(page, "chat")
    with gr.Row(elem_classes="actions"):
        retry = gr.Button(label("retry"), size="sm", elem_id="chat-retry", min_width=90)
        clear = gr.Button(label("new_chat"), size="sm", elem_id="chat-clear", min_width=90)
    return ChatPanel(
        bot, examples, box, status, notes, context, branch, picture, row, retry, clear, settings(page), conversation
    )


@dataclass(frozen=True)
class Sidebar:
    """The saved conversations. `limit` holds how many are listed, `current` is about the open one."""

    search: gr.Textbox
    rows: gr.Radio
    note: gr.HTML
    more: gr.Button
    current: gr.Column
    name: gr.Textbox
    markdown: gr.Button
    json: gr.Button
    delete: gr.Button
    sure: gr.Column
    question: gr.HTML
    delete_yes: gr.Button
    delete_no: gr.Button
    limit: gr.State

    @property
    def listed(self) -> set[Any]:
        """The keys of `SidebarHandlers.listing`."""
        return {self.rows, self.note, self.more, self.current, self.name, self.sure}


def sidebar(page: PageContext, limit: int) -> Sidebar:
    label = page.texts.label

    def button(key: str, name: str, variant: Any = "secondary", visible: bool = True) -> gr.Button:
        return gr.Button(label(key), size="sm", variant=variant, visible=visible, elem_id=f"chat-{name}", min_width=60)

    with gr.Accordion(label("conversations"), open=True, elem_id="chat-list-panel"):
        search = gr.Textbox(
            label=label("search_conversations"),
            show_label=False,
            placeholder=label("search_conversations"),
            elem_id="chat-search",
            max_lines=1,
        )
        rows = gr.Radio([], label=label("conversations"), show_label=False, elem_id="chat-list", container=False)
        note = gr.HTML(elem_id="chat-list-note", padding=False)
        more = button("show_more", "more", visible=False)
        with gr.Column(visible=False, elem_id="chat-this", elem_classes="chat-this") as current:
            name = gr.Textbox(
                label=label("conversation_name"), elem_id="chat-name", max_lines=1, info=label("conversation_name_info")
            )
            with gr.Row(elem_classes="actions"):
                markdown, json = button("export_md", "export-md"), button("export_json", "export-json")
                delete = button("delete", "delete")
            with gr.Column(visible=False, elem_classes="sure") as sure:
                question = gr.HTML(elem_id="chat-sure", padding=False)
                with gr.Row(elem_classes="actions"):
                    yes, no = button("delete_yes", "delete-yes", "stop"), button("delete_no", "delete-no")
    parts = (search, rows, note, more, current, name, markdown, json, delete, sure, question, yes, no)
    return Sidebar(*parts, gr.State(limit))


def new_conversation_state() -> gr.State:
    return gr.State(Conversation(""))  # its id comes with the first message: every visitor starts with this value
