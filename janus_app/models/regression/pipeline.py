"""A loaded model: chat with pictures in questions and answers, generate, edit, and ranking."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from janus_app.errors import AppError, Message
from janus_app.models.common import rank
from janus_app.models.common.answering import WordRule
from janus_app.models.common.batching import draw_in_batches
from janus_app.models.common.chat import MIN_ANSWER, fit_turns, merge_turns
from janus_app.models.common.image_processor import ImageProcessor
from janus_app.models.family import Parts
from janus_app.models.regression import layouts
from janus_app.models.regression.answer import MAX_PICTURES, Full, Part, Word, Writing, answer, forced_picture
from janus_app.models.regression.modeling import RegressionNetwork
from janus_app.models.regression.painter import Painter
from janus_app.models.regression.prompts import Prompts
from janus_app.types import (
    MAX_COUNT,
    Capabilities,
    ChatRequest,
    EditRequest,
    Event,
    Events,
    Finished,
    GenerateRequest,
    Notice,
    Picture,
    Progress,
    RankRequest,
    TextDelta,
    Turn,
    Usage,
    Vectors,
    Verb,
)

EDIT_PICTURES = 4
EDIT_METHODS = {"instruct": Message("edit_method_semantic", most=EDIT_PICTURES)}
WORDS_BEFORE = 128  # of an answer that is to be a picture


class RegressionModel:
    """The network with its tokenizer. Not thread-safe. context: tokens to hold at most, from the manifest.

    Raises AppError where the files of the folder do not belong together.
    """

    def __init__(self, network: RegressionNetwork, folder: Path, *, context: int, parts: Parts | None = None) -> None:
        config = network.config
        self.network = network
        self.prompts = Prompts(folder, config)
        self.tokenizer = self.prompts.tokenizer
        self.processor = ImageProcessor(config.vision.image_size)
        self.batch = MAX_COUNT
        self.chat_settings = layouts.painting_defaults(folder)  # guidance and steps of pictures in answers
        self.painter: Painter | None = None
        self._empty: Tensor | None = None
        verbs: set[Verb] = {"chat"}
        side = config.vision.image_size
        if network.adapter is not None:
            self.painter = Painter(network, partial(layouts.scheduler, folder, parts))
            layouts.scheduler(folder, parts)  # a broken file is reported now, not at the first picture
            side = self.painter.side
            verbs.add("generate")
            if config.edits:
                verbs.add("edit")
        self.capabilities = Capabilities(
            verbs=frozenset(verbs),
            size=(side, side),
            context=min(context, config.context, config.language.max_position_embeddings),
            edit_methods=dict(EDIT_METHODS) if "edit" in verbs else {},
            edit_pictures=EDIT_PICTURES,
        )

    # ---- chat

    def chat(self, request: ChatRequest) -> Events:
        """Stream the answer. Pictures in it are painted when all their vectors are there; `Finished` has them.

        The oldest messages are left out, with a notice, where the context cannot hold them.
        """
        started = time.perf_counter()
        merged = merge_turns(request.turns)
        turns, ids = fit_turns(merged, self.prompts.conversation, self.capabilities.context)
        if left_out := len(merged) - len(turns):
            yield Notice(Message("conversation_shortened", count=left_out))
        yield Progress("read", 0, len(ids), "tokens")
        embeds = self._embed(ids, [picture for turn in turns for picture in turn.images])
        rule = WordRule(
            self.prompts.ends,
            self.prompts.picture_start,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
        )
        room = self.capabilities.context - len(ids)
        parts = answer(self.network, embeds, rule, words=min(request.max_new_tokens, room), room=room)
        tokens, pictures = yield from self._streamed(parts, request)
        if room <= len(tokens):
            yield Notice(Message("context_full"))
        yield Finished(
            text=self.tokenizer.decode(tokens),
            pictures=tuple(pictures),
            token_ids=tuple(tokens),
            usage=Usage(len(ids), len(tokens), self.capabilities.context),
            compute_seconds=time.perf_counter() - started,
        )

    def _streamed(
        self, parts: Iterator[Part], request: ChatRequest
    ) -> Generator[Event, None, tuple[list[int], list[Picture]]]:
        """Stream an answer; returns the ids of its words and its pictures."""
        text_of, tokens, streamed, pictures = self.tokenizer.decode_stream(), list[int](), 0, list[Picture]()
        count, unfinished = self.network.config.written.count, False
        for part in parts:
            if isinstance(part, Full):
                code = "answer_pictures_most" if part.pictures == MAX_PICTURES else "context_full"
                yield Notice(Message(code, most=MAX_PICTURES) if code != "context_full" else Message(code))
            elif isinstance(part, Writing):
                yield Progress("write", part.done, count, "vectors")
                if part.vectors is not None:
                    pictures += yield from self._illustration(part.vectors, request, len(pictures))
                    unfinished = True
            else:
                if unfinished and part.id != self.prompts.picture_end:
                    yield Notice(Message("answer_picture_open"))
                unfinished = False
                tokens.append(part.id)
                text = text_of(part.id)
                streamed += len(text)
                yield TextDelta(text, (part.id,))
        if rest := self.tokenizer.decode(tokens)[streamed:]:
            yield TextDelta(rest)
        return tokens, pictures

    def _illustration(
        self, vectors: Tensor, request: ChatRequest, number: int
    ) -> Generator[Event, None, list[Picture]]:
        """Paint a picture of an answer, its seed counted from the request's; none without a visualiser."""
        if self.painter is None:
            yield Notice(Message("visualizer_missing"))
            return []
        guidance, steps = self.chat_settings
        drawing = GenerateRequest("-", seed=request.seed + number, steps=steps, guidance=guidance)
        conditions = self.painter.conditions(vectors, self._unconditional(guidance), guidance)
        (drawn,) = yield from self.painter.paint(drawing, conditions, (), 1)
        return [replace(_with_vectors(drawn, vectors), painted_with={"guidance": guidance, "steps": steps})]

    # ---- pictures

    def generate(self, request: GenerateRequest) -> Events:
        """Let the language model write the vectors of a picture once, and paint them as often as asked."""
        if request.image_tokens:
            raise AppError("image_tokens_not_drawn")
        return self._pictures(request, [self.prompts.drawing(request.prompt)])

    def edit(self, request: EditRequest) -> Events:
        """A picture by an instruction about others: it keeps what they show, not their pixels."""
        methods = self.capabilities.edit_methods if self.painter else EDIT_METHODS
        if request.method not in methods:
            raise AppError("edit_method_unknown", given=request.method, known=", ".join(methods) or "-")
        images = (request.image, *request.more_images)
        return self._pictures(request, [Turn("user", request.prompt, images)])

    def _pictures(self, request: GenerateRequest | EditRequest, turns: Sequence[Turn]) -> Events:
        if self.painter is None:
            raise AppError("visualizer_missing")
        return self._painted(request, turns, self.painter)

    def _painted(self, request: GenerateRequest | EditRequest, turns: Sequence[Turn], painter: Painter) -> Events:
        started = time.perf_counter()
        if request.negative:
            yield Notice(Message("negative_prompt_unused"))
        vectors = yield from self.write_picture(turns)
        conditions = painter.conditions(vectors, self._unconditional(request.guidance), request.guidance)

        def draw(before: tuple[Picture, ...], count: int) -> Generator[Event, None, list[Picture]]:
            drawn = yield from painter.paint(request, conditions, before, count)
            return [_with_vectors(picture, vectors) for picture in drawn]

        yield from draw_in_batches(self, request.count, draw, started)

    @torch.inference_mode()
    def _unconditional(self, guidance: float) -> Tensor | None:
        """The vectors that guidance leads away from: None for zeros, or those of an empty caption, written once."""
        if guidance == 1 or not self.network.config.empty_caption:
            return None
        if self._empty is None:
            ids = self.prompts.conversation([self.prompts.drawing("")])
            embeds = self._embed([*ids, self.prompts.picture_start])
            (*_, last) = forced_picture(self.network, embeds)
            self._empty = last.vectors
        return self._empty

    def write_picture(self, turns: Sequence[Turn]) -> Generator[Event, None, Tensor]:
        """The vectors [V, width] of the first picture in the answer to `turns`, with progress.

        Raises AppError where the answer has none, and where the context does not hold the question.
        """
        ids, count = self.prompts.conversation(turns), self.network.config.written.count
        room = self.capabilities.context - len(ids)
        if room < count + MIN_ANSWER:
            raise AppError("prompt_too_long", tokens=len(ids), picture=count, context=self.capabilities.context)
        yield Progress("read", 0, len(ids), "tokens")
        embeds = self._embed(ids, [picture for turn in turns for picture in turn.images])
        rule = WordRule(self.prompts.ends, self.prompts.picture_start)
        words = list[int]()
        for part in answer(self.network, embeds, rule, words=WORDS_BEFORE, room=room, pictures=1):
            if isinstance(part, Writing):
                yield Progress("write", part.done, count, "vectors")
                if part.vectors is not None:
                    return part.vectors
            elif isinstance(part, Word):
                words.append(part.id)
                yield Progress("read", len(ids), len(ids), "tokens")  # where a cancelled job may stop
        raise AppError("answer_without_picture", answer=self.tokenizer.decode(words)[:200].strip() or "-")

    # ---- looking

    def rank(self, request: RankRequest) -> Events:
        """How sure the model is, from 0 to 1, that each picture shows what the prompt asks for."""
        return rank.rank(self, request)

    def question_ids(self, question: str, answer: str, picture: Image.Image) -> list[int]:
        """See `rank.RankingModel`."""
        return self.prompts.conversation([Turn("user", question, (picture,))], answer)

    def pixels(self, picture: Image.Image) -> Tensor:
        """A picture as the tower reads it, [3, S, S]: resized to a square, or padded to one before."""
        picture = picture.convert("RGB")
        if self.network.config.padded:
            longest = max(picture.size)
            square = Image.new("RGB", (longest, longest), self.processor.background)
            square.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
            picture = square
        side = self.processor.size
        return self.processor(picture.resize((side, side), Image.Resampling.BICUBIC))

    @torch.inference_mode()
    def _embed(self, ids: Sequence[int], pictures: Sequence[Image.Image] = ()) -> Tensor:
        read: Tensor | None = None
        if pictures:
            pixels = torch.stack([self.pixels(picture) for picture in pictures])
            read = self.network.picture_embeds(pixels.to(self.network.device, self.network.dtype))
        return self.network.prompt_embeds(list(ids), read)


def _with_vectors(picture: Picture, vectors: Tensor) -> Picture:
    data = vectors.float().cpu().contiguous()
    return Picture(picture.image, picture.seed, vectors=Vectors(data.shape[1], data.numpy().astype("<f4").tobytes()))
