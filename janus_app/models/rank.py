"""Ranking pictures by the model's own eyes: is what was asked for to be seen in them?

The share of "yes" among "yes" and "no" at the first token of the answer, as VQAScore asks it (Lin et al. 2024,
"Evaluating Text-to-Visual Generation with Image-to-Text Generation"); here the model that drew is the one that looks.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from janus_app.errors import AppError
from janus_app.models import prompts, sampling
from janus_app.models.base import Capabilities, Event, Finished, Progress, RankRequest, Turn
from janus_app.models.checkpoint import PromptStyle
from janus_app.models.prefill import Network, prefill
from janus_app.models.tokenizer import Piece, Tokenizer

QUESTION = "Is there {} in the picture?"
QUESTION_ZH = "图里有{}吗?"
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
    started, scores = time.perf_counter(), list[float]()
    yes, no = first_tokens(model.tokenizer)
    for picture in request.images:
        yield Progress("rank", len(scores), len(request.images))
        scores.append(_score(model, request.prompt, picture, yes, no))
    yield Progress("rank", len(scores), len(request.images))
    yield Finished(scores=tuple(scores), seconds=time.perf_counter() - started)


def question(prompt: str) -> str:
    """What is asked about a picture of `prompt`, in the prompt's language."""
    words = re.sub(r"[\s.!?\u3002\uff01\uff1f]+$", "", prompt.strip())
    words = re.sub(r"^(An?|The)\b", lambda article: article[0].lower(), words)
    chinese = any("\u4e00" <= letter <= "\u9fff" for letter in words)
    return (QUESTION_ZH if chinese else QUESTION).format(words)


def first_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids an answer that says yes, and one that says no, may begin with, without those that begin both."""
    begin = [{ids[0] for word in words if (ids := tokenizer.encode([word], begin=False))} for words in (YES, NO)]
    yes, no = begin[0] - begin[1], begin[1] - begin[0]
    if not yes or not no:
        raise AppError("This model's vocabulary has no words for yes and no, so it cannot rank pictures.")
    return sorted(yes), sorted(no)


@torch.inference_mode()
def _score(model: Reader, prompt: str, picture: Image.Image, yes: list[int], no: list[int]) -> float:
    turn = Turn("user", question(prompt), (picture,))
    ids = model.tokenizer.encode(prompts.conversation([prompts.turn_pieces(turn, model.picture)], model.style))
    if len(ids) >= model.capabilities.context:
        raise AppError("The prompt is too long to ask the model whether its pictures show it. Shorten it.")
    hidden, _ = prefill(model.network, [model._embed(ids, [picture])], 0)
    logits = model.network.language_model.lm_head(hidden[:, -1]).float()
    finite = sampling.Finite()
    finite.watch(logits)
    row = logits[0]
    gain = float(row[yes].logsumexp(0) - row[no].logsumexp(0))
    return 1 / (1 + math.exp(-gain)) if gain > -700 else 0.0
