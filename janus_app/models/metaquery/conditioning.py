"""From a caption and pictures to the diffuser's conditioning: once per prompt, whatever the number of pictures drawn.

Prompt (MetaQuery, section 3.1): the language model's own chat template, a picture-describing system prompt, pictures
before text, then begin-of-image, the learned queries, end-of-image. The states at the queries, causal like any
others, go through the connector.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
from PIL import Image
from torch import Tensor

from janus_app.errors import AppError
from janus_app.models.metaquery.mllm import Mllm, Seen
from janus_app.models.metaquery.modeling import MARKERS, MetaQueryNetwork
from janus_app.models.metaquery.template import ChatTemplate
from janus_app.nn.diffusion import TextImageGuidance
from janus_app.types import Progress, Turn

_KEPT = 8  # conditions of prompts without pictures that stay for the next request (the empty negative prompt, mostly)
_END = "<|im_end|>"


class Reading:
    """Conditions [N, C] of prompts, remembered while they may be asked for again."""

    def __init__(self, network: MetaQueryNetwork, reader: Mllm, template: ChatTemplate) -> None:
        self.network, self.reader, self.template = network, reader, template
        self._kept: dict[str, Tensor] = {}

    def cut(self, text: str) -> tuple[str, bool]:
        """The beginning of a text that the model reads, and whether anything was cut off."""
        tokenizer, limit = self.reader.tokenizer, self.network.config.text_limit
        ids = tokenizer.encode([text], begin=False)
        if len(ids) <= limit:
            return text, False
        return tokenizer.decode(ids[:limit]).removesuffix("\ufffd"), True  # never half a character

    def prompt(self, text: str, pictures: Sequence[Image.Image], seen: Sequence[Seen]) -> list[int]:
        """Ids of a prompt with its queries. Raises AppError where the language model cannot hold it."""
        config, words = self.network.config, self.reader.vocabulary
        turn = Turn("user", text, tuple(pictures))
        pieces = self.template.pieces([turn], [len(one.features) for one in seen], config.system_prompt)
        ids = self.reader.tokenizer.encode([*pieces, "\n"], begin=False)
        ids += [words, *range(words + MARKERS, words + MARKERS + config.queries), words + 1]
        ids.append(self.reader.tokenizer.id(_END))
        if len(ids) > self.reader.context:
            raise AppError("prompt_too_long_with_pictures", tokens=len(ids), context=self.reader.context)
        return ids

    @torch.inference_mode()
    def states(self, ids: Sequence[int], seen: Sequence[Seen]) -> Tensor:
        """The language model's states [N, hidden] at the queries of a prompt."""
        placed = self.reader.place(ids, seen)
        hidden = self.reader.read(self.reader.embed(ids, seen), placed.positions)
        begin = ids.index(self.reader.vocabulary)
        return hidden[0, begin + 1 : begin + 1 + self.network.config.queries]

    @torch.inference_mode()
    def condition(self, text: str, pictures: Sequence[Image.Image] = (), seen: Sequence[Seen] = ()) -> Tensor:
        """The diffuser's conditioning [N, C] for a prompt."""
        if not pictures and text in self._kept:
            return self._kept[text]
        found = self.network.connector(self.states(self.prompt(text, pictures, seen), seen)[None])[0]
        if not pictures:
            self._kept[text] = found
            while len(self._kept) > _KEPT:
                del self._kept[next(iter(self._kept))]
        return found

    def rows(
        self, caption: str, negative: str, pictures: Sequence[Image.Image], guidance: TextImageGuidance
    ) -> Generator[Progress, None, Tensor]:
        """Conditions [rows, N, C] of the rows guidance mixes: [unseen,] [negative,] caption.

        A weight of 1 needs no row of its own. The unseen row shows black pictures of the same sizes beside the
        negative prompt, as the models were trained.
        """
        looks = [tuple(pictures)] * (1 if guidance.text == 1 and not guidance.uses_image else 2)
        if pictures and guidance.uses_image:
            looks.insert(0, tuple(Image.new("RGB", picture.size) for picture in pictures))
        found: list[Tensor] = []
        seen: dict[int, Seen] = {}
        for number, look in enumerate(looks):
            yield Progress("encode", number, len(looks))
            for picture in look:
                if id(picture) not in seen:
                    seen[id(picture)] = self.reader.see(picture, framed=True)
                    yield Progress("encode", number, len(looks))
            text = caption if number == len(looks) - 1 else negative
            found.append(self.condition(text, look, [seen[id(picture)] for picture in look]))
        return torch.stack(found)
