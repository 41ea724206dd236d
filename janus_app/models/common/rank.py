"""Ranking pictures with the model's own vision: how sure is it that a picture shows what the prompt asks for?

The score is P(yes) / (P(yes) + P(no)) at the first token of the answer, as in VQAScore (Lin et al. 2024, "Evaluating
Text-to-Visual Generation with Image-to-Text Generation", section 3); here the model that drew also looks. Models that
were not trained on such questions begin their answers with other tokens: for them the score is the geometric mean of
the probabilities of the prompt's tokens in an answer that names it. docs/token_view.md has measurements of both.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from janus_app.errors import AppError, Message
from janus_app.models.common.tokenizer import Tokenizer
from janus_app.nn import sampling
from janus_app.nn.prefill import Network, prefill
from janus_app.types import Capabilities, Events, Finished, Notice, Progress, RankRequest

MIN_YES_NO = 0.5  # the mean probability of yes and no together from which the question counts as understood
QUESTION = "Is there {} in the picture?"
QUESTION_ZH = "图里有{}吗?"
DESCRIBE, DESCRIBE_ZH = "What do you see?", "你看到了什么?"
YES = ("Yes", " Yes", "yes", " yes", "YES", "是", "有", "对")
NO = ("No", " No", "no", " no", "NO", "不", "没", "否")


class RankingModel(Protocol):
    """What ranking needs of a model: `chat.VisionChatMixin` has it."""

    tokenizer: Tokenizer
    capabilities: Capabilities

    @property
    def network(self) -> Network: ...

    def _embed(self, ids: Sequence[int], pictures: Sequence[Image.Image] = ()) -> Tensor: ...

    def question_ids(self, question: str, answer: str, picture: Image.Image) -> list[int]:
        """Token ids of a question about a picture, and of the beginning of its answer."""
        ...


def rank(model: RankingModel, request: RankRequest) -> Events:
    """Progress for each picture, then Finished with their scores in 0..1. Raises AppError where the vocabulary or the
    context is too small for the question."""
    started, count = time.perf_counter(), len(request.images)
    yes, no = yes_no_token_ids(model.tokenizer)
    answers = list[tuple[float, float]]()
    for picture in request.images:
        yield Progress("rank", len(answers), count)
        answers.append(_yes_share(model, request.prompt, picture, yes, no))
    scores = [share for share, _ in answers]
    if sum(yes_or_no for _, yes_or_no in answers) < MIN_YES_NO * count:
        yield Notice(Message("rank_by_caption"))
        scores = []
        for picture in request.images:
            yield Progress("rank", len(scores), count)
            scores.append(_caption_likelihood(model, request.prompt, picture))
    yield Progress("rank", count, count)
    yield Finished(scores=tuple(scores), compute_seconds=time.perf_counter() - started)


def question(prompt: str) -> str:
    """The question about a picture of `prompt`, in the prompt's language."""
    phrase = _as_phrase(prompt)
    return (QUESTION_ZH if _is_chinese(phrase) else QUESTION).format(phrase)


def yes_no_token_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids with which an answer that says yes and one that says no may begin, without those that begin both.

    Raises AppError where the vocabulary has none.
    """
    first = [{ids[0] for word in words if (ids := tokenizer.encode([word], begin=False))} for words in (YES, NO)]
    yes, no = first[0] - first[1], first[1] - first[0]
    if not yes or not no:
        raise AppError("rank_no_yes_no_tokens")
    return sorted(yes), sorted(no)


def _as_phrase(prompt: str) -> str:
    """The prompt as it is written inside a sentence: no full stop, no capital article."""
    phrase = re.sub(r"[\s.!?\u3002\uff01\uff1f]+$", "", prompt.strip())
    return re.sub(r"^(An?|The)\b", lambda article: article[0].lower(), phrase)


def _is_chinese(text: str) -> bool:
    return any("\u4e00" <= letter <= "\u9fff" for letter in text)


@torch.inference_mode()
def _yes_share(
    model: RankingModel, prompt: str, picture: Image.Image, yes: list[int], no: list[int]
) -> tuple[float, float]:
    """P(yes) / (P(yes) + P(no)), and P(yes) + P(no)."""
    probabilities = _answer_logits(model, question(prompt), "", picture)[-1].softmax(-1)
    says_yes, either = float(probabilities[yes].sum()), float(probabilities[yes].sum() + probabilities[no].sum())
    return says_yes / either if either > 0 else 0.0, either


@torch.inference_mode()
def _caption_likelihood(model: RankingModel, prompt: str, picture: Image.Image) -> float:
    """The geometric mean of the probabilities of the prompt's tokens in an answer that names it."""
    phrase = _as_phrase(prompt)
    question, answer = (DESCRIBE_ZH, f" {phrase}。") if _is_chinese(phrase) else (DESCRIBE, f" I see {phrase}.")
    logits = _answer_logits(model, question, answer, picture)
    ids = model.question_ids(question, answer, picture)
    answer_ids = torch.tensor(ids[len(ids) - len(logits) + 1 :])
    return float(logits[:-1].log_softmax(-1).gather(-1, answer_ids[:, None]).mean().exp())


def _answer_logits(model: RankingModel, question: str, answer: str, picture: Image.Image) -> Tensor:
    """Logits [T + 1, vocab] behind the question and behind each of the answer's T tokens, in float64 on the CPU."""
    ids = model.question_ids(question, answer, picture)
    if len(ids) >= model.capabilities.context:
        raise AppError("rank_prompt_too_long")
    answer_length = len(ids) - len(model.question_ids(question, "", picture))
    hidden, _ = prefill(model.network, [model._embed(ids, [picture])], 0)
    logits = model.network.language_model.lm_head(hidden[0, -answer_length - 1 :]).float()
    sampling.require_finite(logits, model.network.dtype)
    return logits.cpu().double()  # not every device has float64
