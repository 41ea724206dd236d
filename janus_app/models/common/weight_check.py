"""What a family's `check_drawing` looks for: a picture that no trained model draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
from PIL.Image import Image

from janus_app.errors import Message
from janus_app.types import Event, Finished, GenerateRequest

PROMPT = "a meadow full of flowers in front of a forest"  # no large plain area
STEPS = 4  # of models that draw in steps: coarse, but no noise any more
_SAME_TOKEN = 0.9  # share of one token above which nothing was drawn
_UNCERTAIN = 0.95  # share of the largest possible entropy above which a token was not chosen but guessed
_FLAT = 2.0  # standard deviation of all pixels, of 255
_UNLIKE = 0.3  # correlation of neighbouring pixels; that of noise is 0, that of photographs above 0.8


def check_picture(model: Any) -> Generator[Event, None, Message | None]:
    """Draw one picture in a few steps. Returns what looks wrong with it, None where nothing does."""
    for event in model.generate(GenerateRequest(PROMPT, guidance=2.0, steps=STEPS)):
        if isinstance(event, Finished):
            return picture_problem(event.pictures[0].image)
        yield event
    raise AssertionError("the drawing did not finish")


def picture_problem(picture: Image) -> Message | None:
    """Whether a picture is one plain area, or noise."""
    grey = np.asarray(picture.convert("L"), dtype=np.float64)
    if grey.std() < _FLAT:
        return Message("weights_picture_plain")
    likeness = float(np.corrcoef(grey[:, :-1].ravel(), grey[:, 1:].ravel())[0, 1])
    return None if likeness >= _UNLIKE else Message("weights_picture_noise")


def tokens_problem(tokens: Sequence[int], entropy: float, largest: float) -> Message | None:
    """Whether sampled image tokens are nearly all the same, or were drawn from a distribution without a preference.

    `entropy` is the mean of their distributions, `largest` that of a uniform one, in the same unit.
    """
    ((token, times),) = Counter(tokens).most_common(1)
    if times > _SAME_TOKEN * len(tokens):
        return Message("weights_picture_one_token", token=token, times=times, count=len(tokens))
    if entropy > _UNCERTAIN * largest:
        return Message("weights_picture_guessed", share=entropy / largest)
    return None
