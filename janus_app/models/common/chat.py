"""Answering token by token, and the verb `chat` of every family that reads pictures as Janus does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.models.common import prompts, rank
from janus_app.models.common.config_sections import parse_processor, parse_style
from janus_app.models.common.tokenizer import BOS, EOS, IMAGE, Piece, TextStream, Tokenizer
from janus_app.nn import sampling
from janus_app.nn.fast.cuda_graphs import recorded
from janus_app.nn.fast.decode_step import bucket, recordable, trunk_step
from janus_app.nn.llama import DecoderConfig, KVCache
from janus_app.nn.prefill import Network, prefill, prompt_embeds
from janus_app.nn.siglip import VisionConfig
from janus_app.types import (
    Capabilities,
    ChatRequest,
    Event,
    Finished,
    Notice,
    Progress,
    RankRequest,
    TextDelta,
    Turn,
    Usage,
)

_LEAST_ANSWER = 16  # a conversation that leaves less room than this for the answer is shortened


@torch.inference_mode()
def answer_tokens(
    network: Network, prompt: Tensor, *, end: int, limit: int, temperature: float, top_p: float, seed: int
) -> Iterator[int]:
    """Ids of the answer to an embedded prompt [T, hidden], without the end-of-sentence id, at most `limit`."""
    stream = torch.Generator("cpu").manual_seed(seed)
    hidden, cache = prefill(network, [prompt], limit)
    reader = _Reader(network, cache, hidden[:, -1])
    read: Callable[[int], None] = reader.read
    if recordable(network.language_model.model, network.device, reader.hidden):
        read = recorded(reader.read, reader.state, cache.capacity, bucket(reader.step))
    finite = sampling.NonFiniteGuard()
    for _ in range(limit):
        logits = network.language_model.lm_head(reader.hidden)
        finite.watch(logits)
        noise = sampling.exponential_noise([stream], logits.shape[-1])[0] if temperature else None
        token = sampling.pick(sampling.keep_top_p(logits, temperature, top_p), temperature, noise)
        chosen = int(token)
        if chosen == end:
            return
        yield chosen
        reader.token.copy_(token)
        read(cache.length + 1)
        cache.length += 1


class _Reader:
    """The buffers of an answer: its newest token [1] and the final hidden state [1, hidden] that follows from it."""

    def __init__(self, network: Network, cache: KVCache, hidden: Tensor) -> None:
        self._network, self.step = network, trunk_step(network.language_model.model, cache)
        self.hidden = hidden.clone()
        self.token = torch.zeros(1, dtype=torch.long, device=hidden.device)

    @property
    def state(self) -> tuple[Tensor, ...]:
        return self.hidden, self.step.position

    def read(self, span: int) -> None:
        self.hidden.copy_(self.step(self._network.text_embeds(self.token), span))


class VisionChatMixin:
    """A network, its tokenizer and its picture processing, answering conversations. Families build on it.

    `picture` are the pieces that one picture is in a prompt; its embeddings are written over the placeholders there.
    `special` are tokens the tokenizer must have, `added` such as it gets at the end of its vocabulary if it has not.
    Raises AppError where the files of the folder do not belong together.
    """

    network: Network
    picture: Sequence[Piece]
    capabilities: Capabilities

    def __init__(
        self,
        folder: Path,
        language: DecoderConfig,
        vision: VisionConfig,
        *,
        roles: str,
        special: Sequence[str] = (),
        added: Sequence[str] = (),
    ) -> None:
        self.tokenizer = Tokenizer(folder / "tokenizer.json", (BOS, EOS, IMAGE, *special), added)
        self.processor = parse_processor(read_json(folder / "preprocessor_config.json"))
        processor = read_json(folder / "processor_config.json")
        self.style = parse_style(processor, roles)
        if self.tokenizer.size > language.vocab_size:
            raise AppError("tokenizer.json has more entries than the model has rows; they belong to different models.")
        self.picture_tokens = vision.patches
        if processor.get("num_image_tokens", self.picture_tokens) != self.picture_tokens:
            raise AppError(
                f"processor_config.json says {processor['num_image_tokens']} tokens a picture but the vision tower "
                f"makes {self.picture_tokens}; the files belong to different models."
            )
        self.side = self.processor.size

    def chat(self, request: ChatRequest) -> Iterator[Event]:
        """Stream the answer. The oldest messages are left out, with a notice, where the context cannot hold them."""
        started = time.perf_counter()
        turns, ids = self._fit(merge_turns(request.turns))
        if left_out := len(merge_turns(request.turns)) - len(turns):
            yield Notice(
                f"The conversation is longer than the model can hold; the first {left_out} messages were left out."
            )
        room = self.capabilities.context - len(ids)
        yield Progress("read", 0, len(ids), "tokens")
        pictures = [picture for turn in turns for picture in turn.images]
        stream, answer = TextStream(self.tokenizer), []
        for token in answer_tokens(
            self.network,
            self._embed(ids, pictures),
            end=self.tokenizer.id(EOS),
            limit=min(request.max_new_tokens, room),
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
        ):
            answer.append(token)
            yield TextDelta(stream.push(token), (token,))
        if rest := stream.end():
            yield TextDelta(rest)
        if len(answer) == room:
            yield Notice("The answer stopped because the model's context is full. Start a new conversation to go on.")
        yield Finished(
            text=self.tokenizer.decode(answer),
            token_ids=tuple(answer),
            usage=Usage(len(ids), len(answer), self.capabilities.context),
            compute_seconds=time.perf_counter() - started,
        )

    def rank(self, request: RankRequest) -> Iterator[Event]:
        """How sure the model is, from 0 to 1, that each picture shows what the prompt asks for."""
        return rank.rank(self, request)

    def _fit(self, turns: Sequence[Turn]) -> tuple[Sequence[Turn], list[int]]:
        """The longest end of the conversation, starting with a question, that leaves room for an answer."""
        for start in range(0, len(turns), 2):
            messages = [prompts.turn_pieces(turn, self.picture) for turn in turns[start:]]
            ids = self.tokenizer.encode(prompts.conversation(messages, self.style))
            if len(ids) + _LEAST_ANSWER <= self.capabilities.context:
                return turns[start:], ids
        raise AppError(
            f"The question takes {len(ids):,} tokens with its pictures; the model holds {self.capabilities.context:,}. "
            "Shorten it or send fewer pictures."
        )

    @torch.inference_mode()
    def _embed(self, ids: Sequence[int], pictures: Sequence[Image.Image] = ()) -> Tensor:
        pixels = torch.stack([self.processor(picture) for picture in pictures]) if pictures else None
        return prompt_embeds(self.network, ids, self.tokenizer.id(IMAGE), pixels)


def merge_turns(turns: Sequence[Turn]) -> list[Turn]:
    """Alternating roles, the user's first: neighbours of one role are joined, empty and leading answers dropped."""
    merged: list[Turn] = []
    for turn in turns:
        if not turn.text.strip() and not turn.images:
            continue
        if merged and merged[-1].role == turn.role:
            last = merged.pop()
            turn = Turn(turn.role, f"{last.text}\n{turn.text}", last.images + turn.images)
        if merged or turn.role == "user":
            merged.append(turn)
    return merged
