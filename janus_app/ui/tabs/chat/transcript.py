"""A conversation as the chat widget shows it, as the model reads it, and the requests behind /draw and /edit."""

from __future__ import annotations

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
from janus_app.workflows.commands import command

NO_METADATA = ImageMetadata("", "", "", "", "", "", "", "", "generate", "", "", 0, (1, 1), "")
MAX_CARRIED = 4  # drawn pictures that join the next question; more would fill the context of a small model


def question(conversation: Conversation, text: str, files: tuple[str, ...]) -> ChatMessage:
    return ChatMessage(new_id(), conversation.head, "user", text, files)


def as_history(
    conversation: Conversation, page: PageContext, language: str, waiting: bool = False
) -> list[dict[str, Any]]:
    """The shown branch as the messages of a gr.Chatbot; pictures come before the text, as the model reads them.

    `waiting` adds an empty answer.
    """
    say = page.texts.say
    history: list[dict[str, Any]] = []
    drawn = ""
    for message in conversation.path:
        content: list[Any] = []
        for number, path in enumerate(message.pictures):
            alt = drawn if message.role == "assistant" and drawn else say("alt_given", language, number=number + 1)
            there = Path(path).is_file()
            content.append({"path": path, "alt_text": alt} if there else say("picture_lost", language))
        if message.text:
            content.append(message.text)
        if message.role == "user":
            parsed = command(message.text)
            drawn = shortened(parsed[1], 200) if parsed else ""
        history.append({"role": message.role, "content": content or ["…"]})
    if waiting:
        history.append({"role": "assistant", "content": ["…"]})
    return history


def turns(conversation: Conversation) -> tuple[Turn, ...]:
    """What the model reads. Commands are left out; the pictures they made join the next question.

    In training, pictures occur in messages of the user only. Raises AppError for a picture that cannot be opened.
    """
    found: list[Turn] = []
    carried: list[str] = []
    for message in conversation.path:
        if (message.role == "user" and command(message.text)) or (message.role == "assistant" and message.pictures):
            carried += message.pictures
        elif message.role == "user":
            paths = (*carried[-MAX_CARRIED:], *message.pictures)
            found.append(Turn("user", message.text, tuple(_opened(path) for path in paths)))
            carried = []
        else:
            found.append(Turn("assistant", message.text))
    return tuple(found)


def pictures_of(conversation: Conversation) -> list[str]:
    """The picture files of the shown branch, oldest first."""
    return [path for message in conversation.path for path in message.pictures if Path(path).is_file()]


def latest_picture(conversation: Conversation) -> SavedImage:
    """The last picture of the shown branch. An uploaded one has no metadata; then its settings are empty.

    Raises AppError if there is none.
    """
    pictures = pictures_of(conversation)
    if not pictures:
        raise AppError("conversation_without_picture")
    try:
        record = read_metadata(pictures[-1])
    except AppError:
        record = NO_METADATA
    return SavedImage(Path(pictures[-1]), pictures[-1], record)


def _opened(path: str) -> Image:
    if not Path(path).is_file():
        raise AppError("conversation_picture_gone")
    return open_picture(path)


def drawing_request(words: str, variant: Variant) -> GenerateRequest:
    """One picture with the variant's defaults and a random seed. Raises AppError for an empty prompt."""
    if not words:
        raise AppError("draw_command_empty")
    return GenerateRequest(prompt=words, seed=random_seed(), **_settings(variant))


def edit_request(
    words: str, conversation: Conversation, variant: Variant, capabilities: Capabilities | None
) -> EditRequest:
    """Edit the latest picture of the conversation with the first method that needs no mask.

    Raises AppError for an empty prompt and if there is no picture or no such method.
    """
    if not words:
        raise AppError("edit_command_empty")
    pictures = pictures_of(conversation)
    if not pictures:
        raise AppError("conversation_without_picture")
    methods = capabilities.edit_methods if capabilities else {}
    method = next((name for name in methods if "mask" not in EDIT_SETTINGS.get(name, frozenset())), None)
    if method is None:
        raise AppError("edit_command_needs_mask")
    settings = _settings(variant)
    for name in ("strength", "image_guidance"):
        if name in variant.settings:
            settings[name] = variant.settings[name].default
    return EditRequest(prompt=words, image=open_picture(pictures[-1]), method=method, seed=random_seed(), **settings)


def _settings(variant: Variant) -> dict[str, Any]:
    """The variant's defaults as arguments of a request."""
    known = variant.settings
    found: dict[str, Any] = {name: known[name].default for name in ("guidance", "temperature") if name in known}
    if "steps" in known:
        found["steps"] = int(known["steps"].default)
    if variant.solvers:
        found["solver"] = variant.solvers[0]
    if {"guidance_start", "guidance_end"} <= known.keys():
        found["guidance_interval"] = (known["guidance_start"].default, known["guidance_end"].default)
    return found
