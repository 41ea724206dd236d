"""A loaded Janus or Janus-Pro answering the three verbs."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from janus_app.errors import AppError
from janus_app.models import sampling
from janus_app.models.base import (
    Capabilities,
    ChatRequest,
    EditRequest,
    Event,
    Finished,
    GenerateRequest,
    Notice,
    Picture,
    Preview,
    Progress,
    TextDelta,
    Turn,
    Usage,
)
from janus_app.models.checkpoint import parse_processor, parse_style, read_json
from janus_app.models.images import fit_square, masked_cells, to_picture
from janus_app.models.janus import prompts
from janus_app.models.janus.chat import answer_tokens
from janus_app.models.janus.draw import Sampling, decode_tokens, draw_tokens
from janus_app.models.janus.network import JanusNetwork
from janus_app.models.janus.prefill import prompt_embeds
from janus_app.models.tokenizer import EOS, IMAGE, PAD, TextStream, Tokenizer

EDIT_METHODS = {
    "region": "Draws the painted region anew to fit a description of the finished picture, and keeps the image tokens "
    "outside it. It is not told what to change: describe the whole picture you want.",
    "variation": "Keeps the top of the picture and draws the rest anew; strength is the share drawn anew.",
}
_LEAST_ANSWER = 16  # a conversation that leaves less room than this for the answer is shortened
_BLANK = (236, 236, 240)  # what is not drawn yet


class JanusModel:
    """The network, its tokenizer and its picture processing behind the verbs. Not thread-safe.

    `context` is the number of tokens the weights were trained to hold, `roles` how the conversation's roles are
    written: facts of the manifest, not of config.json.
    """

    def __init__(self, network: JanusNetwork, folder: Path, *, context: int, roles: str = "") -> None:
        self.network = network
        self.tokenizer = Tokenizer(folder / "tokenizer.json")
        self.processor = parse_processor(read_json(folder / "preprocessor_config.json"))
        processor = read_json(folder / "processor_config.json")
        self.style = parse_style(processor, roles)
        config = network.config
        if self.tokenizer.size > config.language.vocab_size:
            raise AppError("tokenizer.json has more entries than the model has rows; they belong to different models.")
        self.picture_tokens = config.vision.patches
        if processor.get("num_image_tokens", self.picture_tokens) != self.picture_tokens:
            raise AppError(
                f"processor_config.json says {processor['num_image_tokens']} tokens a picture but the vision tower "
                f"makes {self.picture_tokens}; the files belong to different models."
            )
        self.side = self.processor.size
        self.grid = self.side // config.vq.cell
        self.batch = 16  # pictures drawn at once; halved when memory runs out
        self.capabilities = Capabilities(
            verbs=frozenset({"chat", "generate", "edit"}),
            size=(self.side, self.side),
            context=min(context, config.language.max_position_embeddings),
            cell=config.vq.cell,
            edit_methods=dict(EDIT_METHODS),
        )

    # ---- chat

    def chat(self, request: ChatRequest) -> Iterator[Event]:
        """Stream the answer. The oldest messages are left out, with a notice, where the context cannot hold them."""
        started = time.perf_counter()
        turns, ids = self._fit(merge_turns(request.turns))
        if left_out := len(merge_turns(request.turns)) - len(turns):
            yield Notice(
                f"The conversation is longer than the model can hold; the first {left_out} messages were left out."
            )
        room = self.capabilities.context - len(ids)
        yield Progress("read", 0, len(ids), "tokens")
        pictures = [picture for turn in turns for picture in turn.images]
        stream, answer = TextStream(self.tokenizer), []
        for token in answer_tokens(
            self.network,
            self._embed(ids, pictures),
            end=self.tokenizer.id(EOS),
            limit=min(request.max_new_tokens, room),
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
        ):
            answer.append(token)
            yield TextDelta(stream.push(token), (token,))
        if rest := stream.end():
            yield TextDelta(rest)
        if len(answer) == room:
            yield Notice("The answer stopped because the model's context is full. Start a new conversation to go on.")
        yield Finished(
            text=self.tokenizer.decode(answer),
            token_ids=tuple(answer),
            usage=Usage(len(ids), len(answer), self.capabilities.context),
            seconds=time.perf_counter() - started,
        )

    def _fit(self, turns: Sequence[Turn]) -> tuple[Sequence[Turn], list[int]]:
        """The longest end of the conversation, starting with a question, that leaves room for an answer."""
        for start in range(0, len(turns), 2):
            messages = [prompts.turn_pieces(turn, self.picture_tokens) for turn in turns[start:]]
            ids = self.tokenizer.encode(prompts.conversation(messages, self.style))
            if len(ids) + _LEAST_ANSWER <= self.capabilities.context:
                return turns[start:], ids
        raise AppError(
            f"The question takes {len(ids):,} tokens with its pictures; the model holds {self.capabilities.context:,}. "
            "Shorten it or send fewer pictures."
        )

    @torch.inference_mode()
    def _embed(self, ids: Sequence[int], pictures: Sequence[Image.Image] = ()) -> Tensor:
        pixels = torch.stack([self.processor(picture) for picture in pictures]) if pictures else None
        return prompt_embeds(self.network, ids, self.tokenizer.id(IMAGE), pixels)

    # ---- pictures

    def generate(self, request: GenerateRequest) -> Iterator[Event]:
        """Draw, with the picture so far after every row; or decode `image_tokens` without sampling."""
        if request.image_tokens:
            return self._redraw(request)
        return self._pictures(request, torch.full((self.grid**2,), -1))

    def edit(self, request: EditRequest) -> Iterator[Event]:
        """Redraw a region, or everything below the kept top ("variation"), of a picture's image tokens."""
        if request.method not in self.capabilities.edit_methods:
            raise AppError(f"This model cannot edit by {request.method!r}; it can by {', '.join(EDIT_METHODS)}.")
        return self._edit(request)

    def _edit(self, request: EditRequest) -> Iterator[Event]:
        width, height = request.image.size
        if width != height:
            yield Notice("The picture was cropped to a square around its middle: the model draws squares only.")
        tokens = self._encode(fit_square(request.image, self.side))
        if request.method == "region":
            assert request.mask is not None  # the request refuses a region without one
            cells = masked_cells(fit_square(request.mask.convert("L"), self.side), self.grid)
        else:
            drawn = max(1, round(request.strength * len(tokens)))
            cells = torch.arange(len(tokens)) >= len(tokens) - drawn
        yield from self._pictures(request, torch.where(cells, -1, tokens))

    def _redraw(self, request: GenerateRequest) -> Iterator[Event]:
        started = time.perf_counter()
        cells, codes = self.grid**2, self.network.config.vq.codebook_size
        if len(request.image_tokens) != cells or not all(0 <= t < codes for t in request.image_tokens):
            raise AppError(
                f"The picture's record does not fit this model: it needs {cells} image tokens below {codes}. "
                "Load the variant the picture was drawn with."
            )
        pixels = decode_tokens(self.network, torch.tensor([request.image_tokens], device=self.network.device))
        picture = Picture(to_picture(pixels[0]), request.seed, request.image_tokens)
        yield Finished(pictures=(picture,), seconds=time.perf_counter() - started)

    def _pictures(self, request: GenerateRequest | EditRequest, known: Tensor) -> Iterator[Event]:
        """Draw request.count pictures, self.batch at a time; fewer at a time when memory runs out."""
        started = time.perf_counter()
        rows = self._prompt_rows(request)
        done: list[Picture] = []
        while len(done) < request.count:
            count = min(self.batch, request.count - len(done))
            try:
                pictures = yield from self._batch(request, rows, known, tuple(done), count)
            except torch.OutOfMemoryError:
                if count == 1:
                    raise
                self.batch = count // 2
                yield Notice(f"Not enough memory for {count} pictures at once; drawing {self.batch} at a time.")
                continue
            done += pictures
        yield Finished(pictures=tuple(done), seconds=time.perf_counter() - started)

    def _batch(
        self,
        request: GenerateRequest | EditRequest,
        rows: Sequence[Tensor],
        known: Tensor,
        before: tuple[Picture, ...],
        count: int,
    ) -> Generator[Event, None, list[Picture]]:
        """One batch of pictures from seed + len(before) on; returns them. Previews come at the end of a row."""
        seed = request.seed + len(before)
        streams = sampling.generators(seed, count)
        codes = self.network.config.vq.codebook_size
        rule = Sampling(request.guidance, request.temperature, lambda: sampling.exponential_noise(streams, codes))
        wanted = (known < 0).cumsum(0).tolist()
        steps, waiting = wanted[-1], request.count - len(before) - count
        blank = Image.new("RGB", (self.side, self.side), _BLANK)
        tokens, shown, cost = known.repeat(count, 1), 0.0, 0.0
        first = int((known < 0).nonzero()[0])
        for cell, tokens in enumerate(draw_tokens(self.network, rows, count, rule, known), first):
            yield Progress("draw", len(before) * steps + wanted[cell] * count, request.count * steps, "tokens")
            now = time.perf_counter()
            # A preview costs a decode, so it may take a fifth of the time at most, and ten a second are enough.
            if (cell + 1) % self.grid == 0 and now - shown > max(0.1, 4 * cost):
                parts = self._preview(tokens, known, cell)
                shown = time.perf_counter()
                cost = shown - now
                images = (*(p.image for p in before), *parts, *[blank] * waiting)
                yield Preview(images, len(before) * steps + wanted[cell] * count, request.count * steps)
        pixels = decode_tokens(self.network, tokens)
        return [Picture(to_picture(pixels[i]), seed + i, tuple(tokens[i].tolist())) for i in range(count)]

    @torch.inference_mode()
    def _preview(self, tokens: Tensor, known: Tensor, cell: int) -> list[Image.Image]:
        """The true decode of what is drawn, blank where nothing is known yet."""
        pending = torch.arange(len(known)) > cell
        unknown = (pending & (known < 0)).view(self.grid, self.grid)
        filled = tokens.clamp(min=0)
        cover = Image.fromarray(unknown.to(torch.uint8).mul(255).numpy())
        cover = cover.resize((self.side, self.side), Image.Resampling.NEAREST)
        pictures = [to_picture(pixels) for pixels in decode_tokens(self.network, filled)]
        for picture in pictures:
            picture.paste(_BLANK, mask=cover)
        return pictures

    @torch.inference_mode()
    def _prompt_rows(self, request: GenerateRequest | EditRequest) -> list[Tensor]:
        """The embedded conditional row and, unless guidance is 1, the unconditional one.

        Unconditional: begin-of-sentence and begin-of-image stay, everything between becomes padding *that is
        attended to*, as the models were trained. A negative prompt takes that row's place.
        """
        ids = self.tokenizer.encode(prompts.drawing(request.prompt, self.style))
        if len(ids) + self.grid**2 > self.capabilities.context:
            raise AppError(
                f"The prompt takes {len(ids):,} tokens and a picture {self.grid**2}; the model holds "
                f"{self.capabilities.context:,}. Shorten the prompt."
            )
        if request.guidance == 1:
            return [self._embed(ids)]
        if request.negative.strip():
            other = self.tokenizer.encode(prompts.drawing(request.negative, self.style))
        else:
            other = [ids[0], *[self.tokenizer.id(PAD)] * (len(ids) - 2), ids[-1]]
        return [self._embed(ids), self._embed(other)]

    @torch.inference_mode()
    def _encode(self, picture: Image.Image) -> Tensor:
        """A native-size picture to its image tokens [cells] on the CPU."""
        vq = self.network.gen_vision_model
        weight = vq.quant_conv.weight
        pixels = (torch.from_numpy(np.array(picture)).float() / 127.5 - 1).permute(2, 0, 1)[None]
        return vq.encode(pixels.to(weight.device, weight.dtype))[0].cpu()


def merge_turns(turns: Sequence[Turn]) -> list[Turn]:
    """Alternating roles, the user's first: neighbours of one role are joined, empty and leading answers dropped."""
    merged: list[Turn] = []
    for turn in turns:
        if not turn.text.strip() and not turn.images:
            continue
        if merged and merged[-1].role == turn.role:
            last = merged.pop()
            turn = Turn(turn.role, f"{last.text}\n{turn.text}", last.images + turn.images)
        if merged or turn.role == "user":
            merged.append(turn)
    return merged
