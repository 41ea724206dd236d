"""Conversations that outlive the program: one folder each, a JSON file and the pictures beside it.

    conversations/2026-11-21_1f0c9ab2/
        conversation.json    the messages, as a tree: an edited question or a second answer is a new branch
        pictures/<hash>.png  every picture shown, byte for byte as it came

Messages are only ever added, so two programs that hold the same conversation lose nothing: who saves second keeps
what the first one wrote.
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
from typing import Any, Literal

from janus_app.errors import AppError
from janus_app.files import file_lock, os_errors_as_app_errors, write_atomically
from janus_app.outputs.image_io import MAX_BYTES, read_bounded

SCHEMA = 1
FILE, PICTURES = "conversation.json", "pictures"
MAX_TITLE = 120
MAX_MESSAGES = 20_000
_ID = re.compile(r"\d{4}-\d\d-\d\d_[0-9a-f]{8}")
_MESSAGE_ID = re.compile(r"[0-9a-f]{8}")
_PICTURE = re.compile(r"[0-9a-f]{16}\.[a-z0-9]{1,5}")
UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError, AppError)
NOT_SAVED = "The conversation was not saved"

Role = Literal["user", "assistant"]


@dataclass(frozen=True)
class ChatMessage:
    """One message. `parent` is the id of the one before it, "" for a first one; `pictures` are paths of files."""

    id: str
    parent: str
    role: Role
    text: str
    pictures: tuple[str, ...] = ()
    model: str = ""
    created: str = ""


@dataclass(frozen=True)
class Conversation:
    """A tree of messages and the one shown last, `head`: its ancestors are what is on view. `title` may be empty."""

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
        while at in known and len(found) < len(known):  # a damaged file may hold a circle
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
        """The title, else the first words said; empty where there are none."""
        return self.title or next((shortened(m.text) for m in self.messages if m.text.strip()), "")

    def at(self, head: str) -> Conversation:
        """The same tree with another message shown last; "" shows none."""
        return replace(self, head=head)

    def with_message(self, message: ChatMessage) -> Conversation:
        """With `message` added, or put in place of the one with its id, and shown last."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        message = replace(message, created=message.created or now)
        others = tuple(message if m.id == message.id else m for m in self.messages)
        if message not in others:
            others = (*others, message)
        return replace(self, messages=others, head=message.id, changed=now, created=self.created or now)


def new_conversation() -> Conversation:
    """An empty one; nothing is stored before something is said."""
    return Conversation(f"{datetime.now():%Y-%m-%d}_{secrets.token_hex(4)}")


def new_id() -> str:
    return secrets.token_hex(4)


def shortened(text: str, most: int = 60) -> str:
    """The first line's first words, as a title."""
    line = " ".join((text.strip().splitlines() or [""])[0].split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


@dataclass(frozen=True)
class Listing:
    """`conversations` newest first; `damaged` are names of folders whose file could not be read."""

    conversations: tuple[Conversation, ...]
    damaged: tuple[str, ...] = ()


class Conversations:
    """The folder they all lie in. Safe for several threads and several processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[Path, tuple[tuple[int, ...], Conversation]] = {}
        self._guard = threading.Lock()
        self._deleted: set[str] = set()  # an answer still on its way when its conversation goes must not bring it back

    def find(self, words: str = "") -> Listing:
        """The conversations in whose title and messages every word occurs; all of them for no words."""
        wanted = words.casefold().split()
        found, damaged = [], []
        for home in self._homes():
            try:
                conversation = self._load(home)
            except FileNotFoundError:
                continue  # being deleted, or not a conversation
            except UNREADABLE:
                damaged.append(home.name)
                continue
            text = "\n".join((conversation.title, *(m.text for m in conversation.messages))).casefold()
            if all(word in text for word in wanted):
                found.append(conversation)
        found.sort(key=lambda c: _moment(c.changed), reverse=True)
        return Listing(tuple(found), tuple(sorted(damaged)))

    def open(self, name: str) -> Conversation:
        """The conversation of that id, its pictures as paths of their files; a lost picture's path leads nowhere.

        Raises AppError where it is gone or its file is damaged.
        """
        home = self._home(name)
        try:
            return self._load(home)
        except FileNotFoundError:
            raise AppError("This conversation is no longer there. It may have been deleted in another tab.") from None
        except UNREADABLE as error:
            reason = getattr(error, "strerror", None) or "it is damaged"
            raise AppError(
                f"The conversation in {home / FILE} cannot be read: {reason}. It was left as it is; "
                "restore the file from a copy, or delete the folder."
            ) from None

    def save(self, conversation: Conversation) -> None:
        """Store it with copies of its pictures. Messages another program added meanwhile stay. Raises AppError."""
        if not conversation.messages:
            return
        if conversation.id in self._deleted:
            raise AppError("This conversation was deleted, so nothing more of it is kept. Start a new one.")
        home = self._home(conversation.id)
        with os_errors_as_app_errors(NOT_SAVED, home):
            (home / PICTURES).mkdir(parents=True, exist_ok=True)
            kept = tuple(
                replace(m, pictures=tuple(_keep(Path(p), home / PICTURES) for p in m.pictures))
                for m in conversation.messages
            )
            with file_lock(self.folder / ".lock"):
                self._write(home, self._merged(home, replace(conversation, messages=kept)))

    def rename(self, name: str, title: str) -> None:
        """Give it a title; an empty one brings its first words back. Raises AppError."""
        title = " ".join(title.split())[:MAX_TITLE]
        home = self._home(name)
        with os_errors_as_app_errors("The conversation was not renamed", home), file_lock(self.folder / ".lock"):
            self._write(home, replace(self.open(name), title=title))

    def delete(self, name: str) -> None:
        """Remove it with its pictures for good. Raises AppError."""
        home = self._home(name)
        gone = home.with_name(f".deleted-{home.name}-{secrets.token_hex(4)}")
        with os_errors_as_app_errors("The conversation was not deleted", self.folder):
            self._deleted.add(name)
            try:
                home.rename(gone)  # at once and whole, so nobody meets half of it
            except FileNotFoundError:
                return
            except OSError:
                self._deleted.discard(name)
                raise
            shutil.rmtree(gone)

    def _homes(self) -> list[Path]:
        try:
            with os.scandir(self.folder) as entries:
                return [Path(entry.path) for entry in entries if _ID.fullmatch(entry.name) and entry.is_dir()]
        except OSError:
            return []

    def _home(self, name: str) -> Path:
        if not _ID.fullmatch(name):  # it came from a browser
            raise AppError("There is no such conversation.")
        return self.folder / name

    def _load(self, home: Path) -> Conversation:
        seen = (home / FILE).stat()
        key = (seen.st_mtime_ns, seen.st_size, seen.st_ino)  # a replaced file is another inode
        with self._guard:
            known = self._read.get(home)
        if known and known[0] == key:
            return known[1]
        conversation = _checked(json.loads(read_bounded(home / FILE, MAX_BYTES)), home)
        with self._guard:
            self._read[home] = (key, conversation)
        return conversation

    def _merged(self, home: Path, mine: Conversation) -> Conversation:
        """`mine` with what the file already holds: its title, and messages that are only there."""
        try:
            theirs = self._load(home)
        except FileNotFoundError:
            return mine
        except UNREADABLE:
            # A damaged file is put aside, not written over: somebody may still rescue it.
            os.replace(home / FILE, home / f"damaged-{secrets.token_hex(4)}.json")
            return mine
        own = {message.id for message in mine.messages}
        messages = [*(m for m in theirs.messages if m.id not in own), *mine.messages]
        messages.sort(key=lambda message: _moment(message.created))
        return replace(mine, title=theirs.title, messages=tuple(messages))

    def _write(self, home: Path, conversation: Conversation) -> None:
        data = {"schema": SCHEMA} | asdict(conversation)
        for message in data["messages"]:
            message["pictures"] = [Path(path).name for path in message["pictures"]]
        write_atomically(home / FILE, json.dumps(data, ensure_ascii=True, indent=1).encode("ascii"))


def _moment(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OSError, OverflowError):
        return 0.0


def _keep(source: Path, folder: Path) -> str:
    """Copy a picture under a name made of its content, unless it is there; returns the copy's path."""
    if source.parent == folder and _PICTURE.fullmatch(source.name):
        return str(source)
    suffix = re.sub(r"[^a-z0-9]", "", source.suffix.lower())[:5] or "png"
    if re.fullmatch(r"[0-9a-f]{16}", source.stem):  # a served copy of what was kept before; its name says it all
        known = folder / f"{source.stem}.{suffix}"
        if known.is_file():
            return str(known)
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        return str(folder / f"{'0' * 16}.{suffix}")  # lost before it could be kept; the words are kept all the same
    kept = folder / f"{hashlib.sha256(content).hexdigest()[:16]}.{suffix}"
    if not kept.is_file():
        write_atomically(kept, content)
    return str(kept)


def _checked(data: Any, home: Path) -> Conversation:
    """The file's content as a conversation. Raises ValueError, KeyError or TypeError for anything unfit."""
    if not isinstance(data, dict) or data["schema"] != SCHEMA or len(data["messages"]) > MAX_MESSAGES:
        raise ValueError("not a conversation of this version")
    messages = tuple(_message(item, home) for item in data["messages"])
    title, created, changed, head = (_text(data, name) for name in ("title", "created", "changed", "head"))
    return Conversation(home.name, title[:MAX_TITLE], created, changed, messages, head)


def _message(item: Any, home: Path) -> ChatMessage:
    name, parent = _text(item, "id"), _text(item, "parent")
    role, pictures = item["role"], item["pictures"]
    if not _MESSAGE_ID.fullmatch(name) or (parent and not _MESSAGE_ID.fullmatch(parent)):
        raise ValueError("a message's id is malformed")
    if role not in ("user", "assistant"):
        raise ValueError("a message's role is unknown")
    if not isinstance(pictures, list) or not all(isinstance(p, str) and _PICTURE.fullmatch(p) for p in pictures):
        raise ValueError("a picture's name is malformed")  # never a path out of the folder
    paths = tuple(str(home / PICTURES / picture) for picture in pictures)
    return ChatMessage(name, parent, role, _text(item, "text"), paths, _text(item, "model"), _text(item, "created"))


def _text(data: Any, name: str) -> str:
    value = data[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a text")
    return value
