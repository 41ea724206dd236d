"""A loaded MetaQuery model: chat, generate and edit."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from janus_app.errors import AppError, Message
from janus_app.models.common.batching import draw_in_batches
from janus_app.models.common.chat_template import ChatTemplate
from janus_app.models.common.denoiser import Denoiser
from janus_app.models.common.image_processor import BLANK, to_rounded_picture
from janus_app.models.common.latent_preview import LatentPreview
from janus_app.models.common.mllm_chat import MllmChat
from janus_app.models.metaquery.conditioning import PromptConditioner
from janus_app.models.metaquery.config import Components
from janus_app.models.metaquery.modeling import MARKERS, MetaQueryNetwork, scheduler
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
    Notice,
    Picture,
    Preview,
    Progress,
    Verb,
)

MAX_PICTURES = 8
EDIT_METHODS = {"instruct": Message("edit_method_instruct_pictures", most=MAX_PICTURES)}


class MetaQueryModel:
    """The network with its language model's files and its solver. Not thread-safe.

    `context` is the most tokens to hold, from the manifest. Raises AppError where the parts do not belong together.
    """

    def __init__(self, network: MetaQueryNetwork, components: Components, *, context: int) -> None:
        config = network.config
        folder = components.folder(config.mllm_id)
        network.fill_buffers()
        self.network, self._components = network, components
        self.reader = network.kind(network.mllm, network.language_config, config.queries + MARKERS, folder)
        template = ChatTemplate(folder, self.reader.tokenizer, self.reader.image_token)
        self.conditioner = PromptConditioner(network, self.reader, template)
        self.denoiser = Denoiser(network.transformer)
        self.preview = LatentPreview(config.scale)
        self.batch = MAX_COUNT
        context = min(context, self.reader.context)
        verbs: set[Verb] = {"generate", "edit"}
        if (head := self._head()) is not None:
            self.mllm_chat = MllmChat(self.reader, template, head, folder, context)
            verbs.add("chat")
        self.capabilities = Capabilities(
            verbs=frozenset(verbs),
            size=(config.side, config.side),
            context=context,
            edit_methods=dict(EDIT_METHODS),
            edit_pictures=MAX_PICTURES,
        )
        scheduler(config, components)  # a broken file is reported now, not at the first picture

    def _head(self) -> Tensor | None:
        """The rows that score words; None where the language model needs a head of its own and has none here."""
        if self.network.lm_head is not None:
            return self.network.lm_head.weight
        return self.reader.network.get_input_embeddings().weight if self.network.tied else None

    def chat(self, request: ChatRequest) -> Events:
        """Stream the language model's answer."""
        if "chat" not in self.capabilities.verbs:
            raise AppError("word_head_missing", component=self.network.config.mllm_id)
        return self.mllm_chat.chat(request)

    def generate(self, request: GenerateRequest) -> Events:
        """Draw; after every step comes a preview of the picture it predicts."""
        if request.image_tokens:
            raise AppError("image_tokens_not_drawn")
        return self._pictures(request, (), TextImageGuidance(request.guidance))

    def edit(self, request: EditRequest) -> Events:
        """Draw a picture by an instruction about one or several pictures."""
        if request.method not in EDIT_METHODS:
            raise AppError("edit_method_unknown", given=request.method, known=", ".join(EDIT_METHODS))
        pictures = (request.image, *request.more_images)
        return self._pictures(request, pictures, TextImageGuidance(request.guidance, request.image_guidance))

    def _pictures(
        self, request: GenerateRequest | EditRequest, pictures: Sequence[Image.Image], guidance: TextImageGuidance
    ) -> Events:
        """Read the prompt once, then draw request.count pictures, self.batch at a time."""
        started = time.perf_counter()
        caption, cut = self.conditioner.truncate(request.prompt)
        negative, negative_cut = self.conditioner.truncate(request.negative)
        limit = self.network.config.text_limit
        if cut:
            yield Notice(Message("prompt_cut", limit=limit, end=caption[-40:].lstrip()))
        elif negative_cut:
            yield Notice(Message("negative_prompt_cut", limit=limit, end=negative[-40:].lstrip()))
        conditions = yield from self.conditioner.guidance_rows(caption, negative, pictures, guidance)
        self.denoiser.set_conditioning(conditions)

        def draw(before: tuple[Picture, ...], count: int) -> Generator[Event, None, list[Picture]]:
            return self._draw(request, guidance, before, count)

        yield from draw_in_batches(self, request.count, draw, started)

    def _draw(
        self,
        request: GenerateRequest | EditRequest,
        guidance: TextImageGuidance,
        before: tuple[Picture, ...],
        count: int,
    ) -> Generator[Event, None, list[Picture]]:
        """Pictures from seed + len(before) on."""
        seed, total = request.seed + len(before), request.count * request.steps
        blanks = [Image.new("RGB", self.capabilities.size, BLANK)] * (request.count - len(before) - count)
        latents = self._noise(seed, count)
        solver: Any = scheduler(self.network.config, self._components)
        for number, step in enumerate(denoise(self.denoiser, solver, latents, guidance, request.steps), 1):
            latents = step.latents
            done = len(before) * request.steps + number * count
            yield Progress("draw", done, total, "steps")
            if not self.preview.fitted:
                self.preview.fit(step.predicted[:1], self._decode(step.predicted[:1]))
            yield Preview((*(p.image for p in before), *self.preview(step.predicted), *blanks), done, total)
        drawn, decoded = [], []
        for i in range(count):
            yield Progress("decode", len(before) + i, request.count, "pictures")
            decoded.append(self._decode(latents[i : i + 1]))
            drawn.append(Picture(to_rounded_picture(decoded[-1][0]), seed + i))
        self.preview.fit(latents, torch.cat(decoded))
        return drawn

    def _noise(self, seed: int, count: int) -> Tensor:
        """[count, c, S, S] float32: picture i from seed + i, whatever is drawn beside it."""
        config = self.network.config
        shape = (config.latent_channels, config.latent_side, config.latent_side)
        rows = [torch.randn(shape, generator=stream) for stream in sampling.generators(seed, count)]
        return torch.stack(rows).to(self.network.device)

    @torch.inference_mode()
    def _decode(self, latents: Tensor) -> Tensor:
        """Pictures [n, 3, H, W], about -1..1, float32 in main memory."""
        vae: Any = self.network.vae
        like = next(vae.decoder.parameters())
        raw = (latents / vae.config.scaling_factor).to(like.device, like.dtype)
        return vae.decode(raw).sample.float().cpu()
