"""The parts of the chat tab."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from janus_app.outputs.conversations import Conversation
from janus_app.types import MAX_PROMPT_CHARACTERS
from janus_app.ui.common.actions import action_row
from janus_app.ui.common.controls import example_buttons, fitted_box
from janus_app.ui.common.pictures import ADDRESSED
from janus_app.ui.context import PageContext
from janus_app.ui.tabs.chat.bubbles import icon


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

    with gr.Accordion(label("settings_chat"), open=False, elem_id="chat-settings"):
        with gr.Row():
            temperature = slider("chat-temperature", "chat_temperature", "chat_temperature_info", 0, 2, 0.1, 0.05)
            top_p = slider("chat-top-p", "top_p", "top_p_info", 0.05, 1, 0.95, 0.05)
        with gr.Row():
            length = slider("chat-length", "max_new_tokens", "max_new_tokens_info", 8, 2048, 512, 8)
            seed = gr.Number(0, precision=0, label=label("seed"), info=label("chat_seed_info"), elem_id="chat-seed")
    return ChatSettings(temperature, top_p, length, seed)


# Shows and hides the list of conversations. assets/page/chat.js gives it its name.
SIDE_BUTTON = (
    '<button type="button" data-chat-side aria-expanded="true" aria-controls="chat-side">'
    + icon("M4 5h16v14H4zM9.5 5v14")
    + "</button>"
)
# Events of what stands in messages and beside the box; assets/page/chat.js calls these.
ACTS = """window.janus.chat = { files: () => trigger("files"), picture: (key) => trigger("picture", { key }) };"""
# Events of the list of conversations, each with the id of one; "discard" deletes the one on view.
LIST = 'window.janus.conversations(element, trigger); // "open", "rename", "export", "remove", "discard"'


@dataclass(frozen=True)
class ChatPanel:
    """The conversation and what belongs to it. `conversation` holds a Conversation, `chosen` the key of a picture."""

    bot: gr.Chatbot
    new: gr.Button
    starters: gr.Column  # visible while nothing was said
    sample: gr.HTML
    examples: tuple[gr.Button, ...]
    notes: gr.HTML
    sight: gr.HTML
    whole: gr.Checkbox
    box: gr.MultimodalTextbox
    context: gr.HTML
    branch: gr.Dropdown
    settings: ChatSettings
    acts: gr.HTML
    chosen: gr.State
    conversation: gr.State
    fitted: gr.Textbox

    @property
    def outputs(self) -> list[Any]:
        """Whatever an answer may change."""
        first = [self.bot, self.conversation, self.box, self.notes, self.context]
        return [*first, self.starters, self.sight, self.whole, self.branch]


def chat_panel(page: PageContext, conversation: gr.State) -> ChatPanel:
    label = page.texts.label
    with gr.Row(elem_id="chat-top"):
        if page.library:
            gr.HTML(SIDE_BUTTON, elem_id="chat-side-button", padding=False)
        branch = gr.Dropdown(
            [], label=label("branch"), show_label=False, container=False, visible=False, elem_id="chat-branch"
        )
        answering = settings(page)
        new = gr.Button(label("new_chat"), size="sm", elem_id="chat-new", min_width=60)
    bot = gr.Chatbot(
        label=label("conversation"),
        show_label=False,
        elem_id="chat-bot",
        height="100%",
        layout="bubble",
        buttons=["copy"],
        editable="user",
        feedback_options=None,
        allow_tags=False,
        placeholder="",
    )
    with gr.Column(elem_id="chat-foot"):
        with gr.Column(elem_id="chat-starters") as starters:
            sample = gr.HTML(elem_id="chat-sample", padding=False, html_template=ADDRESSED)
            examples = tuple(example_buttons("chat"))
        notes = gr.HTML(elem_id="chat-notes", padding=False)
        with gr.Row(elem_id="chat-looks"):
            sight = gr.HTML(elem_id="chat-sight", padding=False, html_template=ADDRESSED)
            whole = gr.Checkbox(
                False, label=label("sight_whole"), visible=False, container=False, elem_id="chat-whole", min_width=60
            )
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
        context = gr.HTML(elem_id="chat-context", padding=False)
    acts = gr.HTML("", elem_id="chat-acts", elem_classes="unseen", js_on_load=ACTS)
    with gr.Column(elem_classes="chat-verbs"):  # the buttons in the messages press these
        action_row(page, "chat")
        fitted = fitted_box("chat")
    chosen = gr.State("")
    parts = (bot, new, starters, sample, examples, notes, sight, whole, box, context, branch, answering, acts)
    return ChatPanel(*parts, chosen, conversation, fitted)


@dataclass(frozen=True)
class Sidebar:
    """The saved conversations. `limit` holds how many are listed."""

    new: gr.Button
    search: gr.Textbox
    rows: gr.HTML
    note: gr.HTML
    more: gr.Button
    limit: gr.State

    @property
    def listed(self) -> set[Any]:
        """The keys of `SidebarHandlers.listing`."""
        return {self.rows, self.note, self.more}


def sidebar(page: PageContext, limit: int) -> Sidebar:
    label = page.texts.label
    new = gr.Button(label("new_chat"), size="sm", elem_id="chat-clear", min_width=60)
    search = gr.Textbox(
        label=label("search_conversations"),
        show_label=False,
        placeholder=label("search_conversations"),
        elem_id="chat-search",
        max_lines=1,
    )
    note = gr.HTML(elem_id="chat-list-note", padding=False)
    rows = gr.HTML(elem_id="chat-list", padding=False, js_on_load=LIST)
    more = gr.Button(label("show_more"), size="sm", visible=False, elem_id="chat-more", min_width=60)
    return Sidebar(new, search, rows, note, more, gr.State(limit))


def new_conversation_state() -> gr.State:
    return gr.State(Conversation(""))  # its id comes with the first message: every visitor starts with this value
