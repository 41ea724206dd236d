"""Exports a conversation as Markdown or JSON, in a zip with its pictures where it has any."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from janus_app.errors import Message
from janus_app.files import os_errors_as_app_errors
from janus_app.outputs.conversations import PICTURES, ChatMessage, Conversation


def markdown(conversation: Conversation) -> str:
    """The branch on view: a heading for each message, and pictures as links into the folder beside the file."""
    lines = [f"# {conversation.name or conversation.id}", ""]
    for message in conversation.path:
        who = "You" if message.role == "user" else message.model or "Model"
        lines += [f"## {who}", ""]
        lines += [f"![{Path(path).name}]({PICTURES}/{Path(path).name})" for path in message.pictures]
        lines += [""] * bool(message.pictures) + [message.text, ""]
    return "\n".join(lines)


def as_json(conversation: Conversation) -> str:
    """Every branch, in the layout of the stored file."""
    data = asdict(conversation)
    for message in data["messages"]:
        message["pictures"] = [f"{PICTURES}/{Path(path).name}" for path in message["pictures"]]
    return json.dumps(data, ensure_ascii=False, indent=1)


def export(conversation: Conversation, kind: str, folder: Path) -> Path:
    """Write `conversation` as kind "md" or "json" into `folder`; returns the file, a zip where there are pictures.

    Raises AppError where the folder cannot be written.
    """
    written: dict[str, tuple[Callable[[Conversation], str], Sequence[ChatMessage]]] = {
        "md": (markdown, conversation.path),
        "json": (as_json, conversation.messages),
    }
    make, messages = written[kind]
    name = safe_name(conversation.name) or conversation.id
    pictures = {path.name: path for m in messages for p in m.pictures if (path := Path(p)).is_file()}
    text = make(conversation).encode("utf-8", "replace")  # a lone surrogate has no bytes
    with os_errors_as_app_errors(Message("conversation_not_exported"), folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not pictures:
            file = folder / f"{name}.{kind}"
            file.write_bytes(text)
            return file
        file = folder / f"{name}.zip"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(f"conversation.{kind}", text, zipfile.ZIP_DEFLATED)
            for inside, path in sorted(pictures.items()):
                archive.write(path, f"{PICTURES}/{inside}")  # stored as they are: pictures are packed already
        return file


def safe_name(text: str) -> str:
    """A title without the characters that file names of some system forbid; may be empty."""
    return re.sub(r"[^\w\- ]+", "", text).strip()[:60]
