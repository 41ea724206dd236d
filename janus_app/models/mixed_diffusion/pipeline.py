"""A loaded model: chat with pictures in questions and answers, generate, and edit."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from janus_app.errors import AppError, Message
from janus_app.models.common.answering import WordRule
from janus_app.models.common.autoencoder import Autoencoder
from janus_app.models.common.batching import draw_in_batches
from janus_app.models.common.chat import fit_turns, merge_turns, other_language
from janus_app.models.common.image_processor import BLANK, fit_square, masked_cells, paste_back, to_rounded_picture
from janus_app.models.common.schedulers import new_scheduler
from janus_app.models.family import LanguageHalf
from janus_app.models.mixed_diffusion.answer import MAX_PICTURES, Full, Word, answer
from janus_app.models.mixed_diffusion.config import SCHEDULERS, SIDE, ImageConfig
from janus_app.models.mixed_diffusion.modeling import MixedNetwork, NoisePredictor
from janus_app.models.mixed_diffusion.prompts import Prompts
from janus_app.models.mixed_diffusion.reader import PictureReader
from janus_app.nn import sampling
from janus_app.nn.diffusion import DenoiseStep, FlowSchedule, TextImageGuidance, denoise, evaluations
from janus_app.nn.llama import KVCache
from janus_app.nn.prefix_cache import Prefix
from janus_app.types import (
    MAX_COUNT,
    Capabilities,
    ChatRequest,
    EditMethod,
    EditRequest,
    Event,
    Events,
    Finished,
    GenerateRequest,
    Notice,
    Picture,
    Preview,
    Progress,
    TextDelta,
    Turn,
    Usage,
    Verb,
)

EDIT_PICTURES = 4
EDIT_METHODS: dict[EditMethod, Message] = {
    "instruct": Message("edit_method_sequence", most=EDIT_PICTURES),
    "masked": Message("edit_method_masked"),
    "image to image": Message("edit_method_image_to_image"),
}


@dataclass(frozen=True)
class Start:
    """Where the loop of a picture begins. clean: the latent [1, C, h, w] of a picture to start from, noised by
    `strength`. free: the cells [h, w] to draw, None for all. finish: from a drawn picture to the one to show."""

    clean: Tensor | None = None
    strength: float = 1.0
    free: Tensor | None = None
    finish: Callable[[Image.Image], Image.Image] = lambda picture: picture


class MixedModel:
    """The network with its tokenizer and autoencoder. Not thread-safe. context: tokens to hold at most.

    Raises AppError where the files do not belong together.
    """

    def __init__(self, network: MixedNetwork, half: LanguageHalf, *, context: int) -> None:
        config = network.config
        self.network = network
        self.reader = None if network.reader is None else PictureReader(network.reader, half)
        verbs: set[Verb] = {"chat"}
        methods: dict[str, Message] = {}
        side, self.cells = SIDE, 0
        if config.image is not None:
            self.autoencoder = Autoencoder(network.vae)
            side, cell = config.image.side, self.autoencoder.factor * config.image.patch
            if self.autoencoder.channels != config.image.channels:
                given = {"given": self.autoencoder.channels, "wanted": config.image.channels}
                raise AppError("autoencoder_channels_differ", **given)
            if side % cell:
                raise AppError("picture_size_not_divisible", side=side, cell=cell)
            self.cells = config.image.grid(self.autoencoder.factor) ** 2
            self.scheduler()  # unusable fields are reported now, not at the first picture
            verbs |= {"generate", "edit"}
            methods = {name: text for name, text in EDIT_METHODS.items() if config.image.edits or name != "instruct"}
        self.prompts = Prompts(half, config, cells=self.cells, tower=self.reader is not None)
        self.tokenizer, self.keeps_language = self.prompts.tokenizer, half.keeps_language
        self.batch = MAX_COUNT
        self._unconditional: Prefix | None = None
        self.capabilities = Capabilities(
            verbs=frozenset(verbs),
            size=(side, side),
            context=min(context, config.context, config.language.max_position_embeddings),
            edit_methods=methods,
            edit_pictures=EDIT_PICTURES if "instruct" in methods else 1,
        )

    def scheduler(self) -> Any:
        """A new scheduler of diffusers."""
        return new_scheduler(self.network.config.schedule, "config.json (diffusion)", SCHEDULERS)

    # ---- chat

    def chat(self, request: ChatRequest) -> Events:
        """Stream the answer; pictures in it are drawn when their turn comes, and `Finished` has them.

        The oldest messages are left out, with a notice, where the context cannot hold them.
        """
        started = time.perf_counter()
        merged = merge_turns(request.turns)
        encoded = yield from self._encoded([picture for turn in merged for picture in turn.images])

        def encode(turns: Sequence[Turn]) -> list[int]:
            sizes = [len(encoded[id(p)]) for turn in turns for p in turn.images] if self.reader else ()
            return self.prompts.conversation(turns, sizes)

        turns, ids = fit_turns(merged, encode, self.capabilities.context)
        if left_out := len(merged) - len(turns):
            yield Notice(Message("conversation_shortened", count=left_out))
        yield Progress("read", 0, len(ids), "tokens")
        tokens, pictures = yield from self._answered(ids, [encoded[id(p)] for t in turns for p in t.images], request)
        room = self.capabilities.context - len(ids)
        if room <= len(tokens) + self.cells * len(pictures):
            yield Notice(Message("context_full"))
        yield Finished(
            text=self.tokenizer.decode(tokens),
            pictures=tuple(pictures),
            token_ids=tuple(tokens),
            usage=Usage(len(ids), len(tokens), self.capabilities.context),
            compute_seconds=time.perf_counter() - started,
        )

    def _encoded(self, pictures: Sequence[Image.Image]) -> Generator[Event, None, dict[int, Tensor]]:
        """What the network reads of pictures, by their `id`: the tower's features, or latents."""
        encoded = dict[int, Tensor]()
        for number, picture in enumerate(pictures):
            yield Progress("encode", number, len(pictures), "pictures")
            if id(picture) not in encoded:
                encoded[id(picture)] = self.reader.encode(picture) if self.reader else self.latent(picture)
        return encoded

    def latent(self, picture: Image.Image) -> Tensor:
        """The latent [1, C, h, w] of the middle square of a picture. Raises AppError without the picture half."""
        square = fit_square(picture, self._image.side)
        return self.autoencoder.encode_picture(square)

    @property
    def _image(self) -> ImageConfig:
        if (image := self.network.config.image) is None:
            raise AppError("picture_half_missing")
        return image

    def _answered(
        self, ids: list[int], pictures: list[Tensor], request: ChatRequest
    ) -> Generator[Event, None, tuple[list[int], list[Picture]]]:
        """Stream an answer; returns the ids of its words and its pictures."""
        network, room = self.network, self.capabilities.context - len(ids)
        start = self.prompts.picture_start if self.prompts.picture_start >= 0 and self.cells else None
        words = min(request.max_new_tokens, room)
        more = 0 if start is None else MAX_PICTURES * (self.cells + 1)
        cache = network.new_cache(1, len(ids) + min(room, words + more))
        read = {"features": pictures} if self.reader else {"latents": pictures}
        hidden = network.read(cache, ids, **read)[-1:]
        never = other_language(self.tokenizer, request.turns[-1].text) if self.keeps_language else ()
        rule = WordRule(self.prompts.ends, start, request.temperature, request.top_p, request.seed, never)
        drawn, tokens, streamed, text_of = list[Picture](), list[int](), 0, self.tokenizer.decode_stream()
        draw = partial(self._illustration, request, drawn)
        end = self.prompts.picture_end
        for part in answer(network, cache, hidden, rule, draw, words=words, cells=self.cells, picture_end=end):
            if isinstance(part, Full):
                most = part.pictures == MAX_PICTURES
                yield Notice(Message("answer_pictures_most", most=MAX_PICTURES) if most else Message("context_full"))
            elif isinstance(part, Word):
                tokens.append(part.id)
                text = text_of(part.id)
                streamed += len(text)
                yield TextDelta(text, (part.id,))
            else:
                yield part
        if rest := self.tokenizer.decode(tokens)[streamed:]:
            yield TextDelta(rest)
        return tokens, drawn

    def _illustration(
        self, request: ChatRequest, drawn: list[Picture], cache: KVCache, number: int
    ) -> Generator[Event, None, Tensor]:
        """Draw a picture of an answer behind what was said, its seed counted from the request's; returns its latent."""
        config = self.network.config
        asked = GenerateRequest("-", seed=request.seed + number, steps=config.steps, guidance=config.guidance)
        prefixes = [Prefix.from_cache(cache, cache.length)]
        if config.guidance != 1:
            prefixes.insert(0, self.unconditional())
        latents = yield from self._latents(asked, NoisePredictor(self.network, prefixes), (), 1, Start())
        picture = to_rounded_picture(self.autoencoder.decode(latents)[0])
        painted = {"guidance": config.guidance, "steps": config.steps}
        drawn.append(replace(Picture(picture, asked.seed), painted_with=painted))
        return latents

    # ---- pictures

    def generate(self, request: GenerateRequest) -> Events:
        """Draw; after every step comes a preview of the picture it predicts."""
        if request.image_tokens:
            raise AppError("image_tokens_not_drawn")
        self._image  # noqa: B018  raises where there is no picture half
        return self._pictures(request, (), Start())

    def edit(self, request: EditRequest) -> Events:
        """Change a picture by one of the methods of the capabilities."""
        self._image  # noqa: B018
        if request.method not in self.capabilities.edit_methods:
            known = ", ".join(self.capabilities.edit_methods)
            raise AppError("edit_method_unknown", given=request.method, known=known)
        return self._edit(request)

    def _edit(self, request: EditRequest) -> Events:
        pictures = (request.image, *request.more_images) if request.method == "instruct" else (request.image,)
        if any(picture.width != picture.height for picture in pictures):
            yield Notice(Message("picture_cropped"))
        encoded = yield from self._encoded_latents(pictures)
        if request.method == "instruct":
            yield from self._pictures(request, encoded, Start())
            return
        start = Start(encoded[0], request.strength)
        if request.method == "masked":
            assert request.mask is not None  # the request refuses a region without one
            side = self._image.side
            mask, original = fit_square(request.mask.convert("L"), side), fit_square(request.image, side)
            grid = encoded[0].shape[-1]
            free = masked_cells(mask, grid).view(grid, grid).to(self.network.device)
            start = Start(encoded[0], 1.0, free, lambda drawn: paste_back(drawn, original, mask))
        yield from self._pictures(request, (), start)

    def _encoded_latents(self, pictures: Sequence[Image.Image]) -> Generator[Event, None, list[Tensor]]:
        latents = list[Tensor]()
        for number, picture in enumerate(pictures):
            yield Progress("encode", number, len(pictures), "pictures")
            latents.append(self.latent(picture))
        return latents

    def _pictures(self, request: GenerateRequest | EditRequest, given: Sequence[Tensor], start: Start) -> Events:
        """Read the prompts once, then draw request.count pictures, self.batch at a time."""
        started = time.perf_counter()
        predictor = NoisePredictor(self.network, list(self._prefixes(request, given)))

        def draw(before: tuple[Picture, ...], count: int) -> Generator[Event, None, list[Picture]]:
            latents = yield from self._latents(request, predictor, before, count, start)
            drawn = []
            for i in range(count):
                yield Progress("decode", len(before) + i, request.count, "pictures")
                picture = to_rounded_picture(self.autoencoder.decode(latents[i : i + 1])[0])
                drawn.append(Picture(start.finish(picture), request.seed + len(before) + i))
            return drawn

        yield from draw_in_batches(self, request.count, draw, started)

    def _prefixes(self, request: GenerateRequest | EditRequest, given: Sequence[Tensor]) -> Iterable[Prefix]:
        """The prompts of the rows that guidance mixes (`TextImageGuidance.mix`)."""
        ids = self.prompts.drawing(request.prompt, len(given))
        self._require_room(ids)
        guidance = _guidance(request, bool(given))
        if guidance.uses_image:
            yield self.unconditional()
        if guidance.uses_image or guidance.text != 1:
            negative = request.negative.strip()
            if given or negative:
                other = self.prompts.drawing(negative, len(given))
                self._require_room(other)
                yield self.network.prefix(other, given)
            else:
                yield self.unconditional()
        yield self.network.prefix(ids, given)

    def unconditional(self) -> Prefix:
        """A picture's prompt without a caption, which is read once for all pictures to come."""
        if self._unconditional is None:
            self._unconditional = self.network.prefix(self.prompts.drawing(""))
        return self._unconditional

    def _require_room(self, ids: Sequence[int]) -> None:
        context = self.capabilities.context
        if len(ids) + self.cells > context:
            given = sum(1 for one in ids if one < 0)
            code = "prompt_too_long_with_pictures" if given > self.cells else "prompt_too_long"
            raise AppError(code, tokens=len(ids), picture=self.cells, context=context)

    def _latents(
        self,
        request: GenerateRequest | EditRequest,
        predictor: NoisePredictor,
        before: tuple[Picture, ...],
        count: int,
        start: Start,
    ) -> Generator[Event, None, Tensor]:
        """Latents [count, C, h, w] from seed + len(before) on, with a preview after each step."""
        streams = sampling.generators(request.seed + len(before), count)
        solver, guidance = self.scheduler(), _guidance(request, predictor.rows > 2)
        total_steps = evaluations(solver, request.steps)
        first = FlowSchedule.partial(total_steps, start.strength).first
        noise = self._noise(streams)
        latents, after_step = noise, None
        if start.clean is not None:
            clean = start.clean.to(noise)
            if start.free is None:
                latents = solver.add_noise(clean, noise, solver.timesteps[first : first + 1].to(noise.device))
            else:
                after_step = partial(_keep, solver, clean, noise, start.free)
        steps, total = total_steps - first, request.count * (total_steps - first)
        blanks = [Image.new("RGB", self.capabilities.size, BLANK)] * (request.count - len(before) - count)
        run = denoise(
            predictor, solver, latents, guidance, request.steps, first=first, streams=streams, after_step=after_step
        )
        for number, step in enumerate(run, 1):
            latents, done = step.latents, len(before) * steps + number * count
            yield Progress("draw", done, total, "steps")
            sampling.require_finite(latents, self.network.dtype)
            previews = [start.finish(picture) for picture in self.autoencoder.preview(step.predicted)]
            yield Preview((*(picture.image for picture in before), *previews, *blanks), done, total)
        return latents

    def _noise(self, streams: Sequence[torch.Generator]) -> Tensor:
        """Normal latents [n, C, h, w] in float32, each from its own stream."""
        side = self._image.side // self.autoencoder.factor
        shape = (self.autoencoder.channels, side, side)
        return torch.stack([torch.randn(shape, generator=stream) for stream in streams]).to(self.network.device)


def _guidance(request: GenerateRequest | EditRequest, pictured: bool) -> TextImageGuidance:
    image = request.image_guidance if pictured and isinstance(request, EditRequest) else 1.0
    return TextImageGuidance(request.guidance, image)


def _keep(
    solver: Any, clean: Tensor, noise: Tensor, free: Tensor, step: DenoiseStep, after: Tensor | None
) -> DenoiseStep:
    """Outside the `free` cells, the known latent at the noise of the next step; clean behind the last one."""
    known = clean if after is None else solver.add_noise(clean, noise, after[None].to(noise.device))
    latents = torch.where(free, step.latents, known)
    return replace(step, latents=latents, predicted=torch.where(free, step.predicted, clean))
