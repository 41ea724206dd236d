"""A conversation between the widgets and the model: how it is shown, what the model reads of it, what /draw means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from PIL.Image import Image

from janus_app.errors import AppError
from janus_app.outputs.conversations import ChatMessage, Conversation, new_id, shortened
from janus_app.outputs.image_io import open_picture
from janus_app.outputs.metadata import ImageMetadata, read_metadata
from janus_app.registry.types import Variant
from janus_app.types import EDIT_SETTINGS, Capabilities, EditRequest, GenerateRequest, Turn
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import PageContext, random_seed

_COMMAND = re.compile(r"\s*/(?:(draw|edit)(?:\s+|$)|(画|改))(.*)", re.DOTALL | re.IGNORECASE)
_VERBS = {"画": "draw", "改": "edit"}
NO_RECORD = ImageMetadata("", "", "", "", "", "", "", "", "generate", "", "", 0, (1, 1), "")
CARRIED = 4  # drawn pictures the next question brings along; more would crowd a small model's context


def command(text: str) -> tuple[str, str] | None:
    """("draw" or "edit", its words) where a message is a command, else None."""
    found = _COMMAND.fullmatch(text)
    if not found:
        return None
    return (found[1] or _VERBS[found[2]]).lower(), found[3].strip()


def question(talk: Conversation, text: str, files: tuple[str, ...]) -> ChatMessage:
    return ChatMessage(new_id(), talk.head, "user", text, files)


def shown(talk: Conversation, page: PageContext, language: str, waiting: bool = False) -> list[dict[str, Any]]:
    """The branch on view as the chat widget wants it; pictures before the words, as the model reads them.

    `waiting` adds the answer's empty place.
    """
    say = page.texts.say
    history: list[dict[str, Any]] = []
    drawn = ""
    for message in talk.path:
        content: list[Any] = []
        for number, path in enumerate(message.pictures):
            alt = drawn if message.role == "assistant" and drawn else say("alt_given", language, number=number + 1)
            there = Path(path).is_file()
            content.append({"path": path, "alt_text": alt} if there else say("picture_lost", language))
        if message.text:
            content.append(message.text)
        if message.role == "user":
            asked = command(message.text)
            drawn = shortened(asked[1], 200) if asked else ""
        history.append({"role": message.role, "content": content or ["…"]})
    if waiting:
        history.append({"role": "assistant", "content": ["…"]})
    return history


def turns(talk: Conversation) -> tuple[Turn, ...]:
    """What the model reads. Commands are no part of it: the pictures they made come with the next question.

    That is how the models were trained to meet pictures, in the user's messages and nowhere else. Raises AppError for
    a picture that cannot be opened.
    """
    found: list[Turn] = []
    carried: list[str] = []
    for message in talk.path:
        if (message.role == "user" and command(message.text)) or (message.role == "assistant" and message.pictures):
            carried += message.pictures
        elif message.role == "user":
            paths = (*carried[-CARRIED:], *message.pictures)
            found.append(Turn("user", message.text, tuple(_opened(path) for path in paths)))
            carried = []
        else:
            found.append(Turn("assistant", message.text))
    return tuple(found)


def pictures_of(talk: Conversation) -> list[str]:
    """The files of the pictures on view, oldest first."""
    return [path for message in talk.path for path in message.pictures if Path(path).is_file()]


def latest_print(talk: Conversation) -> SavedImage:
    """The picture on view that came last. A person's own has no record; then its settings are empty.

    Raises AppError where there is none.
    """
    pictures = pictures_of(talk)
    if not pictures:
        raise AppError("There is no picture in this conversation to edit. Add one, or draw one with /draw.")
    try:
        record = read_metadata(pictures[-1])
    except AppError:
        record = NO_RECORD
    return SavedImage(Path(pictures[-1]), pictures[-1], record)


def _opened(path: str) -> Image:
    if not Path(path).is_file():
        raise AppError("A picture of this conversation is no longer there. Branch off before it, or start anew.")
    return open_picture(path)


def drawing(words: str, variant: Variant) -> GenerateRequest:
    """One picture with the variant's own settings and a new seed. Raises AppError where nothing is to be drawn."""
    if not words:
        raise AppError("Say what to draw, for example: /draw a red circle")
    return GenerateRequest(prompt=words, seed=random_seed(), **_settings(variant))


def editing(words: str, talk: Conversation, variant: Variant, able: Capabilities | None) -> EditRequest:
    """The conversation's latest picture, changed by the first way of editing that needs no painting.

    Raises AppError where there is no picture, no such way, or nothing was asked for.
    """
    if not words:
        raise AppError("Say how the finished picture shall look, for example: /edit a blue circle")
    pictures = pictures_of(talk)
    if not pictures:
        raise AppError("There is no picture in this conversation to edit. Add one, or draw one with /draw.")
    methods = able.edit_methods if able else {}
    method = next((name for name in methods if "mask" not in EDIT_SETTINGS.get(name, frozenset())), None)
    if method is None:
        raise AppError("The model at hand edits only what is painted over. Use the edit tab.")
    settings = _settings(variant)
    for name in ("strength", "image_guidance"):
        if name in variant.settings:
            settings[name] = variant.settings[name].default
    return EditRequest(prompt=words, image=open_picture(pictures[-1]), method=method, seed=random_seed(), **settings)


def _settings(variant: Variant) -> dict[str, Any]:
    """The variant's first values, as requests name them."""
    known = variant.settings
    found: dict[str, Any] = {name: known[name].default for name in ("guidance", "temperature") if name in known}
    if "steps" in known:
        found["steps"] = int(known["steps"].default)
    if variant.solvers:
        found["solver"] = variant.solvers[0]
    if {"guidance_start", "guidance_end"} <= known.keys():
        found["guidance_interval"] = (known["guidance_start"].default, known["guidance_end"].default)
    return found
