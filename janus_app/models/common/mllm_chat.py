"""Chat with a MetaQuery checkpoint: its frozen language model answers, in that model's own prompt format."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.models.common.chat import stream_answer
from janus_app.models.common.chat_template import ChatTemplate
from janus_app.models.common.lazy_import import importing
from janus_app.models.common.mllm import ImageFeatures, Mllm
from janus_app.models.common.tokenizer import Tokenizer
from janus_app.nn import sampling
from janus_app.types import ChatRequest, Events, Progress, Turn

_SECTIONS = ("text_config", "language")  # of a config.json, that of its language model


class MllmChat:
    """Answers conversations. `head`: the output embedding [words, hidden], from hidden states to logits."""

    def __init__(self, reader: Mllm, template: ChatTemplate, head: Tensor, folder: Path, context: int) -> None:
        self.reader, self.template, self.context = reader, template, context
        self.head = head[: reader.tokenizer.size]  # rows beyond are padding
        self.ends = answer_ends(reader.tokenizer, folder)

    def chat(self, request: ChatRequest) -> Events:
        """Stream the answer. The oldest messages are left out, with a notice, where the context cannot hold them."""
        started = time.perf_counter()
        encoded: dict[int, ImageFeatures] = {}
        pictures = [picture for turn in request.turns for picture in turn.images]
        for number, picture in enumerate(pictures):
            yield Progress("encode", number, len(pictures), "pictures")
            if id(picture) not in encoded:
                encoded[id(picture)] = self.reader.encode_image(picture, framed=False)

        def features(turns: Sequence[Turn]) -> list[ImageFeatures]:
            return [encoded[id(picture)] for turn in turns for picture in turn.images]

        def encode(turns: Sequence[Turn]) -> list[int]:
            pieces = self.template.pieces(turns, [len(one.features) for one in features(turns)])
            return self.reader.tokenizer.encode(pieces, begin=False)

        def answer(turns: Sequence[Turn], ids: Sequence[int], limit: int) -> Iterator[int]:
            return self._tokens(ids, features(turns), limit, request)

        yield from stream_answer(
            request,
            tokenizer=self.reader.tokenizer,
            context=self.context,
            encode=encode,
            answer=answer,
            started=started,
        )

    @torch.inference_mode()
    def _tokens(
        self, ids: Sequence[int], features: Sequence[ImageFeatures], limit: int, request: ChatRequest
    ) -> Iterator[int]:
        """Ids of the answer without the one that ends it, at most `limit`."""
        with importing:
            from transformers import DynamicCache

        stream = sampling.generator(request.seed)
        placed, cache = self.reader.positions(ids, features), DynamicCache()
        hidden = self.reader.read(self.reader.embed(ids, features), placed.positions, cache)
        for position in range(len(ids), len(ids) + limit):
            logits = F.linear(hidden[:, -1], self.head)
            noise = sampling.exponential_noise([stream], logits.shape[-1])[0] if request.temperature else None
            nucleus = sampling.apply_top_p(logits, request.temperature, request.top_p)
            token = sampling.sample(nucleus, request.temperature, noise)
            chosen = sampling.read_token(token, logits)
            if chosen in self.ends:
                return
            yield chosen
            hidden = self.reader.read(
                self.reader.embed_token(token), self.reader.next_position(position, placed), cache
            )


def answer_ends(tokenizer: Tokenizer, folder: Path) -> frozenset[int]:
    """Ids that end an answer: what generation_config.json or else config.json says, and the tokenizer's own.

    Raises AppError where the files of a language model in `folder` do not say.
    """
    ends: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        raw = read_json(folder / name) if (folder / name).is_file() else {}
        for section in (raw, *(raw[part] for part in _SECTIONS if isinstance(raw.get(part), dict))):
            value = section.get("eos_token_id")
            ends |= {value} if isinstance(value, int) else set(value or ())
    if (folder / "tokenizer_config.json").is_file():
        token = read_json(folder / "tokenizer_config.json").get("eos_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            ends.add(tokenizer.id(token))
    if not ends:
        raise AppError("answer_end_unknown", folder=folder)
    return frozenset(ends)
