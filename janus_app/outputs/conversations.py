"""Stored conversations: one folder each, with a JSON file and the pictures of its messages.

    conversations/2026-11-21_1f0c9ab2/
        conversation.json    the messages, as a tree: an edited question or a second answer starts a new branch
        pictures/<hash>.png  an exact copy of every picture in a message

Messages are only ever added. Two programs that have the same conversation open therefore lose nothing: the one that
saves second keeps what the first one wrote.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import threading
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from janus_app.errors import AppError, Message
from janus_app.files import file_lock, os_errors_as_app_errors, write_atomically
from janus_app.outputs.image_io import MAX_BYTES, read_bounded

SCHEMA = 1
FILE, PICTURES = "conversation.json", "pictures"
MAX_TITLE = 120
MAX_MESSAGES = 20_000
_ID = re.compile(r"\d{4}-\d\d-\d\d_[0-9a-f]{8}")
_PICTURE = re.compile(r"^[0-9a-f]{16}\.[a-z0-9]{1,5}$")  # never a path that leaves the folder
UNREADABLE = (OSError, ValueError, RecursionError, AppError)  # of a damaged file; ValidationError is a ValueError

Role = Literal["user", "assistant"]


@dataclass(frozen=True)
class ChatMessage:
    """One message. `parent` is the id of the message before it, "" for none; `pictures` are paths of files."""

    id: str
    parent: str
    role: Role
    text: str
    pictures: tuple[str, ...] = ()
    model: str = ""
    created: str = ""


@dataclass(frozen=True)
class Conversation:
    """A tree of messages. `head` is the last message on view, and its ancestors the ones before it."""

    id: str
    title: str = ""
    created: str = ""
    changed: str = ""
    messages: tuple[ChatMessage, ...] = ()
    head: str = ""

    @property
    def path(self) -> tuple[ChatMessage, ...]:
        """The messages on view, first to last."""
        known = {message.id: message for message in self.messages}
        found: list[ChatMessage] = []
        at = self.head
        while at in known and len(found) < len(known):  # a damaged file may contain a cycle
            found.append(known[at])
            at = known[at].parent
        return tuple(reversed(found))

    @property
    def ends(self) -> tuple[ChatMessage, ...]:
        """The last message of every branch, oldest branch first."""
        parents = {message.parent for message in self.messages}
        return tuple(message for message in self.messages if message.id not in parents)

    @property
    def name(self) -> str:
        """The title, else the first words of the first message with text; may be empty."""
        return self.title or next((shortened(m.text) for m in self.messages if m.text.strip()), "")

    def at(self, head: str) -> Conversation:
        """The same tree with another head; "" shows no message."""
        return replace(self, head=head)

    def with_message(self, message: ChatMessage) -> Conversation:
        """With `message` added, or in place of the one with its id, and as the head."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        message = replace(message, created=message.created or now)
        others = tuple(message if m.id == message.id else m for m in self.messages)
        if message not in others:
            others = (*others, message)
        return replace(self, messages=others, head=message.id, changed=now, created=self.created or now)


def new_conversation() -> Conversation:
    """An empty conversation. It is stored with its first message."""
    return Conversation(f"{datetime.now():%Y-%m-%d}_{secrets.token_hex(4)}")


def new_id() -> str:
    return secrets.token_hex(4)


def shortened(text: str, most: int = 60) -> str:
    """The first words of the first line, as a title of at most `most` characters."""
    line = " ".join((text.strip().splitlines() or [""])[0].split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


@dataclass(frozen=True)
class Listing:
    """`conversations` newest first; `damaged` are names of folders whose file could not be read."""

    conversations: tuple[Conversation, ...]
    damaged: tuple[str, ...] = ()


class Conversations:
    """The stored conversations in one folder. Safe for several threads and several processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[Path, tuple[tuple[int, ...], Conversation]] = {}
        self._guard = threading.Lock()
        self._deleted: set[str] = set()  # a late answer must not store its conversation again

    def find(self, words: str = "") -> Listing:
        """The conversations in whose title and messages every word occurs; all of them for no words."""
        terms = words.casefold().split()
        found, damaged = [], []
        for folder in self._folders():
            try:
                conversation = self._load(folder)
            except FileNotFoundError:
                continue  # being deleted, or not a conversation
            except UNREADABLE:
                damaged.append(folder.name)
                continue
            text = "\n".join((conversation.title, *(m.text for m in conversation.messages))).casefold()
            if all(word in text for word in terms):
                found.append(conversation)
        found.sort(key=lambda c: _moment(c.changed), reverse=True)
        return Listing(tuple(found), tuple(sorted(damaged)))

    def open(self, name: str) -> Conversation:
        """The conversation with the id `name`. The file of a picture may have been deleted.

        Raises AppError where the conversation is gone or its file is damaged.
        """
        folder = self._path(name)
        try:
            return self._load(folder)
        except FileNotFoundError:
            raise AppError("conversation_gone") from None
        except UNREADABLE as error:
            reason = getattr(error, "strerror", None) or Message("file_damaged")
            raise AppError("conversation_unreadable", file=folder / FILE, reason=reason) from None

    def save(self, conversation: Conversation) -> None:
        """Store it with copies of its pictures. Messages that another program added meanwhile stay. Raises AppError."""
        if not conversation.messages:
            return
        if conversation.id in self._deleted:
            raise AppError("conversation_deleted")
        folder = self._path(conversation.id)
        with os_errors_as_app_errors(Message("conversation_not_saved"), folder):
            (folder / PICTURES).mkdir(parents=True, exist_ok=True)
            messages = tuple(
                replace(m, pictures=tuple(_keep(Path(p), folder / PICTURES) for p in m.pictures))
                for m in conversation.messages
            )
            with file_lock(self.folder / ".lock"):
                self._write(folder, self._merged(folder, replace(conversation, messages=messages)))

    def rename(self, name: str, title: str) -> None:
        """Set the title; with an empty one the first words are shown again. Raises AppError."""
        title = " ".join(title.split())[:MAX_TITLE]
        folder = self._path(name)
        with os_errors_as_app_errors(Message("conversation_not_renamed"), folder), file_lock(self.folder / ".lock"):
            self._write(folder, replace(self.open(name), title=title))

    def delete(self, name: str) -> None:
        """Delete it with its pictures. Raises AppError."""
        folder = self._path(name)
        gone = folder.with_name(f".deleted-{folder.name}-{secrets.token_hex(4)}")
        with os_errors_as_app_errors(Message("conversation_not_deleted"), self.folder):
            self._deleted.add(name)
            try:
                folder.rename(gone)  # in one step, so no reader sees a part of it
            except FileNotFoundError:
                return
            except OSError:
                self._deleted.discard(name)
                raise
            shutil.rmtree(gone)

    def _folders(self) -> list[Path]:
        try:
            with os.scandir(self.folder) as entries:
                return [Path(entry.path) for entry in entries if _ID.fullmatch(entry.name) and entry.is_dir()]
        except OSError:
            return []

    def _path(self, name: str) -> Path:
        if not _ID.fullmatch(name):  # ids come from a browser
            raise AppError("conversation_unknown")
        return self.folder / name

    def _load(self, folder: Path) -> Conversation:
        status = (folder / FILE).stat()
        key = (status.st_mtime_ns, status.st_size, status.st_ino)  # a replaced file has another inode
        with self._guard:
            known = self._read.get(folder)
        if known and known[0] == key:
            return known[1]
        conversation = _StoredConversation.model_validate(
            json.loads(read_bounded(folder / FILE, MAX_BYTES))
        ).conversation(folder)
        with self._guard:
            self._read[folder] = (key, conversation)
        return conversation

    def _merged(self, folder: Path, mine: Conversation) -> Conversation:
        """`mine` with what only the file has: its title, and messages that another program added."""
        try:
            theirs = self._load(folder)
        except FileNotFoundError:
            return mine
        except UNREADABLE:
            # A damaged file is renamed, not overwritten: its text may still be recovered.
            os.replace(folder / FILE, folder / f"damaged-{secrets.token_hex(4)}.json")
            return mine
        own = {message.id for message in mine.messages}
        messages = [*(m for m in theirs.messages if m.id not in own), *mine.messages]
        messages.sort(key=lambda message: _moment(message.created))
        return replace(mine, title=theirs.title, messages=tuple(messages))

    def _write(self, folder: Path, conversation: Conversation) -> None:
        data = {"schema": SCHEMA} | asdict(conversation)
        for message in data["messages"]:
            message["pictures"] = [Path(path).name for path in message["pictures"]]
        write_atomically(folder / FILE, json.dumps(data, ensure_ascii=True, indent=1).encode("ascii"))


def _moment(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OSError, OverflowError):
        return 0.0


def _keep(source: Path, folder: Path) -> str:
    """Copy a picture to a name made of the hash of its content, unless that exists; returns the path of the copy."""
    if source.parent == folder and _PICTURE.fullmatch(source.name):
        return str(source)
    suffix = re.sub(r"[^a-z0-9]", "", source.suffix.lower())[:5] or "png"
    if re.fullmatch(r"[0-9a-f]{16}", source.stem):  # served from a stored picture, so its name is the hash
        stored = folder / f"{source.stem}.{suffix}"
        if stored.is_file():
            return str(stored)
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        return str(folder / f"{'0' * 16}.{suffix}")  # deleted meanwhile; the text is stored without it
    target = folder / f"{hashlib.sha256(content).hexdigest()[:16]}.{suffix}"
    if not target.is_file():
        write_atomically(target, content)
    return str(target)


MessageId = Annotated[str, Field(pattern="^[0-9a-f]{8}$")]
ParentId = Annotated[str, Field(pattern="^([0-9a-f]{8})?$")]
PictureName = Annotated[str, Field(pattern=_PICTURE.pattern)]


class _StoredMessage(BaseModel):
    model_config = ConfigDict(strict=True)

    id: MessageId
    parent: ParentId
    role: Role
    text: str
    pictures: list[PictureName]
    model: str
    created: str


class _StoredConversation(BaseModel):
    model_config = ConfigDict(strict=True)

    version: Literal[1] = Field(alias="schema")
    title: str
    created: str
    changed: str
    messages: Annotated[list[_StoredMessage], Field(max_length=MAX_MESSAGES)]
    head: str

    def conversation(self, folder: Path) -> Conversation:
        """As a conversation whose pictures are paths of the files in `folder`."""
        messages = tuple(
            ChatMessage(**dict(m) | {"pictures": tuple(str(folder / PICTURES / name) for name in m.pictures)})
            for m in self.messages
        )
        return Conversation(folder.name, self.title[:MAX_TITLE], self.created, self.changed, messages, self.head)
