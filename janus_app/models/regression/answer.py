"""An answer of words and pictures: ids as in a chat and, after begin-of-picture, vectors in place of ids.

The published loop runs the whole sequence anew for every step; here every step is one position behind a key/value
cache. Apart from that it is the published loop, without three flaws of it: the words predicted inside a picture cannot
end the answer, every picture has its full count of vectors, and vectors do not count towards the limit of words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from janus_app.models.common.answering import InputReader, WordRule
from janus_app.models.regression.modeling import RegressionNetwork
from janus_app.nn import sampling
from janus_app.nn.prefill import prefill

MAX_PICTURES = 4  # in one answer; a model that begins more than these is stopped


@dataclass(frozen=True)
class Word:
    """A word of the answer, by its id."""

    id: int


@dataclass(frozen=True)
class Writing:
    """A picture of the answer after `done` of its vectors; `vectors` [V, width] float32 once all are there."""

    done: int
    vectors: Tensor | None = None


@dataclass(frozen=True)
class Full:
    """The answer stops before its end: `pictures` pictures were written, or the context has no room for another."""

    pictures: int


Part = Word | Writing | Full


@torch.inference_mode()
def answer(
    network: RegressionNetwork, prompt: Tensor, rule: WordRule, *, words: int, room: int, pictures: int = MAX_PICTURES
) -> Iterator[Part]:
    """The answer to an embedded prompt [T, hidden], without the id that ends it.

    words: the most ids to write. room: positions behind the prompt that the context still has. pictures: the most
    pictures. Raises AppError where a logit or a vector is not finite.
    """
    count = network.config.written.count
    hidden, cache = prefill(network, [prompt], min(room, words + pictures * count))
    reader = InputReader(network, cache, hidden[:, -1])
    choose = rule.chooser()
    written = 0
    for _ in range(words):
        token, chosen = choose(network.language_model.lm_head(reader.hidden))
        if chosen in rule.ends:
            return
        begins = chosen == rule.picture_start
        if cache.length + 1 + (count if begins else 0) > cache.capacity or (begins and written == pictures):
            yield Full(written)
            return
        yield Word(chosen)
        reader.read(network.text_embeds(token))
        if begins:
            written += 1
            yield from _picture(network, reader, count)


@torch.inference_mode()
def forced_picture(network: RegressionNetwork, prompt: Tensor) -> Iterator[Writing]:
    """A picture behind an embedded prompt [T, hidden] that ends with begin-of-picture."""
    hidden, cache = prefill(network, [prompt], network.config.written.count)
    yield from _picture(network, InputReader(network, cache, hidden[:, -1]), network.config.written.count)


def _picture(network: RegressionNetwork, reader: InputReader, count: int) -> Iterator[Writing]:
    """Write the vectors of one picture, each of which is read again."""
    vectors = torch.empty(count, network.config.written.width, device=network.device)
    for number in range(count):
        vector = network.write(reader.hidden)
        vectors[number] = vector[0]
        reader.read(network.written_embeds(vector))
        if number < count - 1:
            yield Writing(number + 1)
    sampling.require_finite(vectors, network.dtype)
    yield Writing(count, vectors)
