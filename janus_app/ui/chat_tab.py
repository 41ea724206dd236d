"""The chat tab: talk with the loaded model about pictures; several of each, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from janus_app.models.base import MAX_PROMPT_CHARACTERS, ChatRequest, Turn, Usage
from janus_app.pictures import open_picture
from janus_app.ui.html import message, messages, meter
from janus_app.ui.jobs import Frame, watch
from janus_app.ui.page import EXAMPLES, JOB, PRIVATE, QUICK, Page, example_updates, number, public, slider_update, whole

SETTINGS = ("chat_temperature", "top_p", "max_new_tokens")


@dataclass(frozen=True)
class Said:
    """One message as this browser tab keeps it: pictures as paths of files the page already serves."""

    role: str
    text: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChatTab:
    """`box` receives pictures from the other tabs."""

    box: gr.MultimodalTextbox


def build(page: Page, variant: gr.Dropdown, seen: gr.Textbox, demo: gr.Blocks) -> ChatTab:
    label = page.texts.label
    talk = gr.State([])
    with gr.Column(elem_classes="chat-column"):
        bot = gr.Chatbot(
            label=label("conversation"),
            show_label=False,
            elem_id="chat-bot",
            height="max(280px, calc(100vh - 540px))",
            layout="bubble",
            buttons=["copy", "copy_all"],
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
        with gr.Row(elem_classes="actions"):
            retry = gr.Button(label("retry"), size="sm", elem_id="chat-retry", min_width=90)
            clear = gr.Button(label("new_chat"), size="sm", elem_id="chat-clear", min_width=90)
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

    outputs = [bot, talk, box, status, notes, context, retry, clear]
    knobs = [temperature, top_p, length, seed, variant]

    def on_ask(
        value: dict[str, Any] | None, said: list[Said], t: Any, p: Any, n: Any, s: Any, v: Any, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        question = Said("user", (value or {}).get("text") or "", tuple((value or {}).get("files") or ()))
        yield from _answer(page, [*said, question], [t, p, n, s, v], request)

    def on_retry(
        said: list[Said], t: Any, p: Any, n: Any, s: Any, v: Any, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        last = max((i for i, turn in enumerate(said) if turn.role == "user"), default=-1)
        yield from _answer(page, said[: last + 1], [t, p, n, s, v], request)

    def stopped(said: list[Said], request: gr.Request) -> tuple[Any, ...]:
        line = message(page.texts.say("stopped", page.language(request)))
        return (
            shown(said),
            said,
            _idle_box(),
            line,
            gr.skip(),
            gr.skip(),
            gr.update(interactive=True),
            gr.update(interactive=True),
        )

    def cleared(request: gr.Request) -> tuple[Any, ...]:
        on = gr.update(interactive=True)
        return (
            [],
            [],
            gr.MultimodalTextbox(value={"text": "", "files": []}, submit_btn=True, stop_btn=False),
            "",
            "",
            "",
            on,
            on,
        )

    def refresh(selected: str | None, request: gr.Request) -> list[Any]:
        language = page.language(request)
        now = page.variant(selected)
        hint = "chat_empty" if "chat" in now.verbs else "chat_cannot"
        hello = f"<div class='empty'><strong>{escape(page.texts.say('chat_empty_title', language))}</strong><span>" + (
            escape(page.texts.say(hint, language, title=now.title)) + "</span></div>"
        )
        knobs = [slider_update(now.settings.get(name)) for name in SETTINGS]
        return [gr.update(placeholder=hello), *example_updates(now.prompts("chat", language)), *knobs]

    asking = box.submit(on_ask, [box, talk, *knobs], outputs, **public("chat"))
    retrying = retry.click(on_retry, [talk, *knobs], outputs, **JOB)
    redoing = bot.retry(on_retry, [talk, *knobs], outputs, **JOB)
    answers: list[Any] = [asking, retrying, redoing]
    # First the cancel, then what to show: a last frame on its way would overwrite it.
    box.stop(None, None, None, cancels=answers, **PRIVATE).then(stopped, talk, outputs, **QUICK)
    emptied = gr.on([clear.click, bot.clear], None, None, None, cancels=answers, **PRIVATE)
    emptied.then(cleared, None, outputs, **QUICK)
    for example in examples:
        example.click(_with_text, [example, box], box, **QUICK)
    for moment in (demo.load, seen.change):
        moment(refresh, variant, [bot, *examples, temperature, top_p, length], **QUICK)
    return ChatTab(box)


def _answer(page: Page, said: list[Said], settings: list[Any], request: gr.Request) -> Iterator[tuple[Any, ...]]:
    """Stream the answer to the last message of `said` into the tab's outputs."""
    language = page.language(request)
    question = said[-1] if said else Said("user", "")

    def make() -> Any:
        temperature, top_p, length, seed, selected = settings
        chat = ChatRequest(
            turns=tuple(_turn(turn) for turn in said),
            temperature=number(temperature, "Temperature"),
            top_p=number(top_p, "Top-p"),
            seed=whole(seed, "Seed"),
            max_new_tokens=whole(length, "The number of new tokens"),
        )
        return page.job(selected, chat)

    busy = gr.MultimodalTextbox(value={"text": "", "files": []}, submit_btn=False, stop_btn=True)
    off, on = gr.update(interactive=False), gr.update(interactive=True)
    thinking = message(page.texts.say("reading", language))
    yield shown([*said, Said("assistant", "…")]), said, busy, thinking, "", gr.skip(), off, off
    frame, answered = Frame(), said
    for frame in watch(make, page.texts, language):
        if frame.text:
            answered = [*said, Said("assistant", frame.text)]
        status = "" if frame.text else frame.status or thinking
        talk_now = shown(answered if frame.text else [*said, Said("assistant", "…")])
        yield talk_now, answered, gr.skip(), status, messages(frame.notices), gr.skip(), gr.skip(), gr.skip()
    box: Any = _idle_box()
    notes = messages(frame.notices)
    if frame.error:
        notes += message(frame.error, "error")
        if not frame.text:  # nothing may be lost: the question goes back into its box
            answered = said[:-1]
            box = gr.MultimodalTextbox(
                value={"text": question.text, "files": list(question.images)}, submit_btn=True, stop_btn=False
            )
    reading = context_html(page, frame.finished.usage, language) if frame.finished else gr.skip()
    yield shown(answered), answered, box, "", notes, reading, on, on


def _idle_box() -> gr.MultimodalTextbox:
    return gr.MultimodalTextbox(submit_btn=True, stop_btn=False)


def _turn(said: Said) -> Turn:
    pictures = tuple(open_picture(path) for path in said.images)
    role: Any = said.role
    return Turn(role, said.text, pictures)


def _with_text(text: str, box: dict[str, Any] | None) -> dict[str, Any]:
    """An example's words in the box, beside whatever pictures are already there."""
    return {"text": text, "files": (box or {}).get("files") or []}


def shown(said: list[Said]) -> list[dict[str, Any]]:
    """The conversation as the chat widget wants it; pictures before the words, as the model reads them."""
    history = []
    for turn in said:
        content: list[Any] = [{"path": path, "alt_text": f"picture {i + 1}"} for i, path in enumerate(turn.images)]
        if turn.text:
            content.append(turn.text)
        history.append({"role": turn.role, "content": content})
    return history


def context_html(page: Page, usage: Usage | None, language: str) -> str:
    """How full the model's memory of the conversation is."""
    if usage is None:
        return ""
    used = usage.prompt_tokens + usage.new_tokens
    line = page.texts.say("context_used", language, used=f"{used:,}", context=f"{usage.context:,}")
    return meter(line, used / usage.context, page.texts.say("context", language))
