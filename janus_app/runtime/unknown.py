"""What of a request a small model does not know, where files beside its weights say what it knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from janus_app.errors import Message
from janus_app.models.common.known_pictures import known_pictures_of
from janus_app.models.common.vocabulary import vocabulary_of
from janus_app.registry.types import Variant
from janus_app.types import ChatRequest, EditRequest, GenerateRequest, Request

if TYPE_CHECKING:
    from PIL.Image import Image


def unknown_in(request: Request, variant: Variant, folder: Path | None) -> Iterator[Message]:
    """Which words of a prompt, which question about a picture, and whether a picture the model in `folder` does not
    know. Pictures of earlier turns of a conversation were judged then."""
    pictures: tuple[Image, ...] = ()
    if isinstance(request, GenerateRequest):
        words = _prompt(request, variant, folder)
    elif isinstance(request, EditRequest):
        words, pictures = _prompt(request, variant, folder), (request.image, *request.more_images)
    elif isinstance(request, ChatRequest):
        words, pictures = _question(request, variant, folder), tuple(request.turns[-1].images)
    else:
        return
    known = known_pictures_of(folder) if pictures else None
    if known and not all(map(known.knows, pictures)):
        yield Message("picture_unknown", title=variant.title)
    if words:
        yield words


def _prompt(request: GenerateRequest | EditRequest, variant: Variant, folder: Path | None) -> Message | None:
    known = vocabulary_of(folder)
    return known.notice(request.prompt, variant.title) if known else None


def _question(request: ChatRequest, variant: Variant, folder: Path | None) -> Message | None:
    known = vocabulary_of(folder)
    if known is None or not any(turn.images for turn in request.turns):
        return None  # talk without a picture is answered honestly by the model
    *before, last = request.turns
    if any(last.text in prompts.get("chat", ()) for prompts in variant.examples.values()):
        return None
    return known.question_notice(last.text, variant.title, " ".join(turn.text for turn in reversed(before)))
