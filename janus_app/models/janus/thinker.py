"""The steps of thinking in words: writing a plan, looking at a picture, and the rows of a second attempt."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from janus_app.errors import AppError, Message
from janus_app.models.common import prompts
from janus_app.models.common.chat import VisionChatMixin, answer_tokens, other_language
from janus_app.models.common.tokenizer import EOS
from janus_app.models.janus import think
from janus_app.models.janus.modeling import JanusNetwork
from janus_app.types import Event, GenerateRequest, Notice, Picture, Progress, TextDelta, Thinking

Draw = Callable[..., Generator[Event, None, list[Picture]]]


class ThinkingMixin(VisionChatMixin):
    """What `JanusModel` does where its weights were taught to think."""

    network: JanusNetwork
    grid: int
    _batch: Draw
    _encode: Callable[[Image.Image], Tensor]
    _unconditional: Callable[[Sequence[int], str], list[int]]

    def _plan(self, request: GenerateRequest, thinking: Thinking) -> Generator[Event, None, str]:
        """The plan of a picture, sampled from the request's seed. Raises AppError for a prompt that leaves no room."""
        ids = self.tokenizer.encode(think.question(thinking, request.prompt, self.style))
        limit = self._room_for_text(len(ids), thinking)
        yield Progress("think", 0, len(ids), "tokens")
        excluded = other_language(self.tokenizer, request.prompt) if self.keeps_language else ()
        ends = think.ends(self.tokenizer)
        tokens = yield from self._write(self._embed(ids), thinking, limit, request.seed, ends=ends, excluded=excluded)
        plan = self.tokenizer.decode(tokens).strip()
        if not plan:
            yield Notice(Message("plan_empty"))
        return plan

    def _judged_batch(
        self,
        request: GenerateRequest,
        rows: Sequence[Tensor],
        known: Tensor,
        before: tuple[Picture, ...],
        count: int,
    ) -> Generator[Event, None, list[Picture]]:
        """Like `_batch`; a picture that the model finds wrong is drawn again."""
        pictures = yield from self._batch(request, rows, known, before, count)
        for place, picture in enumerate(pictures):
            if before or place:
                yield TextDelta("\n\n")
            pictures[place] = yield from self._judged(request, picture, known, (*before, *pictures[:place]))
        return pictures

    def _judged(
        self, request: GenerateRequest, picture: Picture, known: Tensor, before: tuple[Picture, ...]
    ) -> Generator[Event, None, Picture]:
        """The picture, or the second attempt at it, with what the model said of the first."""
        thinking = self.capabilities.thinking
        assert thinking is not None
        ids = self.tokenizer.encode(think.judging(thinking, request.prompt, self.picture_tokens, self.style))
        limit = self._room_for_text(len(ids), thinking)
        yield Progress("look", 0, len(ids), "tokens")
        answers = think.answers(self.tokenizer)
        words = yield from self._write(
            self._embed(ids, [picture.image]),
            thinking,
            limit,
            picture.seed,
            ends=(self.tokenizer.id(EOS),),
            first=answers,
        )
        said = self.tokenizer.decode(words).strip()
        if words[0] == answers[0]:
            return replace(picture, judgement=said)
        rows = self._second_rows(request, picture.image, words, thinking)
        (second,) = yield from self._batch(request, rows, known, before, 1, attempt=1)
        return replace(second, judgement=said)

    def _room_for_text(self, read: int, thinking: Thinking) -> int:
        """The most tokens of text after `read` tokens, so that a picture fits behind it. Raises AppError for none."""
        context, cells = self.capabilities.context, self.grid**2
        if read + cells >= context:
            raise AppError("prompt_too_long", tokens=read, picture=cells, context=context)
        return min(thinking.tokens, context - read - cells)

    def _write(
        self,
        prompt: Tensor,
        thinking: Thinking,
        limit: int,
        seed: int,
        *,
        ends: Collection[int],
        excluded: Sequence[int] = (),
        first: Sequence[int] = (),
    ) -> Generator[Event, None, list[int]]:
        """The tokens of text that follow an embedded prompt, also as TextDelta while they are written."""
        text_of, tokens = self.tokenizer.decode_stream(), list[int]()
        for token in answer_tokens(
            self.network,
            prompt,
            ends=ends,
            limit=limit,
            temperature=thinking.temperature,
            top_p=1.0,
            seed=seed,
            excluded=excluded,
            first=first,
        ):
            tokens.append(token)
            yield TextDelta(text_of(token), (token,))
        if len(tokens) == limit:
            yield Notice(Message("plan_cut", tokens=limit))
        return tokens

    @torch.inference_mode()
    def _second_rows(
        self, request: GenerateRequest, picture: Image.Image, judgement: Sequence[int], thinking: Thinking
    ) -> list[Tensor]:
        """The embedded rows of a second attempt: the prompt's rows, the picture's image tokens and the judgement."""
        asked = self.tokenizer.encode(prompts.drawing(request.prompt, self.style))
        cells = self.grid**2
        before, behind = (self.tokenizer.encode(part, begin=False) for part in think.second_drawing(thinking, cells))
        tail = [*before, *judgement, *behind]
        context = self.capabilities.context
        if len(asked) + len(tail) + cells > context:
            raise AppError("prompt_too_long", tokens=len(asked) + len(tail), picture=cells, context=context)
        seen = self._embed(tail)
        seen[:cells] = self.network.token_embeds(self._encode(picture).to(self.network.device))
        rows = [asked] if request.guidance == 1 else [asked, self._unconditional(asked, request.negative)]
        return [torch.cat([self._embed(row), seen]) for row in rows]
