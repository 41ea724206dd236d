"""Text to ids and back. What a user types never becomes a special token.

Prompts are lists of pieces: plain strings, in which a typed "<image_placeholder>" stays ordinary text, and
`Special` pieces, which only the program makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import DecodeStream

from janus_app.errors import AppError
from janus_app.files import read_json


@dataclass(frozen=True)
class Special:
    """A special token by name, standing in a prompt `times` times."""

    token: str
    times: int = 1


BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"
IMAGE_BEGIN = "<begin_of_image>"
IMAGE = "<image_placeholder>"
IMAGE_END = "<end_of_image>"

Piece = str | Special


class Tokenizer:
    """tokenizer.json read with the tokenizers library itself.

    transformers' Llama classes would rewrite the pre-tokenizer of these files and lose every space. special: tokens
    that a family needs. added: tokens that join the end of the vocabulary, in order, where the file lacks them. Raises
    AppError where the file cannot be read or lacks a special token.
    """

    def __init__(
        self,
        file: Path,
        special: Iterable[str] = (BOS, EOS, PAD, IMAGE_BEGIN, IMAGE, IMAGE_END),
        added: Sequence[str] = (),
    ) -> None:
        self._fast = _read(file)
        self._fast.add_special_tokens([token for token in added if self._fast.token_to_id(token) is None])
        self._fast.encode_special_tokens = True
        self._names: dict[str, int] = {}
        for name in special:
            self.id(name)

    def id(self, token: str) -> int:
        """The id of a special token. Raises AppError where the file has none: drawing would go wrong silently."""
        if token not in self._names:
            found = self._fast.token_to_id(token)
            if found is None:
                raise AppError("tokenizer_without_token", token=token)
            self._names[token] = found
        return self._names[token]

    @property
    def size(self) -> int:
        return self._fast.get_vocab_size(with_added_tokens=True)

    @property
    def special_names(self) -> tuple[str, ...]:
        """The special tokens of the file, as they are written."""
        return tuple(token.content for token in self._fast.get_added_tokens_decoder().values() if token.special)

    def encode(self, pieces: Iterable[Piece], *, begin: bool = True) -> list[int]:
        """Begin-of-sentence once (`begin`), then the pieces. Neighbouring strings are joined before they are split."""
        ids = [self.id(BOS)] if begin else []
        text = ""
        for piece in (*pieces, None):
            if isinstance(piece, str):
                text += piece
                continue
            if text:
                ids += self._fast.encode(text, add_special_tokens=False).ids
                text = ""
            if piece is not None:
                ids += [self.id(piece.token)] * piece.times
        return ids

    def ids_with(self, letters: re.Pattern[str]) -> list[int]:
        """The ordinary tokens whose text contains a match."""
        texts = self._fast.decode_batch([[token] for token in range(self.size)], skip_special_tokens=True)
        return [token for token, text in enumerate(texts) if letters.search(text)]

    def decode(self, ids: Sequence[int]) -> str:
        return self._fast.decode(list(ids), skip_special_tokens=True)

    def decode_stream(self) -> Callable[[int], str]:
        """A function from the next id of an answer to the text it completes, "" within a character of several ids."""
        stream = DecodeStream(skip_special_tokens=True)
        return lambda token: stream.step(self._fast, token) or ""


def _read(file: Path) -> FastTokenizer:
    """The tokenizer in a file in any encoding of JSON. Raises AppError where it cannot be read."""
    try:
        return FastTokenizer.from_file(str(file))
    except Exception:  # the library raises bare Exception for anything it cannot read
        content = read_json(file)
    try:
        return FastTokenizer.from_str(json.dumps(content))
    except Exception as error:
        raise AppError("tokenizer_unreadable", file=file.name) from error
