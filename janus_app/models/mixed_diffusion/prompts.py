"""Conversations and requests for pictures as ids, with `CELL`s where pictures stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.models.common.chat_template import ChatTemplate
from janus_app.models.common.mllm_chat import answer_ends
from janus_app.models.common.tokenizer import Piece, Special, Tokenizer
from janus_app.models.family import LanguageHalf
from janus_app.models.mixed_diffusion.config import CELL, MixedConfig
from janus_app.types import Turn

_PLACE = "<cells>"  # of a picture: no token of a vocabulary stands for one


class Prompts:
    """Makes ids. `half` has the tokenizer; `tower`: whether a tower reads pictures, in the base's own format.

    `picture_start`, `picture_end`: ids, negative where these are no words. Raises AppError where the tokenizer lacks a
    token, or has more than the model.
    """

    def __init__(self, half: LanguageHalf, config: MixedConfig, *, cells: int, tower: bool) -> None:
        folder = half.folder
        self.tokenizer = Tokenizer(folder / "tokenizer.json", ())
        if self.tokenizer.size > config.language.vocab_size:
            raise AppError("tokenizer_too_large")
        self._cells, self._tower = cells, tower
        self.begin, self.ends = _begin(folder, self.tokenizer), tuple(sorted(answer_ends(self.tokenizer, folder)))
        self.picture_start, self.picture_end = -1, -2
        if config.image is not None and not config.image.own_markers:
            self.picture_start = self.tokenizer.id(config.image.picture_start)
            self.picture_end = self.tokenizer.id(config.image.picture_end)
        self._image_token = _image_token(folder, self.tokenizer) if tower else _PLACE
        self._pieces: Callable[[Sequence[Turn], Sequence[int]], list[Piece]] | None = None
        if config.template and (own := half.pieces) is not None:
            self._pieces = lambda turns, sizes: own(turns, [Special(self._image_token)])
        elif config.template:
            self._pieces = ChatTemplate(folder, self.tokenizer, self._image_token, words_only=not tower).pieces

    def conversation(self, turns: Sequence[Turn], sizes: Sequence[int] = ()) -> list[int]:
        """Ids up to where the answer begins. sizes: the features of each picture, where a tower reads them."""
        if self._pieces is None:
            return self._plain(turns)
        count = sum(len(turn.images) for turn in turns)
        pieces = self._pieces(turns, sizes if self._tower else [1] * count)
        return self._encode(pieces, lambda piece: [CELL] * piece.times if self._tower else self._picture)

    def drawing(self, caption: str, pictures: int = 0) -> list[int]:
        """Ids of a picture's prompt, with begin-of-picture at the end; `pictures` stand before the caption."""
        words = self.tokenizer.encode([caption.strip()], begin=False)
        return [self.begin, *self._picture * pictures, *words, self.picture_start]

    def _plain(self, turns: Sequence[Turn]) -> list[int]:
        """Pictures and texts one after the other, a line for each text: of a model that knows no roles."""
        ids = [self.begin]
        for number, turn in enumerate(turns):
            text = f"\n{turn.text.strip()}" if number else turn.text.strip()
            ids += [*self._picture * len(turn.images), *self.tokenizer.encode([text], begin=False)]
        return ids

    @property
    def _picture(self) -> list[int]:
        return [self.picture_start, *[CELL] * self._cells, self.picture_end]

    def _encode(self, pieces: Sequence[Piece], picture: Callable[[Special], list[int]]) -> list[int]:
        """Ids of pieces. Strings between special tokens are split into tokens as one."""
        ids, waiting = list[int](), list[Piece]()
        for piece in pieces:
            if isinstance(piece, Special) and piece.token == self._image_token:
                ids += [*self.tokenizer.encode(waiting, begin=False), *picture(piece)]
                waiting = []
            else:
                waiting.append(piece)
        return [*ids, *self.tokenizer.encode(waiting, begin=False)]


def _begin(folder: Path, tokenizer: Tokenizer) -> int:
    """The id that begins a text, by the tokenizer's config or else by the model's."""
    if (folder / "tokenizer_config.json").is_file():
        token = read_json(folder / "tokenizer_config.json").get("bos_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return tokenizer.id(token)
    raw = read_json(folder / "config.json")
    for section in (raw, raw.get("language"), raw.get("text_config")):
        if isinstance(section, dict) and isinstance(section.get("bos_token_id"), int):
            return int(section["bos_token_id"])
    raise AppError("text_start_unknown", folder=folder)


def _image_token(folder: Path, tokenizer: Tokenizer) -> str:
    """The token that stands for a picture in the base's chat template."""
    raw = read_json(folder / "config.json")
    wanted = raw.get("image_token_index", raw.get("image_token_id"))
    found = next((name for name in tokenizer.special_names if tokenizer.id(name) == wanted), None)
    if found is None:
        raise AppError("tokenizer_of_another_model", folder=folder)
    return found
