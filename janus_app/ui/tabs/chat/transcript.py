"""A conversation as the chat widget shows it, as the model reads it, and the requests behind /draw and /edit."""

from __future__ import annotations

from collections.abc import Sequence
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
from janus_app.ui.tabs.chat.bubbles import html_part, pictures_part
from janus_app.workflows.commands import command

NO_METADATA = ImageMetadata("", "", "", "", "", "", "", "", "generate", "", "", 0, (1, 1), "")
MAX_CARRIED = 4  # drawn pictures that join the next question; more would fill the context of a small model


def question(conversation: Conversation, text: str, files: tuple[str, ...]) -> ChatMessage:
    return ChatMessage(new_id(), conversation.head, "user", text, files)


def as_history(conversation: Conversation, page: PageContext, language: str, tail: str = "") -> list[dict[str, Any]]:
    """The shown branch as the messages of a gr.Chatbot; pictures come before a question, as the model reads them.

    `tail` is HTML at the end of the answer that is being written.
    """
    say = page.texts.say
    history: list[dict[str, Any]] = []
    drawn = ""
    for message in conversation.path:
        content: list[Any] = []
        alts = [
            drawn if message.role == "assistant" and drawn else say("alt_given", language, number=number + 1)
            for number in range(len(message.pictures))
        ]
        if message.pictures:
            keys = (f"{message.id}:{number}" for number in range(len(message.pictures)))
            content.append(pictures_part(page, [*zip(keys, message.pictures, alts, strict=True)], language))
        if message.text:  # an answer speaks of its pictures before they come, a question after
            content.insert(0 if message.role == "assistant" else len(content), message.text)
        if message.role == "user":
            parsed = command(message.text)
            drawn = shortened(parsed[1], 200) if parsed else ""
        history.append({"role": message.role, "content": content or ["…"]})
    if tail:
        if not history or history[-1]["role"] == "user":
            history.append({"role": "assistant", "content": []})
        history[-1]["content"].append(html_part(tail))
    return history


def since_newest_picture(path: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """The messages from the newest pictures on; all of them where there is no picture.

    Small models mix up what they see and what was said about an earlier picture: three frogs in a photo and three
    drawn ones became six.
    """
    newest = max((index for index, message in enumerate(path) if message.pictures), default=0)
    return path[newest:]


def read_by_model(conversation: Conversation, whole: bool) -> list[tuple[str, str, tuple[str, ...]]]:
    """Role, text and picture files of the turns that the model reads: since the newest picture, or the `whole` branch.

    Commands are left out; pictures that the model made join the next question: in training, most models saw pictures in
    messages of the user only.
    """
    found: list[tuple[str, str, tuple[str, ...]]] = []
    carried: list[str] = []
    for message in conversation.path if whole else since_newest_picture(conversation.path):
        if message.role == "assistant":
            carried += message.pictures
        if message.role == "user" and command(message.text):
            carried += message.pictures
        elif message.role == "user":
            found.append(("user", message.text, (*carried[-MAX_CARRIED:], *message.pictures)))
            carried = []
        elif found and message.text:  # never an answer first, whose question was left out
            found.append(("assistant", message.text, ()))
    return found


def turns(conversation: Conversation, whole: bool = False) -> tuple[Turn, ...]:
    """What the model reads (`read_by_model`). Raises AppError for a picture that cannot be opened."""
    return tuple(
        Turn(role, text, tuple(map(_opened, paths)))  # type: ignore[arg-type]
        for role, text, paths in read_by_model(conversation, whole)
    )


def sight(conversation: Conversation, files: Sequence[str], whole: bool) -> list[str]:
    """The picture files that the model would see with a question that has these files."""
    asked = conversation.with_message(question(conversation, "?", tuple(files)))
    return [path for _, _, paths in read_by_model(asked, whole) for path in paths]


def something_left_out(conversation: Conversation) -> bool:
    """Whether the model reads less than the whole branch."""
    return read_by_model(conversation, True) != read_by_model(conversation, False)


def pictures_of(conversation: Conversation) -> list[str]:
    """The picture files of the shown branch, oldest first."""
    return [path for message in conversation.path for path in message.pictures if Path(path).is_file()]


def picture(conversation: Conversation, key: str) -> SavedImage:
    """The picture with a key of `as_history`. An uploaded one has no metadata; then its settings are empty.

    Raises AppError if there is none.
    """
    found = {f"{m.id}:{n}": path for m in conversation.path for n, path in enumerate(m.pictures)}
    if key not in found or not Path(found[key]).is_file():
        raise AppError("conversation_without_picture")
    try:
        record = read_metadata(found[key])
    except AppError:
        record = NO_METADATA
    return SavedImage(Path(found[key]), found[key], record)


def _opened(path: str) -> Image:
    if not Path(path).is_file():
        raise AppError("conversation_picture_gone")
    return open_picture(path)


def drawing_request(words: str, variant: Variant) -> GenerateRequest:
    """One picture with the variant's defaults and a random seed. Raises AppError for an empty prompt."""
    if not words:
        raise AppError("draw_command_empty")
    think = variant.thinking is not None
    return GenerateRequest(prompt=words, seed=random_seed(), think=think, **_settings(variant))


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
