"""A loaded UniPic2-Metaquery model: chat, generate and edit."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from janus_app.errors import AppError, Message
from janus_app.models.common.autoencoder import Autoencoder
from janus_app.models.common.batching import draw_in_batches
from janus_app.models.common.chat_template import ChatTemplate
from janus_app.models.common.image_processor import BLANK, to_pixels, to_rounded_picture
from janus_app.models.common.mllm import ImageFeatures
from janus_app.models.common.mllm_chat import MllmChat
from janus_app.models.unipic2.config import PATCH
from janus_app.models.unipic2.denoise import Denoiser
from janus_app.models.unipic2.modeling import Reader, UniPic2Network, scheduler
from janus_app.nn import sampling
from janus_app.nn.diffusion import TextImageGuidance, denoise
from janus_app.types import (
    MAX_COUNT,
    Capabilities,
    ChatRequest,
    EditRequest,
    Event,
    Events,
    GenerateRequest,
    Picture,
    Preview,
    Progress,
    SizeRange,
    Turn,
)

SIZE = (384, 512)  # width and height in pixels of a drawing, where none is asked for
LONGER_SIDE = 512  # of an edited picture, where no size is asked for
EDIT_METHODS = {"instruct": Message("edit_method_instruct_reference")}
_DRAW = "Generate an image: "
_EDIT_STEP = 32  # sides of an edited picture are multiples of it
# What the published script guides away from when nothing else is said.
_NEGATIVE_EDIT = (
    "blurry, low quality, low resolution, distorted, deformed, broken content, missing parts, damaged details, "
    "artifacts, glitch, noise, pixelated, grainy, compression artifacts, bad composition, wrong proportion, "
    "incomplete editing, unfinished, unedited areas."
)


class UniPic2Model:
    """The network with the files of its language model and its solver. Not thread-safe.

    `context` is the most tokens to hold. Raises AppError where the parts do not belong together.
    """

    def __init__(self, network: UniPic2Network, folder: Path, language: Path, *, context: int) -> None:
        network.finish()
        self.network, self.folder = network, folder
        self.reader = Reader(network.mllm, network.language_config, 0, language)
        self.template = ChatTemplate(language, self.reader.tokenizer, self.reader.image_token, begin="<|im_start|>user")
        context = min(context, self.reader.context)
        self.mllm_chat = MllmChat(self.reader, self.template, network.head, language, context)
        self.denoiser = Denoiser(network.transformer)
        self.autoencoder = Autoencoder(network.vae)
        self.batch = MAX_COUNT
        largest = network.transformer.pos_embed.pos_embed_max_size * PATCH
        self.capabilities = Capabilities(
            verbs=frozenset({"chat", "generate", "edit"}),
            size=(min(SIZE[0], largest), min(SIZE[1], largest)),
            context=context,
            edit_methods=dict(EDIT_METHODS),
            sizes=SizeRange(PATCH, largest, PATCH),
        )
        scheduler(folder)  # a broken file is reported now, not at the first picture

    def chat(self, request: ChatRequest) -> Events:
        """Stream the language model's answer."""
        return self.mllm_chat.chat(request)

    def generate(self, request: GenerateRequest) -> Events:
        """Draw; after every step comes a preview of the picture it predicts."""
        if request.image_tokens:
            raise AppError("image_tokens_not_drawn")
        return self._draw(request, [_DRAW + request.negative, _DRAW + request.prompt], None)

    def edit(self, request: EditRequest) -> Events:
        """Draw a picture by an instruction about one picture, in the proportions of that picture."""
        if request.method not in EDIT_METHODS:
            raise AppError("edit_method_unknown", given=request.method, known=", ".join(EDIT_METHODS))
        longer = max(request.size or (min(LONGER_SIDE, max(self.capabilities.size)),))
        picture = resize_longer_side(request.image.convert("RGB"), longer)
        return self._draw(request, [request.negative or _NEGATIVE_EDIT, request.prompt], picture)

    def _draw(
        self, request: GenerateRequest | EditRequest, texts: Sequence[str], picture: Image.Image | None
    ) -> Events:
        """Read the negative text and the prompt once, then draw request.count pictures, self.batch at a time."""
        size = request.size or self.capabilities.size if picture is None else picture.size
        assert self.capabilities.sizes is not None
        self.capabilities.sizes.require(size)
        started = time.perf_counter()
        rows = texts if request.guidance > 1 else texts[1:]
        states = []
        features: list[ImageFeatures] = []
        for number, text in enumerate(rows):
            yield Progress("encode", number, len(rows))
            if picture is not None and not features:
                features = [self.reader.encode_reference(picture)]
                yield Progress("encode", number, len(rows))
            states.append(self.query_states(self.prompt_ids(text, picture, features), features))
        captions, pooled = self.condition(torch.stack(states))
        moments = None if picture is None else self.autoencoder.moments(to_pixels(picture)[None])

        def draw(before: tuple[Picture, ...], count: int) -> Generator[Event, None, list[Picture]]:
            streams = sampling.generators(request.seed + len(before), count)
            latents = self._noise(streams, size)
            reference = None if moments is None else self.reference(*moments, self._noise(streams, size))
            self.denoiser.set_conditioning(captions, pooled, reference)
            return self._denoise(request, latents, before)

        yield from draw_in_batches(self, request.count, draw, started)

    def _denoise(
        self, request: GenerateRequest | EditRequest, latents: Tensor, before: tuple[Picture, ...]
    ) -> Generator[Event, None, list[Picture]]:
        """Pictures from latents [n, 16, h, w] of noise, with a preview after each step."""
        seed, total, count = request.seed + len(before), request.count * request.steps, len(latents)
        height, width = (length * self.autoencoder.factor for length in latents.shape[-2:])
        blanks = [Image.new("RGB", (width, height), BLANK)] * (request.count - len(before) - count)
        guidance, solver = TextImageGuidance(request.guidance), scheduler(self.folder)
        for number, step in enumerate(denoise(self.denoiser, solver, latents, guidance, request.steps), 1):
            latents = step.latents
            done = len(before) * request.steps + number * count
            yield Progress("draw", done, total, "steps")
            previews = self.autoencoder.preview(step.predicted)
            yield Preview((*(picture.image for picture in before), *previews, *blanks), done, total)
        self.denoiser.release()  # before the decoder needs memory
        drawn = []
        for i in range(count):
            yield Progress("decode", len(before) + i, request.count, "pictures")
            drawn.append(Picture(to_rounded_picture(self.autoencoder.decode(latents[i : i + 1])[0]), seed + i))
        return drawn

    def prompt_ids(self, text: str, picture: Image.Image | None, features: Sequence[ImageFeatures]) -> list[int]:
        """Ids of a prompt in front of the queries. Raises AppError where it exceeds the language model's context."""
        turn = Turn("user", text, () if picture is None else (picture,))
        ids = self.reader.tokenizer.encode(
            self.template.pieces([turn], [len(one.features) for one in features]), begin=False
        )
        length = len(ids) + self.network.config.queries
        if length > self.reader.context:
            raise AppError("prompt_too_long_with_pictures", tokens=length, context=self.reader.context)
        return ids

    @torch.inference_mode()
    def query_states(self, ids: list[int], features: list[ImageFeatures]) -> Tensor:
        """The language model's states [N, width] at the queries behind a prompt."""
        return self.reader.read_queries(ids, features, self.network.conditioner.meta_queries)

    @torch.inference_mode()
    def condition(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """What the transformer reads: captions [rows, N, C] and pooled ones [rows, P] of states [rows, N, width]."""
        captions, pooled = self.network.conditioner(states)
        return captions, pooled

    def reference(self, mean: Tensor, deviation: Tensor, noise: Tensor) -> Tensor:
        """Latents [n, 16, h, w] of the picture to change: a sample of its distribution for each row of noise."""
        return self.autoencoder.normalize(mean + deviation * noise)

    def _noise(self, streams: Sequence[torch.Generator], size: tuple[int, int]) -> Tensor:
        """Normal latents [n, 16, h, w] in float32, each from its own stream."""
        factor = self.autoencoder.factor
        shape = (self.autoencoder.channels, size[1] // factor, size[0] // factor)
        return torch.stack([torch.randn(shape, generator=stream) for stream in streams]).to(self.network.device)


def resize_longer_side(picture: Image.Image, side: int) -> Image.Image:
    """A picture with its longer side at `side` pixels and the other at the nearest multiple of 32, as in training.

    Raises AppError where the other would be 0.
    """
    longest = max(picture.size)
    width, height = (
        side if length == longest else round(length * (side / longest) / _EDIT_STEP) * _EDIT_STEP
        for length in picture.size
    )
    if not min(width, height):
        raise AppError("picture_too_narrow", width=picture.width, height=picture.height)
    return picture.resize((width, height))  # with PIL's own filter for pictures in RGB, the bicubic one
