"""The list of saved conversations beside the chat: search, and for each a menu to rename, export and delete it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from html import escape
from pathlib import Path

import gradio as gr

from janus_app.errors import AppError
from janus_app.outputs.conversation_export import export
from janus_app.outputs.conversations import Conversation, Conversations
from janus_app.ui.common.actions import DOWNLOAD, BrowserDownload
from janus_app.ui.common.html import message
from janus_app.ui.context import NOTIFYING, QUICK, PageContext, Updates, Values, attach
from janus_app.ui.tabs.chat.bubbles import icon
from janus_app.ui.tabs.chat.panels import Sidebar

LISTED = 20  # conversations listed at once
MENU = (  # of a conversation: act, text, icon
    ("rename", "rename", "M4 20h4L19 9l-4-4L4 16zM13.5 6.5l4 4"),
    ("md", "export_md", "M12 4v11M7 11l5 5 5-5M5 20h14"),
    ("json", "export_json", "M12 4v11M7 11l5 5 5-5M5 20h14"),
    ("delete", "delete", "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13"),
)


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
        """At most `limit` conversations that contain the words sought, with the open one marked."""
        language, say, side = self.page.language(request), self.page.texts.say, self.side
        words, current = (values[side.search] or "").strip(), values[self.conversation]
        all_stored = self.store.find()
        found = self.store.find(words).conversations if words else all_stored.conversations
        note = ""
        if not found:
            note = message(say("no_conversations_found" if words else "no_conversations", language))
        if damaged := all_stored.damaged:
            line = say("conversations_damaged", language, count=len(damaged), names=", ".join(damaged[:3]))
            note += message(line, "warning")
        return {
            side.rows: list_html(self.page, found[:limit], current.id, language),
            side.note: note,
            side.more: gr.update(visible=len(found) > limit),
        }

    def rename(self, request: gr.Request, event: gr.EventData) -> None:
        try:
            self.store.rename(str(event.id), str(event.title))
        except AppError as error:
            gr.Warning(error.text(self.page.language(request)))

    def remove(self, request: gr.Request, event: gr.EventData) -> None:
        """Delete a conversation that is not the open one."""
        try:
            self.store.delete(str(event.id))
        except AppError as error:
            gr.Warning(error.text(self.page.language(request)))

    def exported(self, values: Values, request: gr.Request, event: gr.EventData) -> str | None:
        """The branch on view of the open conversation, or the last one of another, as a file."""
        current, kind = values[self.conversation], "json" if event.kind == "json" else "md"
        try:
            stored = self.store.open(str(event.id))
            shown = stored.at(current.head) if stored.id == current.id else stored
            return str(export(shown, kind, self.page.images.new_folder()))
        except AppError as error:
            gr.Warning(error.text(self.page.language(request)))
            return None

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


def list_html(page: PageContext, found: Sequence[Conversation], current: str, language: str) -> str:
    """The conversations by age, and the one menu that opens at each of them."""

    def say(key: str) -> str:
        return escape(page.texts.say(key, language), quote=True)

    rows, heading = "", ""
    for one in found:
        if (age := _age(one.changed)) != heading:
            heading = age
            rows += f'<li class="age">{say(age)}</li>'
        name, about = escape(one.name or page.texts.say("untitled", language), quote=True), escape(one.id, quote=True)
        on_view = ' aria-current="true"' if one.id == current else ""
        rows += (
            f'<li data-id="{about}"{on_view}><button type="button" class="row" title="{name}">{name}</button>'
            f'<button type="button" class="of-row" aria-haspopup="true" aria-label="{say("menu_of")} {name}">'
            f"{DOTS}</button></li>"
        )
    items = "".join(
        f'<button type="button" data-act="{act}">{icon(shape)}{say(text)}</button>' for act, text, shape in MENU
    )
    sure = (
        f'<div class="sure" hidden><p>{say("delete_conversation")}</p><button type="button" data-act="yes">'
        f'{say("delete_yes")}</button><button type="button" data-act="no">{say("delete_no")}</button></div>'
    )
    menu = f'<div id="chat-list-menu" popover><div class="items">{items}</div>{sure}</div>'
    return f'<ul aria-label="{say("conversations")}" data-name="{say("conversation_name")}">{rows}</ul>{menu}'


DOTS = icon("M5 11h2v2H5zM11 11h2v2h-2zM17 11h2v2h-2z")


def _age(changed: str) -> str:
    """The heading of a conversation that changed at this moment."""
    try:
        days = (datetime.now().date() - datetime.fromisoformat(changed).astimezone().date()).days
    except (ValueError, OSError, OverflowError):
        return "age_older"
    return "age_today" if days <= 0 else "age_yesterday" if days == 1 else "age_week" if days < 7 else "age_older"


def wire(handlers: SidebarHandlers, browser: BrowserDownload) -> None:
    """Connect the events that leave the open conversation as it is."""
    side, listed = handlers.side, handlers.side.listed
    outputs = {side.search, handlers.conversation}
    attach(side.search.change, handlers.search, outputs, {side.limit, *listed}, **QUICK)
    attach(side.more.click, handlers.more, {side.limit, *outputs}, {side.limit, *listed}, **QUICK)
    for event, change in ((side.rows.rename, handlers.rename), (side.rows.remove, handlers.remove)):
        changed = attach(event, change, None, None, **NOTIFYING)
        attach(changed.then, handlers.listing, {side.limit, *outputs}, listed, **QUICK)
    exported = attach(side.rows.export, handlers.exported, {handlers.conversation}, browser.file, **NOTIFYING)
    exported.then(None, browser.file, None, js=DOWNLOAD)
