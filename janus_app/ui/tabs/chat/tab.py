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
from janus_app.outputs.image_io import open_picture
from janus_app.paths import ASSETS
from janus_app.ui.common.actions import BrowserDownload, PictureSource, press
from janus_app.ui.common.browser_tab import kept
from janus_app.ui.common.controls import ranges_only
from janus_app.ui.common.html import empty, messages
from janus_app.ui.common.pictures import address
from janus_app.ui.context import (
    EXAMPLES,
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
from janus_app.ui.tabs.chat.bubbles import stopped
from janus_app.ui.tabs.chat.panels import ChatPanel, Sidebar, chat_panel, new_conversation_state
from janus_app.ui.tabs.chat.panels import sidebar as build_sidebar
from janus_app.ui.tabs.chat.reply import EMPTY, Replies, idle_box, save
from janus_app.ui.tabs.chat.transcript import picture, question
from janus_app.workflows.commands import command

SAMPLE = ASSETS / "examples" / "frogs_and_house.png"
PRESS_CHOSEN = "() => window.janus.pressChosen()"


@dataclass(frozen=True)
class ChatTab:
    """What the rest of the page uses: `box` receives pictures.

    `cleared` fills `outputs` with a new conversation. It is attached as a JOB: then its end comes after that of the
    answer which it stops, and the next question is not taken for a second click.
    """

    panel: ChatPanel
    replies: Replies
    outputs: list[Any]
    cleared: Callable[..., Any]
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

    def rejoin(self, request: gr.Request) -> Iterator[Updates]:
        yield from self.replies.rejoin(self.page.language(request))

    def stop(self, values: Values, request: gr.Request) -> None:
        """Stop the answer. That it is stopped, its own last view says: anything else could come before its views that
        a busy browser has not shown yet."""
        language = self.page.language(request)
        if (talk := self.page.runs.stop_answer()) is not None:
            talk.leave(self.replies.show(talk.conversation, values, language, stopped(self.page, language)))

    def cleared(self, request: gr.Request) -> Updates:
        return self.opened(new_conversation(), self.page.language(request))

    def start(self, values: Values, text: str, request: gr.Request) -> Updates:
        """An example in the message box; a question about pictures gets one if there is none yet."""
        files = (values[self.panel.box] or {}).get("files") or []
        if not files and not command(text):
            files = [self.page.images.serve_again(SAMPLE)]
        return {self.panel.box: {"text": text, "files": files}}

    def files_changed(self, values: Values, request: gr.Request) -> Updates:
        """Pictures joined or left the message box: what is none leaves it again, with a sentence beside the box."""
        panel, language, box = self.panel, self.page.language(request), values[self.panel.box] or {}
        good, wrong = [], []
        for file in box.get("files") or []:
            try:
                open_picture(file)
                good.append(file)
            except AppError as error:
                wrong.append(error.text(language))
        updates = self.replies.looking(values[panel.conversation], good, bool(values[panel.whole]), language)
        if wrong:
            updates |= {panel.box: {"text": box.get("text") or "", "files": good}}
            updates |= {panel.notes: messages(wrong, "error")}
        return updates

    def looks_changed(self, values: Values, request: gr.Request) -> Updates:
        """The model shall read the whole conversation, or only what was said since the newest picture."""
        files = (values[self.panel.box] or {}).get("files") or []
        whole = bool(values[self.panel.whole])
        return self.replies.looking(values[self.panel.conversation], files, whole, self.page.language(request))

    def choose_picture(self, event: gr.EventData) -> Updates:
        return {self.panel.chosen: str(event.key)}

    def opened(self, conversation: Conversation, language: str, keep_box: bool = False) -> Updates:
        """`conversation` has just been opened. `keep_box` keeps what is typed in the message box.

        An answer that is still written stops, and whoever follows it is shown the same: the one that comes later
        changes nothing.
        """
        panel = self.panel
        updates = {**self.replies.show(conversation, {}, language), panel.notes: "", panel.context: ""}
        self.page.runs.leave_answer(updates)
        self.page.runs.show_talk(conversation)
        box: Updates = {} if keep_box else {panel.box: {**idle_box(), "value": EMPTY}}
        return {**updates, **box}

    def choose_branch(self, values: Values, request: gr.Request) -> Updates:
        language, now = self.page.language(request), values[self.panel.conversation]
        now = now.at(values[self.panel.branch] or now.head)
        updates = self.opened(now, language, keep_box=True)
        return {**updates, self.panel.notes: save(self.page, now, language)}

    def refresh(self, values: Values, request: gr.Request) -> Updates:
        """Greeting, examples and settings of the model at hand; settings that are this model's keep their values."""
        language, say = self.page.language(request), self.page.texts.say
        variant = self.page.variant(values[self.variant])
        hint = say("chat_empty" if "chat" in variant.verbs else "chat_cannot", language, title=variant.title)
        sliders = self.panel.settings.sliders
        asked, drawn = variant.prompts("chat", language)[: EXAMPLES - 1], variant.prompts("generate", language)[:1]
        commands = tuple(say("draw_command", language, prompt=prompt) for prompt in drawn)
        ranges: Updates = {slider: slider_update(variant.settings.get(name)) for name, slider in sliders.items()}
        return {
            self.panel.bot: gr.update(placeholder=empty(say("chat_empty_title", language), hint)),
            self.panel.sample: self._sample_html(language) if asked else "",
            **example_updates([*self.panel.examples], (*asked, *commands)),
            **(ranges_only(ranges) if values[self.panel.fitted] == variant.id else ranges),
            self.panel.fitted: variant.id,
        }

    def _sample_html(self, language: str) -> str:
        address_, alt = address(self.page.images.serve_again(SAMPLE)), self.page.texts.say("sample_alt", language)
        return f'<img src="{escape(address_, quote=True)}" alt="{escape(alt, quote=True)}">'


def build(
    page: PageContext, variant: gr.Dropdown, seen: gr.Textbox, demo: gr.Blocks, joined: Any, browser: BrowserDownload
) -> ChatTab:
    """Build the tab. `variant` is the dropdown with the chosen model; `seen` changes when another one is loaded.

    `joined` is the event after which the page knows what this browser tab showed before it was opened anew.
    """
    conversation = new_conversation_state()
    side = None
    with gr.Row(elem_classes="chat-row"):
        if page.library:
            with gr.Column(scale=0, min_width=0, elem_id="chat-side"):
                side = build_sidebar(page, sidebar.LISTED)
        with gr.Column(elem_classes="chat-column"):
            panel = chat_panel(page, conversation)
    handlers = ChatHandlers(page, panel, variant, Replies(page, panel, variant))
    ends = wire(handlers, side, joined)
    kept("chat-box", [panel.box])(joined)
    entered = kept("chat-settings", [*vars(panel.settings).values()], variant)
    events: list[Callable[..., Any]] = [demo.load, seen.change]  # not after `joined`: who asks soon needs the ranges
    for event in events:
        settings = panel.settings.sliders.values()
        outputs = {panel.bot, panel.sample, panel.fitted, *panel.examples, *settings}
        entered(attach(event, handlers.refresh, {variant, panel.fitted}, outputs, **QUICK))
    if side and page.library:
        listed = sidebar.SidebarHandlers(page, page.library.conversations, side, conversation)
        sidebar.wire(listed, browser)
        wire_sidebar(handlers, listed, ends, demo)
    source = PictureSource({conversation, panel.chosen}, lambda v: picture(v[conversation], v[panel.chosen]))
    return ChatTab(panel, handlers.replies, panel.outputs, handlers.cleared, source)


def wire(handlers: ChatHandlers, side: Sidebar | None, joined: Any) -> list[Any]:
    """Connect the events of the conversation; returns those after which another one may be saved."""
    panel = handlers.panel
    shown = {panel.conversation, panel.whole}
    inputs, outputs = {*shown, handlers.variant, *vars(panel.settings).values()}, panel.outputs
    answers: list[Any] = [
        attach(panel.box.submit, handlers.ask, {panel.box, *inputs}, outputs, **JOB),
        attach(panel.bot.retry, handlers.retry, inputs, outputs, **JOB),
        attach(panel.bot.edit, handlers.edit, inputs, outputs, **JOB),
        attach(joined.then, handlers.rejoin, None, outputs, **JOB),
    ]
    attach(panel.box.stop, handlers.stop, shown, None, **QUICK)
    news = [panel.new.click, *([side.new.click] if side else [])]
    cleared = attach(partial(gr.on, news), handlers.cleared, None, outputs, **JOB)
    attach(panel.branch.input, handlers.choose_branch, {panel.branch, panel.conversation}, outputs, **QUICK)
    looks = [panel.sight, panel.whole]
    attach(panel.acts.files, handlers.files_changed, {panel.box, *shown}, [panel.box, panel.notes, *looks], **QUICK)
    attach(panel.whole.input, handlers.looks_changed, {panel.box, *shown}, looks, **QUICK)
    attach(panel.acts.picture, handlers.choose_picture, None, {panel.chosen}, **QUICK).then(None, js=PRESS_CHOSEN)
    for example in panel.examples:

        def start(values: Values, request: gr.Request, example: Any = example) -> Updates:
            return handlers.start(values, values[example], request)

        attach(example.click, start, {example, panel.box}, {panel.box}, **QUICK).then(**press("chat-box"))
    return [*answers, cleared]


def wire_sidebar(handlers: ChatHandlers, listed: sidebar.SidebarHandlers, ends: list[Any], demo: gr.Blocks) -> None:
    """Connect the events of the list that open or delete a conversation. It is read again after each of `ends`."""
    page, panel, side = handlers.page, handlers.panel, listed.side

    def open_stored(request: gr.Request, event: gr.EventData) -> Updates:
        language = page.language(request)
        try:
            return handlers.opened(listed.open(str(event.id)), language, keep_box=True)
        except AppError as error:
            gr.Warning(error.text(language))
            return gr.skip()

    def delete(values: Values, request: gr.Request) -> Updates:
        language = page.language(request)
        page.runs.stop_answer(unwanted=True)
        try:
            listed.store.delete(values[panel.conversation].id)
        except AppError as error:
            gr.Warning(error.text(language))
            return gr.skip()
        return handlers.opened(new_conversation(), language)

    opened = attach(side.rows.open, open_stored, None, panel.outputs, **NOTIFYING)
    deleted = attach(side.rows.discard, delete, {panel.conversation}, panel.outputs, **NOTIFYING)
    inputs = {side.search, side.limit, panel.conversation}
    for event in (*(end.then for end in (*ends, opened, deleted)), demo.load):
        attach(event, listed.listing, inputs, side.listed, **QUICK)
