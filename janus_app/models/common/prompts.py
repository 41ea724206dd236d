"""Conversations and drawing prompts of Janus and JanusFlow as pieces for the tokenizer, worded as in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from janus_app.models.common.tokenizer import BOS, EOS, IMAGE, IMAGE_BEGIN, IMAGE_END, Piece, Special
from janus_app.types import Turn

SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)


@dataclass(frozen=True)
class PromptStyle:
    """How the two roles of a conversation are written: as special tokens or as plain words."""

    user: str
    assistant: str
    roles_are_tokens: bool


def picture_pieces(tokens: int) -> list[Piece]:
    """One picture inside a prompt: its `tokens` embeddings are written over the placeholders."""
    return [Special(IMAGE_BEGIN), Special(IMAGE, tokens), Special(IMAGE_END)]


def turn_pieces(turn: Turn, picture: Sequence[Piece]) -> list[Piece]:
    """A message's pictures, each as the pieces `picture` on a line, then its text without outer white space."""
    pieces: list[Piece] = []
    for _ in turn.images:
        pieces += [*picture, "\n"]
    return [*pieces, turn.text.strip()] if turn.text.strip() else pieces[:-1]


def conversation(messages: Sequence[Sequence[Piece]], style: PromptStyle, *, system: str = SYSTEM) -> list[Piece]:
    """Messages of alternating roles, the user's first; at the end the assistant's role, for the answer to follow."""
    pieces: list[Piece] = [f"{system}\n\n"] if system else []
    for index, message in enumerate(messages):
        user = index % 2 == 0
        pieces += [*_role(style.user if user else style.assistant, style), ": ", *message]
        pieces += ["\n\n"] if user else [Special(EOS)]
    return [*pieces, *_role(style.assistant, style), ":"]


def chat(turns: Sequence[Turn], picture: Sequence[Piece], style: PromptStyle) -> list[Piece]:
    """The whole prompt of a conversation, each picture in it as the pieces `picture`."""
    return [Special(BOS), *conversation([turn_pieces(turn, picture) for turn in turns], style)]


def drawing(prompt: str, style: PromptStyle) -> list[Piece]:
    """The prompt of a picture: no system prompt, and begin-of-image directly behind the assistant's colon."""
    return [*conversation([[prompt.strip()]], style, system=""), Special(IMAGE_BEGIN)]


def _role(name: str, style: PromptStyle) -> list[Piece]:
    return [Special(name)] if style.roles_are_tokens else [name]
