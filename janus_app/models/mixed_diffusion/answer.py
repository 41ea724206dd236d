"""An answer of words and pictures: after begin-of-picture a picture is drawn, and the words go on behind it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from janus_app.models.common.answering import InputReader, WordRule
from janus_app.models.mixed_diffusion.modeling import MixedNetwork
from janus_app.nn.llama import KVCache
from janus_app.types import Event

MAX_PICTURES = 4  # in one answer; a model that begins more than these is stopped


@dataclass(frozen=True)
class Word:
    """A word of the answer, by its id."""

    id: int


@dataclass(frozen=True)
class Full:
    """The answer stops before its end: `pictures` were drawn, or the context has no room for another."""

    pictures: int


# (what was read so far, the number of the picture) -> yields events and returns the latent [1, C, h, w]
Draw = Callable[[KVCache, int], Generator[Event, None, Tensor]]


@torch.inference_mode()
def answer(
    network: MixedNetwork,
    cache: KVCache,
    hidden: Tensor,
    rule: WordRule,
    draw: Draw,
    *,
    words: int,
    cells: int,
    picture_end: int,
) -> Generator[Event | Word | Full, None, None]:
    """The answer behind a prompt in `cache` whose last state is `hidden` [1, hidden], without the id that ends it.

    words: the most ids to write. cells: positions of a picture. Raises AppError where a logit is not finite.
    """
    reader, choose, drawn = InputReader(network, cache, hidden), rule.chooser(), 0
    for _ in range(words):
        token, chosen = choose(network.language_model.lm_head(reader.hidden))
        if chosen in rule.ends:
            return
        begins = chosen == rule.picture_start
        if cache.length + 1 + (cells + 1 if begins else 0) > cache.capacity or (begins and drawn == MAX_PICTURES):
            yield Full(drawn)
            return
        yield Word(chosen)
        reader.read(network.text_embeds(token))
        if begins:
            latent = yield from draw(cache, drawn)
            network.read_picture(cache, latent)
            reader.resume()
            reader.read(network.embeds([picture_end]))
            yield Word(picture_end)
            drawn += 1
