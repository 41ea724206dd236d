"""Conversations as ids: the format of Llama 3, with pictures as marked places for their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from janus_app.errors import AppError
from janus_app.models.common.tokenizer import Piece, Special, Tokenizer
from janus_app.models.regression.config import PLACE, RegressionConfig
from janus_app.types import Turn

BEGIN, END, TURN_END = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
ROLE, ROLE_END = "<|start_header_id|>", "<|end_header_id|>"
_PLACES = "<places>"  # of the vectors of a picture: no token of the vocabulary stands for one
_ASKED = ("generate an image", "let's think about this visually")


class Prompts:
    """Makes ids. Raises AppError where the tokenizer in a folder lacks a token, or has more than the model."""

    def __init__(self, folder: Path, config: RegressionConfig) -> None:
        self.format, self.places = config.prompt, config.read.count
        special = (BEGIN, END, TURN_END, ROLE, ROLE_END, self.format.picture_start, self.format.picture_end)
        self.tokenizer = Tokenizer(folder / "tokenizer.json", special)
        if self.tokenizer.size > config.language.vocab_size:
            raise AppError("tokenizer_too_large")

    @property
    def ends(self) -> tuple[int, ...]:
        """The ids that end an answer."""
        return self.tokenizer.id(END), self.tokenizer.id(TURN_END)

    @property
    def picture_start(self) -> int:
        return self.tokenizer.id(self.format.picture_start)

    @property
    def picture_end(self) -> int:
        return self.tokenizer.id(self.format.picture_end)

    def conversation(self, turns: Sequence[Turn], answer: str = "") -> list[int]:
        """Ids of a conversation up to the beginning `answer` of the assistant's next turn."""
        pieces: list[Piece] = [Special(BEGIN, self.format.begins)]
        for turn in turns:
            words = turn.text.strip()
            pieces += self._role(turn.role)
            if turn.role == "user":
                pieces += [*self._picture * len(turn.images), f"\n{words}" if turn.images and words else words]
            else:  # as the model writes it: words, then the picture they speak of
                pieces += [words, *self._picture * len(turn.images)]
            pieces.append(Special(TURN_END))
        return self._encode([*pieces, *self._role("assistant"), answer])

    def drawing(self, caption: str) -> Turn:
        """The request for a picture; a caption that asks for one already stays as it is."""
        asked = caption.strip()
        return Turn("user", asked if asked.lower().startswith(_ASKED) else self.format.drawing.format(asked))

    @property
    def _picture(self) -> list[Piece]:
        return [Special(self.format.picture_start), Special(_PLACES), Special(self.format.picture_end)]

    def _role(self, role: str) -> list[Piece]:
        return [Special(ROLE), role, Special(ROLE_END), self.format.header_end]

    def _encode(self, pieces: Sequence[Piece]) -> list[int]:
        """Ids of pieces. Strings between special tokens are split into tokens as one, as in the published code."""
        ids: list[int] = []
        waiting: list[Piece] = []
        for piece in (*pieces, Special(_PLACES)):
            if piece != Special(_PLACES):
                waiting.append(piece)
                continue
            ids += [*self.tokenizer.encode(waiting, begin=False), *[PLACE] * self.places]
            waiting = []
        return ids[: -self.places]
