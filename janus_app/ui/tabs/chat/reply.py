"""The job behind a message of the chat tab: an answer or, for /draw and /edit, a picture."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.outputs.conversations import ChatMessage, Conversation, new_conversation, new_id, shortened
from janus_app.types import ChatRequest, EditRequest, Event, Finished, GenerateRequest, Usage
from janus_app.ui.common.drawing import draw
from janus_app.ui.common.html import message, messages, meter, preview_grid
from janus_app.ui.common.jobs import Frame, watch
from janus_app.ui.common.running import Stopped, Talk, until
from janus_app.ui.context import PageContext, Updates, Values, number, whole_number
from janus_app.ui.tabs.chat.bubbles import sight_html, stopped, working
from janus_app.ui.tabs.chat.panels import ChatPanel
from janus_app.ui.tabs.chat.transcript import (
    as_history,
    drawing_request,
    edit_request,
    question,
    sight,
    something_left_out,
    turns,
)
from janus_app.workflows.commands import command

logger = logging.getLogger(__name__)

# Updates that hold another conversation hold some of the answer; if none do, the question was refused.
Answer = Generator[Updates, None, None]


@dataclass(frozen=True, eq=False)
class Replies:
    """Answers messages. `variant` is the dropdown with the chosen model."""

    page: PageContext
    panel: ChatPanel
    variant: gr.Dropdown

    def reply(
        self, before: Conversation, asked: ChatMessage, values: Values, language: str, restore: bool = True
    ) -> Iterator[Updates]:
        """Answer `asked`, which joins `before` in its place. If it is refused, `before` is shown again.

        `restore` puts a refused question back into the message box, so that nothing typed is lost.
        """
        page, panel = self.page, self.panel
        conversation = (before if before.id else new_conversation()).with_message(asked)
        yield {
            **self._show(conversation, language, working(page, "", language)),
            panel.box: {**busy_box(), "value": EMPTY},
            panel.notes: "",
            panel.starters: gr.update(visible=False),
        }
        try:
            talk = page.runs.answer(conversation, watched=page.shared)
        except AppError as error:
            yield {
                **self._refused(before, asked, values, language, restore),
                panel.notes: message(error.text(language), "error"),
            }
            return

        def failed(error: Exception) -> Updates:
            line = page.texts.say("error_bug", language, kind=type(error).__name__)
            return {panel.notes: message(line, "error"), panel.box: idle_box()}

        talk.start(lambda halted: self._answer(talk, before, asked, values, language, restore, halted), failed)
        yield from _views(talk)

    def rejoin(self, language: str) -> Iterator[Updates]:
        """What this browser tab's chat showed before it was opened anew, and the answer that is still written."""
        talk = self.page.runs.talk
        yield gr.skip()  # of a generator that yields nothing, Gradio empties all outputs
        if isinstance(talk, Talk) and not talk.ended:
            yield {
                **self._show(talk.conversation, language, working(self.page, "", language)),
            }
            yield from _views(talk)
        elif talk is not None:
            yield self.show(talk.conversation if isinstance(talk, Talk) else talk, {}, language)

    def _answer(
        self,
        talk: Talk,
        before: Conversation,
        asked: ChatMessage,
        values: Values,
        language: str,
        restore: bool,
        halted: Stopped,
    ) -> Iterator[Updates]:
        """What changes while the question is answered."""
        page, panel, conversation = self.page, self.panel, talk.conversation
        last, trouble = conversation, ""
        yield {panel.box: busy_box(), panel.starters: gr.update(visible=False)}
        work = self._picture if command(asked.text) else self._text
        with closing(work(conversation, values, language, halted)) as answer:
            for updates in answer:
                last = talk.conversation = updates.get(panel.conversation, last)
                yield updates
        if last is not conversation and not talk.unwanted:
            trouble = save(page, last, language)
        if halted():
            tail = stopped(page, language)
            yield {**self.show(last, values, language, tail), panel.notes: trouble}
            return
        if last is conversation:
            talk.conversation = before
            yield self._refused(before, asked, values, language, restore)
            return
        yield {**self.show(last, values, language), **({panel.notes: trouble} if trouble else {})}

    def _refused(
        self, before: Conversation, asked: ChatMessage, values: Values, language: str, restore: bool
    ) -> Updates:
        back: dict[str, Any] = {"text": asked.text, "files": list(asked.pictures)}
        box = gr.MultimodalTextbox(value=back, submit_btn=True, stop_btn=False) if restore else idle_box()
        return {**self._show(before, language), self.panel.box: box, **self.around(before, values, language)}

    def request(self, conversation: Conversation, values: Values) -> ChatRequest | GenerateRequest | EditRequest:
        """What the last message of `conversation` asks for. Raises AppError."""
        if asked := command(conversation.path[-1].text):
            verb, words = asked
            variant = self.page.variant(values[self.variant])
            if verb == "draw":
                return drawing_request(words, variant)
            return edit_request(words, conversation, variant, self.page.session.state.capabilities)
        settings = self.panel.settings
        return ChatRequest(
            turns=turns(conversation, bool(values.get(self.panel.whole))),
            temperature=number(values[settings.temperature], "input_temperature"),
            top_p=number(values[settings.top_p], "input_top_p"),
            seed=whole_number(values[settings.seed], "input_seed"),
            max_new_tokens=whole_number(values[settings.max_new_tokens], "input_max_new_tokens"),
        )

    def _text(self, conversation: Conversation, values: Values, language: str, halted: Stopped) -> Answer:
        """The model's answer, as it comes."""
        page, panel = self.page, self.panel

        def start() -> Iterator[Event]:
            return until(halted, page.job(values[self.variant], self.request(conversation, values)))

        frame, answer, preview = Frame(), ChatMessage(new_id(), conversation.head, "assistant", ""), ""
        for frame in watch(start, page.texts, language):
            if frame.previews:
                preview = preview_grid(frame.previews, [""], [page.texts.say("alt_preview", language, number=1)])
            tail = working(page, preview + frame.status, language)
            told: Updates = {panel.notes: messages(frame.notices)}
            if not frame.text:
                yield {**self._show(conversation, language, tail), **told}
                continue
            loaded = page.loaded_variant()
            answer = ChatMessage(
                answer.id, conversation.head, "assistant", frame.text, model=loaded.title if loaded else ""
            )
            yield {**self._show(conversation.with_message(answer), language, tail), **told}
        if frame.error:
            yield {panel.notes: messages(frame.notices) + message(frame.error, "error")}
        if frame.finished:
            pictures, trouble = self._illustrations(frame.finished, language)
            if pictures:
                answer = replace(answer, pictures=pictures)
            if pictures or not frame.text:  # the model had nothing to say, which is an answer too
                yield self._show(conversation.with_message(answer), language)
            if trouble:
                yield {panel.notes: messages(frame.notices) + trouble}
            yield {panel.context: context_html(page, frame.finished.usage, language)}

    def _illustrations(self, finished: Finished, language: str) -> tuple[tuple[str, ...], str]:
        """The pictures inside an answer, saved, and as HTML why one could not be saved."""
        page, kept = self.page, list[str]()
        try:
            for picture in finished.pictures:
                assert finished.provenance is not None
                kept.append(page.images.keep(picture, finished.provenance).shown)
        except AppError as error:
            return tuple(kept), message(error.text(language), "error")
        return tuple(kept), ""

    def _picture(self, conversation: Conversation, values: Values, language: str, halted: Stopped) -> Answer:
        """A picture; its previews are shown below the conversation."""
        page, panel, selected = self.page, self.panel, values[self.variant]
        try:
            request = self.request(conversation, values)
        except AppError as error:
            yield {panel.notes: message(error.text(language), "error")}
            return
        assert isinstance(request, GenerateRequest | EditRequest)
        about, capabilities = "", page.session.state.capabilities
        if isinstance(request, EditRequest) and capabilities:
            about = message(capabilities.edit_methods[request.method].text(language))
        preview = ""
        for view in draw(page, selected, lambda: request, language, halted):
            preview = preview if view.preview_grid is None else view.preview_grid
            told: Updates = {panel.notes: about + view.notes}
            if not view.saved:
                yield {**self._show(conversation, language, working(page, preview + view.status, language)), **told}
                continue
            pictures = tuple(image.shown for image in view.saved)
            answer = ChatMessage(new_id(), conversation.head, "assistant", "", pictures, view.saved[0].metadata.title)
            yield {**self._show(conversation.with_message(answer), language), **told}

    def _show(self, conversation: Conversation, language: str, tail: str = "") -> Updates:
        return {
            self.panel.bot: as_history(conversation, self.page, language, tail),
            self.panel.conversation: conversation,
        }

    def show(self, conversation: Conversation, values: Values, language: str, tail: str = "") -> Updates:
        """The conversation, ready for the next message. `tail` is HTML at the end of the last answer."""
        return {
            **self._show(conversation, language, tail),
            self.panel.box: idle_box(),
            **self.around(conversation, values, language),
        }

    def around(self, conversation: Conversation, values: Values, language: str) -> Updates:
        """What stands around the messages: examples for a start, what the model will see, the choice of branches."""
        panel = self.panel
        return {
            panel.starters: gr.update(visible=not conversation.path),
            panel.branch: branch_update(self.page, conversation, language),
            **self.looking(conversation, (), bool(values.get(panel.whole)), language),
        }

    def looking(self, conversation: Conversation, files: Sequence[str], whole: bool, language: str) -> Updates:
        """Which pictures the model will see with a question that has `files`."""
        asked = conversation.with_message(question(conversation, "?", tuple(files)))
        return {
            self.panel.sight: sight_html(self.page, sight(conversation, files, whole), language),
            self.panel.whole: gr.update(value=whole, visible=something_left_out(asked)),
        }


def _views(talk: Talk) -> Iterator[Updates]:
    for view in talk.follow():
        yield view or gr.skip()


EMPTY: dict[str, Any] = {"text": "", "files": []}


def idle_box() -> dict[str, Any]:
    """The message box ready to send; what is typed in it stays."""
    return gr.update(submit_btn=True, stop_btn=False)


def busy_box() -> dict[str, Any]:
    """The message box with the button that stops the answer."""
    return gr.update(submit_btn=False, stop_btn=True)


def save(page: PageContext, conversation: Conversation, language: str) -> str:
    """Save the conversation if this page saves any. Returns "" or, as HTML, why it could not be saved."""
    if page.library is None:
        return ""
    try:
        page.library.conversations.save(conversation)
    except AppError as error:
        logger.warning("%s", error)
        return message(error.text(language), "error")
    return ""


def branch_update(page: PageContext, conversation: Conversation, language: str) -> dict[str, Any]:
    """The choice of branches, named by their last question and answer. Hidden while there is only one."""
    ends = conversation.ends
    if len(ends) < 2:
        return gr.update(choices=[], value=None, visible=False)
    choices = []
    for index, end in enumerate(ends):
        last = [
            shortened(m.text, 40) or page.texts.say("a_picture", language) for m in conversation.at(end.id).path[-2:]
        ]
        choices.append((f"{index + 1}. {' → '.join(last)}", end.id))
    selected = conversation.head if conversation.head in {end.id for end in ends} else None
    return gr.update(choices=choices, value=selected, visible=True)


def context_html(page: PageContext, usage: Usage | None, language: str) -> str:
    """How much of the model's context window the conversation fills."""
    if usage is None:
        return ""
    used = usage.prompt_tokens + usage.new_tokens
    line = page.texts.say("context_used", language, used=f"{used:,}", context=f"{usage.context:,}")
    return meter(line, used / usage.context, page.texts.say("context", language))
