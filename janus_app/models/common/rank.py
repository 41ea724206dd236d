"""Ranking pictures by the model's own eyes: is what was asked for to be seen in them?

The share of "yes" among "yes" and "no" at the first token of the answer, as VQAScore asks it (Lin et al. 2024,
"Evaluating Text-to-Visual Generation with Image-to-Text Generation"); here the model that drew is the one that looks.
A model whose answer would begin otherwise was not taught such questions: then it is the geometric mean of the
probabilities of the prompt's own tokens, were it to name what it sees. docs/token_view.md has what both are worth.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from janus_app.errors import AppError
from janus_app.models.common import prompts
from janus_app.models.common.prompts import PromptStyle
from janus_app.models.common.tokenizer import Piece, Tokenizer
from janus_app.nn import sampling
from janus_app.nn.prefill import Network, prefill
from janus_app.types import Capabilities, Event, Finished, Notice, Progress, RankRequest, Turn

CLEAR = 0.5  # the least probability of yes and no together, over the pictures, for which the question counts
QUESTION = "Is there {} in the picture?"
QUESTION_ZH = "图里有{}吗?"
SEEN, SEEN_ZH = "What do you see?", "你看到了什么?"
YES = ("Yes", " Yes", "yes", " yes", "YES", "是", "有", "对")
NO = ("No", " No", "no", " no", "NO", "不", "没", "否")


class Reader(Protocol):
    """What ranking needs of a model: `chat.Talker` has it."""

    network: Network
    tokenizer: Tokenizer
    style: PromptStyle
    picture: Sequence[Piece]
    capabilities: Capabilities

    def _embed(self, ids: Sequence[int], pictures: Sequence[Image.Image] = ()) -> Tensor: ...


def rank(model: Reader, request: RankRequest) -> Iterator[Event]:
    """Progress for each picture, then Finished with their scores in 0..1."""
    started, count = time.perf_counter(), len(request.images)
    yes, no = first_tokens(model.tokenizer)
    answers = list[tuple[float, float]]()
    for picture in request.images:
        yield Progress("rank", len(answers), count)
        answers.append(_answer(model, request.prompt, picture, yes, no))
    scores = [share for share, _ in answers]
    if sum(clear for _, clear in answers) < CLEAR * count:
        yield Notice(
            "The model does not answer yes or no to the prompt as a question, so the pictures are ranked by how "
            "readily it would name the prompt when asked what it sees."
        )
        scores = []
        for picture in request.images:
            yield Progress("rank", len(scores), count)
            scores.append(_naming(model, request.prompt, picture))
    yield Progress("rank", count, count)
    yield Finished(scores=tuple(scores), compute_seconds=time.perf_counter() - started)


def question(prompt: str) -> str:
    """What is asked about a picture of `prompt`, in the prompt's language."""
    words = _words(prompt)
    return (QUESTION_ZH if _chinese(words) else QUESTION).format(words)


def first_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids an answer that says yes, and one that says no, may begin with, without those that begin both."""
    begin = [{ids[0] for word in words if (ids := tokenizer.encode([word], begin=False))} for words in (YES, NO)]
    yes, no = begin[0] - begin[1], begin[1] - begin[0]
    if not yes or not no:
        raise AppError("This model's vocabulary has no words for yes and no, so it cannot rank pictures.")
    return sorted(yes), sorted(no)


def _words(prompt: str) -> str:
    """The prompt as it stands inside a sentence."""
    words = re.sub(r"[\s.!?\u3002\uff01\uff1f]+$", "", prompt.strip())
    return re.sub(r"^(An?|The)\b", lambda article: article[0].lower(), words)


def _chinese(words: str) -> bool:
    return any("\u4e00" <= letter <= "\u9fff" for letter in words)


@torch.inference_mode()
def _answer(model: Reader, prompt: str, picture: Image.Image, yes: list[int], no: list[int]) -> tuple[float, float]:
    """The share of yes among yes and no, and the probability that the answer begins with either."""
    odds = _odds(model, question(prompt), "", picture)[-1].double().softmax(-1)
    agreed, both = float(odds[yes].sum()), float(odds[yes].sum() + odds[no].sum())
    return agreed / both if both > 0 else 0.0, both


@torch.inference_mode()
def _naming(model: Reader, prompt: str, picture: Image.Image) -> float:
    """The geometric mean of the probabilities of the prompt's tokens in an answer that names it."""
    words = _words(prompt)
    asked, answer = (SEEN_ZH, f" {words}。") if _chinese(words) else (SEEN, f" I see {words}.")
    logits = _odds(model, asked, answer, picture)
    ids = _conversation(model, asked, answer, picture)
    told = torch.tensor(ids[len(ids) - len(logits) + 1 :], device=logits.device)
    return float(logits[:-1].double().log_softmax(-1).gather(-1, told[:, None]).mean().exp())


def _odds(model: Reader, asked: str, answer: str, picture: Image.Image) -> Tensor:
    """Logits [T + 1, vocab] after the question and after each of the answer's T tokens."""
    ids = _conversation(model, asked, answer, picture)
    if len(ids) >= model.capabilities.context:
        raise AppError("The prompt is too long to ask the model whether its pictures show it. Shorten it.")
    spoken = len(ids) - len(_conversation(model, asked, "", picture))
    hidden, _ = prefill(model.network, [model._embed(ids, [picture])], 0)
    logits = model.network.language_model.lm_head(hidden[0, -spoken - 1 :]).float()
    finite = sampling.NonFiniteGuard()
    finite.watch(logits)
    return logits


def _conversation(model: Reader, asked: str, answer: str, picture: Image.Image) -> list[int]:
    message = prompts.turn_pieces(Turn("user", asked, (picture,)), model.picture)
    return model.tokenizer.encode([*prompts.conversation([message], model.style), *([answer] if answer else [])])
