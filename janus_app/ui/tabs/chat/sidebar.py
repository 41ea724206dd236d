"""The list of saved conversations beside the chat: search, rename and export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import gradio as gr

from janus_app.errors import AppError
from janus_app.outputs.conversation_export import export
from janus_app.outputs.conversations import Conversation, Conversations
from janus_app.ui.common.actions import BrowserDownload, download
from janus_app.ui.common.html import message
from janus_app.ui.context import NOTIFYING, QUICK, PageContext, Updates, Values, attach
from janus_app.ui.tabs.chat.panels import Sidebar

LISTED = 20  # conversations listed at once


@dataclass(frozen=True, eq=False)
class SidebarHandlers:
    """`conversation` holds the open Conversation."""

    page: PageContext
    store: Conversations
    side: Sidebar
    conversation: gr.State

    def listing(self, values: Values, request: gr.Request) -> Updates:
        return self._listing(values, values[self.side.limit], request)

    def search(self, values: Values, request: gr.Request) -> Updates:
        return {self.side.limit: LISTED, **self._listing(values, LISTED, request)}

    def more(self, values: Values, request: gr.Request) -> Updates:
        limit = values[self.side.limit] + LISTED
        return {self.side.limit: limit, **self._listing(values, limit, request)}

    def _listing(self, values: Values, limit: int, request: gr.Request) -> Updates:
        """At most `limit` conversations that contain the words sought, with the open one selected."""
        language, say, side = self.page.language(request), self.page.texts.say, self.side
        words, current = (values[side.search] or "").strip(), values[self.conversation]
        all_stored = self.store.find()
        found = self.store.find(words).conversations if words else all_stored.conversations
        rows = [(c.name or say("untitled", language), c.id) for c in found[:limit]]
        stored = next((c for c in all_stored.conversations if c.id == current.id), None)
        note = ""
        if not found:
            note = message(say("no_conversations_found" if words else "no_conversations", language))
        if damaged := all_stored.damaged:
            line = say("conversations_damaged", language, count=len(damaged), names=", ".join(damaged[:3]))
            note += message(line, "warning")
        return {
            side.rows: gr.update(choices=rows, value=current.id if current.id in (id_ for _, id_ in rows) else None),
            side.note: note,
            side.more: gr.update(visible=len(found) > limit),
            side.current: gr.update(visible=stored is not None),
            side.name: stored.name if stored else "",
            side.sure: gr.update(visible=False),
        }

    def rename(self, values: Values, request: gr.Request) -> Updates:
        current, title = values[self.conversation], values[self.side.name]
        try:
            # A box that was left unchanged holds the first words, which are not to become a title.
            if current.messages and title.strip() != self.store.open(current.id).name:
                self.store.rename(current.id, title)
        except AppError as error:
            gr.Warning(error.text(self.page.language(request)))
        return self.listing(values, request)

    def ask_delete(self, request: gr.Request) -> Updates:
        question = self.page.texts.say("delete_conversation", self.page.language(request))
        return {self.side.sure: gr.update(visible=True), self.side.question: message(question, "warning")}

    def keep(self) -> Updates:
        return {self.side.sure: gr.update(visible=False)}

    def exporter(self, kind: str) -> Callable[[Values], Path]:
        """Exports the shown branch of the open conversation as "md" or "json"."""

        def make(values: Values) -> Path:
            current = values[self.conversation]
            return export(self.store.open(current.id).at(current.head), kind, self.page.images.new_folder())

        return make

    def open(self, name: str) -> Conversation:
        """A saved conversation with its pictures where the page may serve them. Raises AppError."""
        stored = self.store.open(name)
        messages = tuple(replace(m, pictures=tuple(map(self._served, m.pictures))) for m in stored.messages)
        return replace(stored, messages=messages)

    def _served(self, path: str) -> str:
        try:
            return self.page.images.serve_again(Path(path))
        except OSError:  # the picture is lost: a path that does not exist, but shows the name
            return str(self.page.images.serving / Path(path).name)


def wire(handlers: SidebarHandlers, browser: BrowserDownload) -> None:
    """Connect the events that leave the open conversation as it is."""
    side, listed = handlers.side, handlers.side.listed
    outputs = {side.search, handlers.conversation}
    attach(side.search.change, handlers.search, outputs, {side.limit, *listed}, **QUICK)
    attach(side.more.click, handlers.more, {side.limit, *outputs}, {side.limit, *listed}, **QUICK)
    for event in (side.name.submit, side.name.blur):
        attach(event, handlers.rename, {side.name, side.limit, *outputs}, listed, **NOTIFYING)
    attach(side.delete.click, handlers.ask_delete, None, {side.sure, side.question}, **QUICK)
    attach(side.delete_no.click, handlers.keep, None, {side.sure}, **QUICK)
    download(handlers.page, side.markdown.click, handlers.exporter("md"), {handlers.conversation}, browser)
    download(handlers.page, side.json.click, handlers.exporter("json"), {handlers.conversation}, browser)
