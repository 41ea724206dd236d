"""The chat tab: talk with the loaded model about pictures, draw and edit in between, go back and branch off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.outputs.conversations import Conversation, new_conversation, new_id
from janus_app.ui.common.actions import Actions, BrowserDownload, PictureSource, halt
from janus_app.ui.common.html import empty, message
from janus_app.ui.context import (
    JOB,
    NOTIFYING,
    QUICK,
    PageContext,
    Updates,
    Values,
    attach,
    example_updates,
    slider_update,
)
from janus_app.ui.tabs.chat import sidebar
from janus_app.ui.tabs.chat.panels import ChatPanel, chat_panel, new_conversation_state
from janus_app.ui.tabs.chat.panels import sidebar as build_sidebar
from janus_app.ui.tabs.chat.reply import EMPTY, Replies, save
from janus_app.ui.tabs.chat.transcript import latest_picture, question


@dataclass(frozen=True)
class ChatTab:
    """What the rest of the page uses: `box` receives pictures.

    `cleared` fills `outputs` with a new conversation, after the running `answers` were stopped.
    """

    panel: ChatPanel
    replies: Replies
    answers: list[Any]
    outputs: list[Any]
    cleared: Callable[..., Any]
    row: Actions
    source: PictureSource

    @property
    def box(self) -> gr.MultimodalTextbox:
        return self.panel.box


@dataclass(frozen=True, eq=False)
class ChatHandlers:
    page: PageContext
    panel: ChatPanel
    variant: gr.Dropdown
    replies: Replies

    def ask(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        box, now = values[self.panel.box] or {}, values[self.panel.conversation]
        message = question(now, box.get("text") or "", tuple(box.get("files") or ()))
        yield from self.replies.reply(now, message, values, self.page.language(request))

    def retry(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """Another answer to the last question, as a new branch."""
        now = values[self.panel.conversation]
        message = next((m for m in reversed(now.path) if m.role == "user"), None) or question(now, "", ())
        yield from self.replies.reply(now, message, values, self.page.language(request), restore=False)

    def edit(self, values: Values, request: gr.Request, event: gr.EditData) -> Iterator[Updates]:
        """An answer to the edited message, as a new branch."""
        now = values[self.panel.conversation]
        index = event.index[0] if isinstance(event.index, (list, tuple)) else event.index
        old = now.path[min(int(index), len(now.path) - 1)]
        message = replace(old, id=new_id(), text=str(event.value), created="")
        yield from self.replies.reply(now, message, values, self.page.language(request))

    def stopped(self, values: Values, request: gr.Request) -> Updates:
        language = self.page.language(request)
        line = message(self.page.texts.say("stopped", language))
        return {**self.replies.show(values[self.panel.conversation], language), self.panel.status: line}

    def cleared(self, request: gr.Request) -> Updates:
        return self.opened(new_conversation(), self.page.language(request))

    def opened(self, conversation: Conversation, language: str, keep_box: bool = False) -> Updates:
        """`conversation` has just been opened. `keep_box` keeps what is typed in the message box."""
        panel = self.panel
        updates: Updates = {
            **self.replies.show(conversation, language),
            panel.status: "",
            panel.notes: "",
            panel.context: "",
        }
        if keep_box:
            del updates[panel.box]
        else:
            updates[panel.box] = gr.MultimodalTextbox(value=EMPTY, submit_btn=True, stop_btn=False)
        return updates

    def choose_branch(self, values: Values, request: gr.Request) -> Updates:
        language, now = self.page.language(request), values[self.panel.conversation]
        now = now.at(values[self.panel.branch] or now.head)
        updates = self.opened(now, language, keep_box=True)
        return {**updates, self.panel.notes: save(self.page, now, language)}

    def refresh(self, values: Values, request: gr.Request) -> Updates:
        """Greeting, examples and settings of the model at hand."""
        language, say = self.page.language(request), self.page.texts.say
        variant = self.page.variant(values[self.variant])
        hint = say("chat_empty" if "chat" in variant.verbs else "chat_cannot", language, title=variant.title)
        sliders = self.panel.settings.sliders
        return {
            self.panel.bot: gr.update(placeholder=empty(say("chat_empty_title", language), hint)),
            **example_updates([*self.panel.examples], variant.prompts("chat", language)),
            **{slider: slider_update(variant.settings.get(name)) for name, slider in sliders.items()},
        }


def build(
    page: PageContext, variant: gr.Dropdown, seen: gr.Textbox, demo: gr.Blocks, browser: BrowserDownload
) -> ChatTab:
    """Build the tab. `variant` is the dropdown with the chosen model; `seen` changes when another one is loaded."""
    conversation = new_conversation_state()
    side = None
    with gr.Row(elem_classes="chat-row"):
        if page.library:
            with gr.Column(scale=0, min_width=230, elem_id="chat-side"):
                side = build_sidebar(page, sidebar.LISTED)
        with gr.Column(elem_classes="chat-column"):
            panel = chat_panel(page, conversation)
    handlers = ChatHandlers(page, panel, variant, Replies(page, panel, variant))
    answers, ends = wire(handlers)
    events: list[Callable[..., Any]] = [demo.load, seen.change]
    for event in events:
        settings = panel.settings.sliders.values()
        attach(event, handlers.refresh, {variant}, {panel.bot, *panel.examples, *settings}, **QUICK)
    if side and page.library:
        listed = sidebar.SidebarHandlers(page, page.library.conversations, side, conversation)
        sidebar.wire(listed, browser)
        wire_sidebar(handlers, listed, answers, ends, demo)
    source = PictureSource({conversation}, lambda values: latest_picture(values[conversation]))
    return ChatTab(panel, handlers.replies, answers, panel.outputs, handlers.cleared, panel.row, source)


def wire(handlers: ChatHandlers) -> tuple[list[Any], list[Any]]:
    """Connect the events of the conversation; returns the jobs that answer, and the events at their ends."""
    panel = handlers.panel
    inputs, outputs = {panel.conversation, handlers.variant, *vars(panel.settings).values()}, panel.outputs
    answers: list[Any] = [
        attach(panel.box.submit, handlers.ask, {panel.box, *inputs}, outputs, **JOB),
        attach(panel.retry.click, handlers.retry, inputs, outputs, **JOB),
        attach(panel.bot.retry, handlers.retry, inputs, outputs, **JOB),
        attach(panel.bot.edit, handlers.edit, inputs, outputs, **JOB),
    ]
    stopped = attach(halt(panel.box.stop, answers).then, handlers.stopped, {panel.conversation}, outputs, **QUICK)
    clear = halt(partial(gr.on, [panel.clear.click, panel.bot.clear]), answers)
    cleared = attach(clear.then, handlers.cleared, None, outputs, **QUICK)
    branching = {panel.branch, panel.conversation}
    attach(panel.branch.input, handlers.choose_branch, branching, outputs, **QUICK)
    for example in panel.examples:
        example.click(_with_text, [example, panel.box], panel.box, **QUICK)
    return answers, [*answers, stopped, cleared]


def wire_sidebar(
    handlers: ChatHandlers, listed: sidebar.SidebarHandlers, answers: list[Any], ends: list[Any], demo: gr.Blocks
) -> None:
    """Connect the events of the list that open or delete a conversation; `answers` are stopped first.

    The list is read again after each of `ends`.
    """
    page, panel, side = handlers.page, handlers.panel, listed.side

    def open_stored(values: Values, request: gr.Request) -> Updates:
        language = page.language(request)
        try:
            return handlers.opened(listed.open(values[side.rows] or ""), language, keep_box=True)
        except AppError as error:
            gr.Warning(error.text(language))
            return handlers.opened(values[panel.conversation], language, keep_box=True)

    def delete(values: Values, request: gr.Request) -> Updates:
        language = page.language(request)
        try:
            listed.store.delete(values[panel.conversation].id)
        except AppError as error:
            gr.Warning(error.text(language))
            return gr.skip()
        return handlers.opened(new_conversation(), language)

    opening, deleting = halt(side.rows.input, answers), halt(side.delete_yes.click, answers)
    opened = attach(opening.then, open_stored, {side.rows, panel.conversation}, panel.outputs, **NOTIFYING)
    deleted = attach(deleting.then, delete, {panel.conversation}, panel.outputs, **NOTIFYING)
    inputs = {side.search, side.limit, panel.conversation}
    for event in (*(end.then for end in (*ends, opened, deleted)), demo.load):
        attach(event, listed.listing, inputs, side.listed, **QUICK)


def _with_text(text: str, box: dict[str, Any] | None) -> dict[str, Any]:
    """The words of an example in the message box, beside the pictures that are already there."""
    return {"text": text, "files": (box or {}).get("files") or []}
