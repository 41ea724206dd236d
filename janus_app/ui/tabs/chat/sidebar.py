"""The list of kept conversations beside the chat: find, open, name, export and delete them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from janus_app.errors import AppError
from janus_app.outputs.conversation_export import export
from janus_app.outputs.conversations import Conversation
from janus_app.outputs.library import Library
from janus_app.ui.common.actions import BrowserDownload, download
from janus_app.ui.common.html import message
from janus_app.ui.context import QUICK, PageContext

SHOWN = 20  # conversations listed at once


@dataclass(frozen=True)
class Side:
    """`rows` is the list; `parts` are what `side_updates` fills, from `asked`."""

    rows: gr.Radio
    search: gr.Textbox
    limit: gr.State
    delete_yes: gr.Button
    name: gr.Textbox
    parts: list[Any]

    @property
    def asked(self) -> list[Any]:
        return [self.search, self.limit]


def build(page: PageContext, talk: gr.State, browser: BrowserDownload) -> Side:
    """The panel. What opens or deletes a conversation is wired by the chat tab, which shows it."""
    label = page.texts.label
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
        more = gr.Button(label("show_more"), size="sm", visible=False, elem_id="chat-more", min_width=60)
        with gr.Column(visible=False, elem_id="chat-this", elem_classes="chat-this") as this:
            name = gr.Textbox(
                label=label("conversation_name"), elem_id="chat-name", max_lines=1, info=label("conversation_name_info")
            )
            with gr.Row(elem_classes="actions"):
                markdown = gr.Button(label("export_md"), size="sm", elem_id="chat-export-md", min_width=60)
                as_json = gr.Button(label("export_json"), size="sm", elem_id="chat-export-json", min_width=60)
                delete = gr.Button(label("delete"), size="sm", elem_id="chat-delete", min_width=60)
            with gr.Column(visible=False, elem_classes="sure") as sure:
                asked = gr.HTML(elem_id="chat-sure", padding=False)
                with gr.Row(elem_classes="actions"):
                    yes = gr.Button(
                        label("delete_yes"), size="sm", variant="stop", elem_id="chat-delete-yes", min_width=60
                    )
                    no = gr.Button(label("delete_no"), size="sm", elem_id="chat-delete-no", min_width=60)
    limit = gr.State(SHOWN)
    parts = [rows, note, more, this, name, sure]
    side = Side(rows, search, limit, yes, name, parts)

    def sought(words: str, now: Conversation, request: gr.Request) -> tuple[Any, ...]:
        return SHOWN, *side_updates(page, now, words, SHOWN, page.language(request))

    def further(words: str, count: int, now: Conversation, request: gr.Request) -> tuple[Any, ...]:
        count += SHOWN
        return count, *side_updates(page, now, words, count, page.language(request))

    def renamed(title: str, words: str, count: int, now: Conversation, request: gr.Request) -> tuple[Any, ...]:
        language = page.language(request)
        store = library_of(page).conversations
        try:
            if now.messages and title.strip() != store.open(now.id).name:  # leaving the box unchanged names nothing
                store.rename(now.id, title)
        except AppError as error:
            gr.Warning(page.texts.sentence(str(error), language))
        return side_updates(page, now, words, count, language)

    def ask(request: gr.Request) -> tuple[Any, ...]:
        line = page.texts.say("delete_conversation", page.language(request))
        return gr.update(visible=True), message(line, "warning")

    def taken(kind: str) -> Any:
        def take(now: Conversation) -> Path:
            stored = library_of(page).conversations.open(now.id)
            return export(stored.at(now.head), kind, page.images.new_folder())

        return take

    search.change(sought, [search, talk], [limit, *parts], **QUICK)
    more.click(further, [search, limit, talk], [limit, *parts], **QUICK)
    name.submit(renamed, [name, search, limit, talk], parts, **QUICK)
    name.blur(renamed, [name, search, limit, talk], parts, **QUICK)
    delete.click(ask, None, [sure, asked], **QUICK)
    no.click(lambda: gr.update(visible=False), None, sure, **QUICK)
    download(page, markdown.click, taken("md"), {talk}, browser)
    download(page, as_json.click, taken("json"), {talk}, browser)
    return side


def library_of(page: PageContext) -> Library:
    assert page.library is not None  # the panel is built only where there is one
    return page.library


def side_updates(page: PageContext, talk: Conversation, words: str, limit: int, language: str) -> tuple[Any, ...]:
    """The list as it stands, the open conversation chosen in it: updates of `Side.parts`."""
    say, store, words = page.texts.say, library_of(page).conversations, (words or "").strip()
    listing = store.find()
    found = store.find(words).conversations if words else listing.conversations
    rows = [(c.name or say("untitled", language), c.id) for c in found[:limit]]
    stored = next((c for c in listing.conversations if c.id == talk.id), None)
    note = ""
    if not found:
        note = message(say("no_conversations_found" if words else "no_conversations", language))
    if listing.damaged:
        line = say("conversations_damaged", language, count=len(listing.damaged), names=", ".join(listing.damaged[:3]))
        note += message(line, "warning")
    return (
        gr.update(choices=rows, value=talk.id if any(value == talk.id for _, value in rows) else None),
        note,
        gr.update(visible=len(found) > limit),
        gr.update(visible=stored is not None),
        stored.name if stored else "",
        gr.update(visible=False),
    )


def served(page: PageContext, talk: Conversation) -> Conversation:
    """A stored conversation with its pictures where the page may show them; a lost one keeps its place."""

    def at(path: str) -> str:
        try:
            return page.images.serve_again(Path(path))
        except OSError:
            return str(page.images.serving / Path(path).name)  # leads nowhere, under the name it was kept by

    messages = tuple(replace(m, pictures=tuple(at(path) for path in m.pictures)) for m in talk.messages)
    return replace(talk, messages=messages)
