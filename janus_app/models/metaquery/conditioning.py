"""From a caption and pictures to the conditioning of the diffusion model, once for all pictures of a request.

Prompt (MetaQuery, section 3.1): the language model's chat template, a system prompt that asks for a description,
pictures before text, then begin-of-image, the learned queries, end-of-image. The states at the queries (causal, like
all others) go through the connector.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
from PIL import Image
from torch import Tensor

from janus_app.errors import AppError
from janus_app.models.common.chat_template import ChatTemplate
from janus_app.models.common.mllm import ImageFeatures, Mllm
from janus_app.models.metaquery.modeling import MARKERS, MetaQueryNetwork
from janus_app.nn.diffusion import TextImageGuidance
from janus_app.types import Progress, Turn

_CACHED = 8  # conditions of prompts without pictures to keep for the next request (mostly the empty negative prompt)
_END = "<|im_end|>"


class PromptConditioner:
    """Makes the conditions [N, C] of prompts. Those without pictures are cached."""

    def __init__(self, network: MetaQueryNetwork, reader: Mllm, template: ChatTemplate) -> None:
        self.network, self.reader, self.template = network, reader, template
        self._cache: dict[str, Tensor] = {}

    def truncate(self, text: str) -> tuple[str, bool]:
        """The beginning of a text, up to the tokens that the model reads, and whether anything was cut off."""
        tokenizer, limit = self.reader.tokenizer, self.network.config.text_limit
        ids = tokenizer.encode([text], begin=False)
        if len(ids) <= limit:
            return text, False
        return tokenizer.decode(ids[:limit]).removesuffix("\ufffd"), True  # never half a character

    def prompt_ids(self, text: str, pictures: Sequence[Image.Image], features: Sequence[ImageFeatures]) -> list[int]:
        """Ids of a prompt with its queries. Raises AppError where it exceeds the language model's context."""
        config, words = self.network.config, self.reader.vocabulary
        turn = Turn("user", text, tuple(pictures))
        pieces = self.template.pieces([turn], [len(one.features) for one in features], config.system_prompt)
        ids = self.reader.tokenizer.encode([*pieces, "\n"], begin=False)
        ids += [words, *range(words + MARKERS, words + MARKERS + config.queries), words + 1]
        ids.append(self.reader.tokenizer.id(_END))
        if len(ids) > self.reader.context:
            raise AppError("prompt_too_long_with_pictures", tokens=len(ids), context=self.reader.context)
        return ids

    @torch.inference_mode()
    def query_states(self, ids: Sequence[int], features: Sequence[ImageFeatures]) -> Tensor:
        """The language model's states [N, hidden] at the queries of a prompt."""
        placed = self.reader.positions(ids, features)
        hidden = self.reader.read(self.reader.embed(ids, features), placed.positions)
        begin = ids.index(self.reader.vocabulary)
        return hidden[0, begin + 1 : begin + 1 + self.network.config.queries]

    @torch.inference_mode()
    def condition(
        self, text: str, pictures: Sequence[Image.Image] = (), features: Sequence[ImageFeatures] = ()
    ) -> Tensor:
        """The diffuser's conditioning [N, C] for a prompt."""
        if not pictures and text in self._cache:
            return self._cache[text]
        found = self.network.connector(self.query_states(self.prompt_ids(text, pictures, features), features)[None])[0]
        if not pictures:
            self._cache[text] = found
            while len(self._cache) > _CACHED:
                del self._cache[next(iter(self._cache))]
        return found

    def guidance_rows(
        self, caption: str, negative: str, pictures: Sequence[Image.Image], guidance: TextImageGuidance
    ) -> Generator[Progress, None, Tensor]:
        """Conditions [rows, N, C] of the rows that guidance mixes: [without pictures,] [negative,] caption.

        A weight of 1 needs no row. The row without pictures shows black ones of the same sizes beside the negative
        prompt, as in training.
        """
        looks = [tuple(pictures)] * (1 if guidance.text == 1 and not guidance.uses_image else 2)
        if pictures and guidance.uses_image:
            looks.insert(0, tuple(Image.new("RGB", picture.size) for picture in pictures))
        found: list[Tensor] = []
        encoded: dict[int, ImageFeatures] = {}
        for number, look in enumerate(looks):
            yield Progress("encode", number, len(looks))
            for picture in look:
                if id(picture) not in encoded:
                    encoded[id(picture)] = self.reader.encode_image(picture, framed=True)
                    yield Progress("encode", number, len(looks))
            text = caption if number == len(looks) - 1 else negative
            found.append(self.condition(text, look, [encoded[id(picture)] for picture in look]))
        return torch.stack(found)
