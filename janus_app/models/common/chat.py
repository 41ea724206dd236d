"""The verb `chat`: conversations that fit the context, answers token by token, and what Janus and JanusFlow share."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from janus_app.errors import AppError, Message
from janus_app.files import read_json
from janus_app.models.common import prompts, rank
from janus_app.models.common.config_sections import parse_processor, parse_style
from janus_app.models.common.tokenizer import BOS, EOS, IMAGE, Piece, Tokenizer
from janus_app.nn import sampling
from janus_app.nn.fast.cuda_graphs import CudaGraphRunner
from janus_app.nn.fast.decode_step import can_capture, make_decode_step
from janus_app.nn.llama import DecoderConfig, KVCache
from janus_app.nn.prefill import Network, prefill, prompt_embeds
from janus_app.nn.siglip import VisionConfig
from janus_app.types import (
    Capabilities,
    ChatRequest,
    Events,
    Finished,
    Notice,
    Progress,
    RankRequest,
    TextDelta,
    Turn,
    Usage,
)

# The letters of a language; part of a character of several tokens is decoded as U+FFFD, and English has none of those.
CHINESE, ENGLISH = re.compile(r"[\u3000-\u9fff\uff00-\uffef\ufffd]"), re.compile(r"[A-Za-z]")
MIN_ANSWER = 16  # tokens; a conversation that leaves less room for the answer is shortened


def stream_answer(
    request: ChatRequest,
    *,
    tokenizer: Tokenizer,
    context: int,
    encode: Callable[[Sequence[Turn]], list[int]],
    answer: Callable[[Sequence[Turn], Sequence[int], int], Iterator[int]],
    started: float = 0.0,
) -> Events:
    """Events of the verb `chat`.

    encode: turns to the ids of a prompt. answer: from the turns that fit, their ids and the most tokens to write, the
    ids of the answer without the one that ends it. started: time.perf_counter() when the work began, 0 for now. Raises
    AppError where the context does not even hold the last question.
    """
    started = started or time.perf_counter()
    merged = merge_turns(request.turns)
    turns, ids = fit_turns(merged, encode, context)
    if left_out := len(merged) - len(turns):
        yield Notice(Message("conversation_shortened", count=left_out))
    free = context - len(ids)
    yield Progress("read", 0, len(ids), "tokens")
    text_of, tokens, streamed = tokenizer.decode_stream(), list[int](), 0
    for token in answer(turns, ids, min(request.max_new_tokens, free)):
        tokens.append(token)
        text = text_of(token)
        streamed += len(text)
        yield TextDelta(text, (token,))
    whole = tokenizer.decode(tokens)
    if rest := whole[streamed:]:
        yield TextDelta(rest)
    if len(tokens) == free:
        yield Notice(Message("context_full"))
    yield Finished(
        text=whole,
        token_ids=tuple(tokens),
        usage=Usage(len(ids), len(tokens), context),
        compute_seconds=time.perf_counter() - started,
    )


def fit_turns(
    turns: Sequence[Turn], encode: Callable[[Sequence[Turn]], list[int]], context: int
) -> tuple[Sequence[Turn], list[int]]:
    """The longest end of the conversation, starting with a question, that leaves room for an answer, and its ids.

    Raises AppError where the last question alone is too long.
    """
    for start in range(0, len(turns), 2):
        ids = encode(turns[start:])
        if len(ids) + MIN_ANSWER <= context:
            return turns[start:], ids
    raise AppError("question_too_long", tokens=len(ids), context=context)


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


@torch.inference_mode()
def answer_tokens(
    network: Network,
    prompt: Tensor,
    *,
    ends: Collection[int],
    limit: int,
    temperature: float,
    top_p: float,
    seed: int,
    excluded: Sequence[int] = (),
    first: Sequence[int] = (),
) -> Iterator[int]:
    """Ids of the answer to an embedded prompt [T, hidden], without the one of `ends` that ends it, at most `limit`.

    `excluded` ids are never chosen, and only those of `first`, if there are some, as the first one.
    """
    never = torch.tensor(excluded, dtype=torch.long, device=prompt.device)
    stream = sampling.generator(seed)
    hidden, cache = prefill(network, [prompt], limit)
    reader = _Reader(network, cache, hidden[:, -1])
    read: Callable[[int], None] = reader.read
    if can_capture(network.language_model.model, network.device, reader.hidden):
        read = CudaGraphRunner(reader.read, network.device, reader.state, cache.capacity, reader.step.bucket)
    for place in range(limit):
        logits = network.language_model.lm_head(reader.hidden)
        if first and place == 0:
            allowed = logits[:, list(first)]
            logits = torch.full_like(logits, torch.finfo(logits.dtype).min)
            logits[:, list(first)] = allowed
        if excluded:
            logits = logits.index_fill(-1, never, torch.finfo(logits.dtype).min)
        noise = sampling.exponential_noise([stream], logits.shape[-1])[0] if temperature else None
        token = sampling.sample(sampling.apply_top_p(logits, temperature, top_p), temperature, noise)
        chosen = sampling.read_token(token, logits)
        if chosen in ends:
            return
        yield chosen
        reader.token.copy_(token)
        read(cache.length + 1)
        cache.length += 1


class _Reader:
    """The buffers of an answer: its newest token [1] and the final hidden state [1, hidden] that follows from it."""

    def __init__(self, network: Network, cache: KVCache, hidden: Tensor) -> None:
        self._network, self.step = network, make_decode_step(network.language_model.model, cache)
        self.hidden = hidden.clone()
        self.token = torch.zeros(1, dtype=torch.long, device=hidden.device)

    @property
    def state(self) -> tuple[Tensor, ...]:
        return self.hidden, self.step.position

    def read(self, span: int) -> None:
        self.hidden.copy_(self.step(self._network.text_embeds(self.token), span))


def other_language(tokenizer: Tokenizer, question: str) -> Sequence[int]:
    """The tokens of the language, of English and Chinese, in which the question is not."""
    chinese, english = bool(CHINESE.search(question)), bool(ENGLISH.search(question))
    if chinese == english:
        return ()
    return tokenizer.ids_with(ENGLISH if chinese else CHINESE)


def keeps_language(processor: Mapping[str, Any]) -> bool:
    """Whether processor_config.json says that answers are in the language of the question.

    A small model answers what it was not trained for in any language. It must not for a model that translates.
    """
    return processor.get("answers_in_language_of_question") is True


class VisionChatMixin:
    """The verbs `chat` and `rank` of a family whose network reads pictures with a SigLIP tower.

    picture: the pieces of a prompt that stand for one picture; its embeddings are written over the placeholders among
    them. special: tokens that the tokenizer must have. added: tokens that join the end of its vocabulary where it lacks
    them. Raises AppError where the files of the folder do not belong together.
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
        processor = read_json(folder / "processor_config.json")
        # transformers 5 writes both files as one.
        own = processor.get("image_processor")
        pictures = own if isinstance(own, dict) else read_json(folder / "preprocessor_config.json")
        self.processor = parse_processor(pictures)
        self.style = parse_style(processor, roles)
        self.keeps_language = keeps_language(processor)
        if self.tokenizer.size > language.vocab_size:
            raise AppError("tokenizer_too_large")
        self.picture_tokens = vision.patches
        if processor.get("num_image_tokens", self.picture_tokens) != self.picture_tokens:
            raise AppError(
                "picture_tokens_differ", given=str(processor["num_image_tokens"])[:40], made=self.picture_tokens
            )

    def chat(self, request: ChatRequest) -> Events:
        """Stream the answer. The oldest messages are left out, with a notice, where the context cannot hold them."""

        def encode(turns: Sequence[Turn]) -> list[int]:
            return self.tokenizer.encode(prompts.chat(turns, self.picture, self.style), begin=False)

        def answer(turns: Sequence[Turn], ids: Sequence[int], limit: int) -> Iterator[int]:
            return answer_tokens(
                self.network,
                self._embed(ids, [picture for turn in turns for picture in turn.images]),
                ends=(self.tokenizer.id(EOS),),
                limit=limit,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed,
                excluded=other_language(self.tokenizer, request.turns[-1].text) if self.keeps_language else (),
            )

        return stream_answer(
            request,
            tokenizer=self.tokenizer,
            context=self.capabilities.context,
            encode=encode,
            answer=answer,
        )

    def rank(self, request: RankRequest) -> Events:
        """How sure the model is, from 0 to 1, that each picture shows what the prompt asks for."""
        return rank.rank(self, request)

    def question_ids(self, question: str, answer: str, picture: Image.Image) -> list[int]:
        """See `rank.RankingModel`."""
        turn = prompts.turn_pieces(Turn("user", question, (picture,)), self.picture)
        return self.tokenizer.encode([*prompts.conversation([turn], self.style), *([answer] if answer else [])])

    @torch.inference_mode()
    def _embed(self, ids: Sequence[int], pictures: Sequence[Image.Image] = ()) -> Tensor:
        pixels = torch.stack([self.processor(picture) for picture in pictures]) if pictures else None
        return prompt_embeds(self.network, ids, self.tokenizer.id(IMAGE), pixels)
