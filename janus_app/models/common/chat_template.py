"""A language model's chat template rendered to pieces in which a user's text cannot become a special token.

The template comes from the repository that the checkpoint names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.models.common.lazy_import import importing
from janus_app.models.common.tokenizer import Piece, Special, Tokenizer
from janus_app.types import Turn

_OPEN, _CLOSE = "\ue000", "\ue001"  # private-use characters around the index of a text that is inserted afterwards
_PICTURE = "\ue002"  # a picture, in a template that knows texts only


class ChatTemplate:
    """Conversations to pieces.

    The template is rendered with a placeholder for every text. Special tokens are found in what the template wrote; the
    texts are inserted after that. Where `begin` is given, a prompt begins with its first occurrence: what the template
    wrote before it (a system prompt of its own) is left out. words_only: the template is that of a language model
    without pictures; they are put before the text of their message.
    """

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, image_token: str, *, begin: str = "", words_only: bool = False
    ) -> None:
        self._template, self._begin = _template(folder), begin
        self._image_token, self._words_only = image_token, words_only
        names = sorted(tokenizer.special_names, key=len, reverse=True)
        self._cut = re.compile(
            "|".join((*(f"({re.escape(name)})" for name in names), f"{_OPEN}[0-9]+{_CLOSE}", _PICTURE))
        )

    def pieces(self, turns: Sequence[Turn], placeholders: Sequence[int], system: str = "") -> list[Piece]:
        """The prompt up to where the answer begins.

        placeholders: the number of image tokens of each picture of the turns, in order. Without `system` the template's
        own system prompt, if any, is used.
        """
        texts: list[str] = []

        def slot(text: str) -> dict[str, str]:
            texts.append(text)
            return {"type": "text", "text": f"{_OPEN}{len(texts) - 1}{_CLOSE}"}

        messages: list[dict[str, Any]] = [{"role": "system", "content": [slot(system)]}] if system else []
        for turn in turns:
            pictures: list[dict[str, str]] = [{"type": "image"} for _ in turn.images]
            words = slot(turn.text)
            content = _PICTURE * len(pictures) + words["text"] if self._words_only else [*pictures, words]
            messages.append({"role": turn.role, "content": content})
        return self._split(self._render(messages), texts, iter(placeholders))

    def _render(self, messages: list[dict[str, Any]]) -> str:
        from tokenizers import Tokenizer as FastTokenizer
        from tokenizers.models import BPE

        with importing:
            from transformers import PreTrainedTokenizerFast

        # The library's sandboxed renderer is a method of tokenizers; an empty one will do, as it encodes no text.
        renderer = PreTrainedTokenizerFast(tokenizer_object=FastTokenizer(BPE()))
        try:
            rendered = renderer.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template is a small program: it can fail in any way
            raise AppError("chat_template_unusable", kind=type(error).__name__) from error
        return str(rendered)[max(0, str(rendered).find(self._begin)) :]

    def _split(self, rendered: str, texts: Sequence[str], placeholders: Any) -> list[Piece]:
        pieces: list[Piece] = []
        end = 0
        for match in self._cut.finditer(rendered):
            pieces.append(rendered[end : match.start()])
            found, end = match.group(), match.end()
            if found[0] == _OPEN:
                pieces.append(texts[int(found[1:-1])])
            elif found in (self._image_token, _PICTURE):
                pieces.append(Special(self._image_token, next(placeholders)))
            else:
                pieces.append(Special(found))
        return [*pieces, rendered[end:]]


def _template(folder: Path) -> str:
    """The template, from any of the files in which transformers has kept it over time."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text("utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and isinstance(found := read_json(folder / name).get("chat_template"), str):
            return found
    raise AppError("chat_template_missing", folder=folder)
