"""Thinking in words: a plan before a picture, or a judgement of it and a second attempt. Prompts as in the training.

A plan is written by the text head and then drawn: T2I-R1 (Jiang et al. 2025) puts it behind the prompt, GoT-R1 (Duan et
al. 2025) and ReasonGen-R1 (Zhang et al. 2025) draw on in the same answer. Janus-Pro-R1 (Pan et al. 2025) looks at its
picture, answers Yes or No with a reason, and draws again behind the first picture's image tokens and that answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from janus_app.models.common import prompts
from janus_app.models.common.prompts import PromptStyle
from janus_app.models.common.tokenizer import EOS, IMAGE, IMAGE_BEGIN, IMAGE_END, PAD, Piece, Special, Tokenizer
from janus_app.types import Thinking

SECOND_ATTEMPT = 2**53  # added to a picture's seed for its second attempt, beyond all seeds of requests


def question(thinking: Thinking, prompt: str, style: PromptStyle) -> list[Piece]:
    """What the model continues with its plan."""
    asked = _filled(thinking.ask, prompt=prompt)
    return prompts.conversation([[asked]], style, system=thinking.system)


def drawing(thinking: Thinking, prompt: str, plan: str, style: PromptStyle) -> list[Piece]:
    """The prompt of a picture with a plan."""
    if thinking.draw:
        return prompts.drawing(_filled(thinking.draw, prompt=prompt, plan=plan), style)
    return [*question(thinking, prompt, style), f" {plan.strip()}", Special(IMAGE_BEGIN)]


def judging(thinking: Thinking, prompt: str, features: int, style: PromptStyle) -> list[Piece]:
    """What the model continues with its judgement; `features` placeholders stand for the picture that it drew."""
    return [*prompts.drawing(prompt, style), Special(IMAGE, features), Special(IMAGE_END), thinking.judge]


def second_drawing(thinking: Thinking, cells: int) -> tuple[list[Piece], list[Piece]]:
    """What follows a drawing prompt for the second attempt, before and behind the judgement.

    Padding stands for the first attempt's image tokens.
    """
    first: list[Piece] = [Special(PAD, cells), Special(IMAGE_END), thinking.judge]
    return first, [Special(EOS), thinking.again, Special(IMAGE_BEGIN)]


def answers(tokenizer: Tokenizer) -> tuple[int, int]:
    """The tokens with which a judgement begins: Yes and No."""
    yes, no = (tokenizer.encode([word], begin=False)[-1] for word in ("Yes", "No"))
    return yes, no


def ends(tokenizer: Tokenizer) -> Collection[int]:
    """The tokens that end a plan: of the answer, or of the text before a picture."""
    return tokenizer.id(EOS), tokenizer.id(IMAGE_BEGIN)


def _filled(template: str, **values: str) -> str:
    """Names in braces are replaced at once, so that a prompt may contain some."""
    names: Sequence[str] = tuple(values)
    return re.sub(rf"\{{({'|'.join(names)})\}}", lambda match: values[match[1]].strip(), template)
