"""Chat with a MetaQuery model is chat with its language model: the frozen part, in that model's own prompt format."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.models.common.chat import merge_turns
from janus_app.models.common.lazy_import import importing
from janus_app.models.common.tokenizer import TextStream
from janus_app.models.metaquery.mllm import Mllm, Seen
from janus_app.models.metaquery.template import ChatTemplate
from janus_app.nn import sampling
from janus_app.types import ChatRequest, Event, Finished, Notice, Progress, TextDelta, Turn, Usage

_LEAST_ANSWER = 16  # a conversation that leaves less room than this for the answer is shortened


class Talk:
    """Answers conversations. `head` are the rows [words, hidden] that turn a state into scores of words."""

    def __init__(self, reader: Mllm, template: ChatTemplate, head: Tensor, folder: Path, context: int) -> None:
        self.reader, self.template, self.context = reader, template, context
        self.head = head[: reader.tokenizer.size]  # rows beyond are padding that no text has
        self.ends = _ends(reader, folder)

    def chat(self, request: ChatRequest) -> Iterator[Event]:
        """Stream the answer. The oldest messages are left out, with a notice, where the context cannot hold them."""
        started = time.perf_counter()
        turns = merge_turns(request.turns)
        seen: dict[int, Seen] = {}
        pictures = [picture for turn in turns for picture in turn.images]
        for number, picture in enumerate(pictures):
            yield Progress("encode", number, len(pictures), "pictures")
            if id(picture) not in seen:
                seen[id(picture)] = self.reader.see(picture, framed=False)
        kept, ids, looked = self._fit(turns, seen)
        if left_out := len(turns) - len(kept):
            yield Notice(
                f"The conversation is longer than the model can hold; the first {left_out} messages were left out."
            )
        room = self.context - len(ids)
        yield Progress("read", 0, len(ids), "tokens")
        stream, answer = TextStream(self.reader.tokenizer), list[int]()
        for token in self._tokens(ids, looked, min(request.max_new_tokens, room), request):
            answer.append(token)
            yield TextDelta(stream.push(token), (token,))
        if rest := stream.end():
            yield TextDelta(rest)
        if len(answer) == room:
            yield Notice("The answer stopped because the model's context is full. Start a new conversation to go on.")
        yield Finished(
            text=self.reader.tokenizer.decode(answer),
            token_ids=tuple(answer),
            usage=Usage(len(ids), len(answer), self.context),
            compute_seconds=time.perf_counter() - started,
        )

    def _fit(self, turns: Sequence[Turn], seen: dict[int, Seen]) -> tuple[Sequence[Turn], list[int], list[Seen]]:
        """The longest end of the conversation, starting with a question, that leaves room for an answer."""
        for start in range(0, len(turns), 2):
            looked = [seen[id(picture)] for turn in turns[start:] for picture in turn.images]
            pieces = self.template.pieces(turns[start:], [len(one.features) for one in looked])
            ids = self.reader.tokenizer.encode(pieces, begin=False)
            if len(ids) + _LEAST_ANSWER <= self.context:
                return turns[start:], ids, looked
        raise AppError(
            f"The question takes {len(ids):,} tokens with its pictures; the model holds {self.context:,}. "
            "Shorten it or send fewer pictures."
        )

    @torch.inference_mode()
    def _tokens(self, ids: Sequence[int], seen: Sequence[Seen], limit: int, request: ChatRequest) -> Iterator[int]:
        """Ids of the answer without the one that ends it, at most `limit`."""
        with importing:
            from transformers import DynamicCache

        stream = torch.Generator("cpu").manual_seed(request.seed)
        placed, cache = self.reader.place(ids, seen), DynamicCache()
        hidden = self.reader.read(self.reader.embed(ids, seen), placed.positions, cache)
        for position in range(len(ids), len(ids) + limit):
            logits = F.linear(hidden[:, -1], self.head)
            noise = sampling.exponential_noise([stream], logits.shape[-1])[0] if request.temperature else None
            nucleus = sampling.keep_top_p(logits, request.temperature, request.top_p)
            token = int(sampling.pick(nucleus, request.temperature, noise))
            if token in self.ends:
                return
            yield token
            hidden = self.reader.read(self.reader.embed([token], ()), self.reader.next(position, placed), cache)


def _ends(reader: Mllm, folder: Path) -> frozenset[int]:
    """Ids that end an answer: what generation_config.json or else config.json says, and the tokenizer's own."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder / name).get("eos_token_id") if (folder / name).is_file() else None
        found |= {value} if isinstance(value, int) else set(value or ())
    if (folder / "tokenizer_config.json").is_file():
        token = read_json(folder / "tokenizer_config.json").get("eos_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            found.add(reader.tokenizer.id(token))
    if not found:
        raise AppError(f"{folder} does not say which token ends an answer. Download that repository's files again.")
    return frozenset(found)
