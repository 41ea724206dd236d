"""The work behind a message of the chat tab: an answer, or for /draw and /edit a picture, streamed into the widgets."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.outputs.conversations import ChatMessage, Conversation, new_conversation, new_id, shortened
from janus_app.types import ChatRequest, EditRequest, GenerateRequest, Usage
from janus_app.ui.common.drawing import draw
from janus_app.ui.common.html import message, messages, meter
from janus_app.ui.common.jobs import Frame, watch
from janus_app.ui.context import PageContext, number, whole_number
from janus_app.ui.tabs.chat.transcript import command, drawing, editing, pictures_of, shown, turns

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scene:
    """What the chat tab shows now, in the order of its outputs; a part not given stays as it is."""

    bot: Any = field(default_factory=gr.skip)
    talk: Any = field(default_factory=gr.skip)
    box: Any = field(default_factory=gr.skip)
    status: Any = field(default_factory=gr.skip)
    notes: Any = field(default_factory=gr.skip)
    context: Any = field(default_factory=gr.skip)
    retry: Any = field(default_factory=gr.skip)
    clear: Any = field(default_factory=gr.skip)
    branch: Any = field(default_factory=gr.skip)
    panel: Any = field(default_factory=gr.skip)

    def row(self) -> tuple[Any, ...]:
        return tuple(getattr(self, part.name) for part in fields(self))

    def then(self, **later: Any) -> Scene:
        """This scene with parts given anew."""
        return replace(self, **{name: part for name, part in later.items() if part != gr.skip()})


Scenes = Generator[Scene, None, None]


def reply(
    page: PageContext,
    before: Conversation,
    asked: ChatMessage,
    settings: list[Any],
    request: gr.Request,
    give_back: bool = True,
) -> Iterator[tuple[Any, ...]]:
    """Answer `asked`, which joins `before` in its place. Where it is refused, `before` is shown again.

    `give_back` puts a refused question into its box, so that nothing typed is lost.
    """
    language = page.language(request)
    on, off = gr.update(interactive=True), gr.update(interactive=False)
    talk = (before if before.id else new_conversation()).with_message(asked)
    thinking = message(page.texts.say("reading", language))
    busy = gr.MultimodalTextbox(value={"text": "", "files": []}, submit_btn=False, stop_btn=True)
    history = shown(talk, page, language, waiting=True)
    yield Scene(history, talk, busy, thinking, "", retry=off, clear=off).row()
    work = _picture if command(asked.text) else _answer
    trouble, last, so_far = "", talk, Scene()
    try:
        with closing(work(page, talk, settings, language, thinking)) as scenes:
            for scene in scenes:
                if isinstance(scene.talk, Conversation):
                    last = scene.talk
                so_far = so_far.then(**vars(scene))
                yield scene.row()
    finally:  # also where Stop or a closed tab ends the work midway
        if last is not talk:
            trouble = save(page, last, language)
    if last is talk:  # refused: nothing came of it
        back: dict[str, Any] = {"text": asked.text, "files": list(asked.pictures)}
        box = gr.MultimodalTextbox(value=back, submit_btn=True, stop_btn=False) if give_back else idle_box()
        yield Scene(shown(before, page, language), before, box, retry=on, clear=on).row()
        return
    # Programs read the last answer alone, so it says everything once more.
    ready = {"box": idle_box(), "notes": trouble or gr.skip(), "retry": on, "clear": on}
    yield so_far.then(**ready, **around(page, last, language)).row()


def _answer(page: PageContext, talk: Conversation, settings: list[Any], language: str, thinking: str) -> Scenes:
    """Words, as they come. A scene with a `talk` holds some of the answer; without any the question was refused."""

    def make() -> Any:
        temperature, top_p, length, seed, selected = settings
        chat = ChatRequest(
            turns=turns(talk),
            temperature=number(temperature, "input_temperature"),
            top_p=number(top_p, "input_top_p"),
            seed=whole_number(seed, "input_seed"),
            max_new_tokens=whole_number(length, "input_max_new_tokens"),
        )
        return page.job(selected, chat)

    frame, answer = Frame(), ChatMessage(new_id(), talk.head, "assistant", "")
    for frame in watch(make, page.texts, language):
        notes = messages(frame.notices)
        if not frame.text:
            yield Scene(status=frame.status or thinking, notes=notes)
            continue
        resident = page.loaded_variant()
        answer = ChatMessage(answer.id, talk.head, "assistant", frame.text, model=resident.title if resident else "")
        answered = talk.with_message(answer)
        yield Scene(shown(answered, page, language), answered, status=frame.status, notes=notes)
    if frame.finished and not frame.text:  # the model had nothing to say, which is an answer too
        answered = talk.with_message(answer)
        yield Scene(shown(answered, page, language), answered, status="")
    if frame.error:
        yield Scene(status="", notes=messages(frame.notices) + message(frame.error, "error"))
    if frame.finished:
        yield Scene(context=context_html(page, frame.finished.usage, language))


def _picture(page: PageContext, talk: Conversation, settings: list[Any], language: str, thinking: str) -> Scenes:
    """A picture, seen as it grows below the conversation and put into it when it is done."""
    verb, words = command(talk.path[-1].text) or ("draw", "")
    selected = settings[-1]
    variant = page.variant(selected)

    def make() -> GenerateRequest | EditRequest:
        if verb == "draw":
            return drawing(words, variant)
        return editing(words, talk, variant, page.session.state.capabilities)

    try:
        wanted = make()
    except AppError as error:
        yield Scene(status="", notes=message(page.texts.sentence(str(error), language), "error"))
        return
    about = ""
    if isinstance(wanted, EditRequest) and (able := page.session.state.capabilities):
        about = message(page.texts.sentence(able.edit_methods.get(wanted.method, ""), language))
    sheet = ""
    for view in draw(page, selected, lambda: wanted, language):
        sheet = sheet if view.preview_grid is None else view.preview_grid
        if not view.saved:
            yield Scene(status=sheet + view.status, notes=about + view.notes)
            continue
        pictures = tuple(print_.shown for print_ in view.saved)
        drawn = talk.with_message(
            ChatMessage(new_id(), talk.head, "assistant", "", pictures, view.saved[0].record.title)
        )
        yield Scene(shown(drawn, page, language), drawn, status=view.status, notes=about + view.notes)


def save(page: PageContext, talk: Conversation, language: str) -> str:
    """Keep the conversation, where this page keeps any; "" or the message that says why it could not be kept."""
    if page.library is None:
        return ""
    try:
        page.library.conversations.save(talk)
    except AppError as error:
        logger.warning("%s", error)
        return message(page.texts.sentence(str(error), language), "error")
    return ""


def idle_box() -> gr.MultimodalTextbox:
    return gr.MultimodalTextbox(submit_btn=True, stop_btn=False)


def around(page: PageContext, talk: Conversation, language: str) -> dict[str, Any]:
    """The parts of a scene that follow from the whole conversation: its branches, and the row for its picture."""
    return {"branch": branch_update(page, talk, language), "panel": gr.update(visible=bool(pictures_of(talk)))}


def branch_update(page: PageContext, talk: Conversation, language: str) -> dict[str, Any]:
    """The choice among branches: what each was last asked and answered. Unseen while there is one."""
    ends = talk.ends
    if len(ends) < 2:
        return gr.update(choices=[], value=None, visible=False)
    choices = []
    for index, end in enumerate(ends):
        last = [shortened(m.text, 40) or page.texts.say("a_picture", language) for m in talk.at(end.id).path[-2:]]
        choices.append((f"{index + 1}. {' → '.join(last)}", end.id))
    known = {end.id for end in ends}
    return gr.update(choices=choices, value=talk.head if talk.head in known else None, visible=True)


def context_html(page: PageContext, usage: Usage | None, language: str) -> str:
    """How full the model's memory of the conversation is."""
    if usage is None:
        return ""
    used = usage.prompt_tokens + usage.new_tokens
    line = page.texts.say("context_used", language, used=f"{used:,}", context=f"{usage.context:,}")
    return meter(line, used / usage.context, page.texts.say("context", language))
