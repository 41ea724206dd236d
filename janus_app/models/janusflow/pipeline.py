"""A loaded JanusFlow: chat, generate and edit, and ranking."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image

from janus_app.errors import AppError, Message
from janus_app.files import read_json
from janus_app.models.common import prompts
from janus_app.models.common.autoencoder import Autoencoder
from janus_app.models.common.batching import draw_in_batches
from janus_app.models.common.chat import VisionChatMixin
from janus_app.models.common.image_processor import BLANK, fit_square, masked_cells, paste_back, to_picture
from janus_app.models.common.tokenizer import IMAGE, IMAGE_BEGIN, IMAGE_END, Special
from janus_app.models.janusflow import edit
from janus_app.models.janusflow.modeling import JanusFlowNetwork
from janus_app.models.janusflow.velocity import PromptVelocity
from janus_app.nn import sampling
from janus_app.nn.diffusion import FlowSchedule, FlowStep, IntervalGuidance, integrate_flow
from janus_app.types import (
    DESCRIBE,
    EDIT_SETTINGS,
    MAX_COUNT,
    VERBS,
    Capabilities,
    ChatRequest,
    EditRequest,
    Event,
    Events,
    Finished,
    GenerateRequest,
    Notice,
    Picture,
    Preview,
    Progress,
    Turn,
)

_LONGEST_DESCRIPTION = 96  # tokens of the sentence FlowEdit starts from

# From one generator a picture to the steps of the solver.
Work = Callable[[list[torch.Generator]], Iterator[FlowStep]]
Finish = Callable[[Image.Image], Image.Image]


class JanusFlowModel(VisionChatMixin):
    """The network with its autoencoder, tokenizer and image processor. Not thread-safe.

    context: tokens that the weights were trained to hold. roles: how the conversation's roles are written. The manifest
    has both, config.json neither.
    """

    network: JanusFlowNetwork

    def __init__(
        self, network: JanusFlowNetwork, autoencoder: Autoencoder, folder: Path, *, context: int, roles: str = ""
    ) -> None:
        config = network.config
        names = _token_names(folder)
        super().__init__(folder, config.language, config.vision, roles=roles or "words", added=names)
        self.network, self.autoencoder = network, autoencoder
        # The learned row replaces the embedding of begin-of-image, so its token is a placeholder like the others.
        self.picture = [Special(IMAGE, self.picture_tokens + 1), Special(names[-1])]
        cell = autoencoder.factor * config.encoder.stride
        if autoencoder.channels != config.encoder.in_channels:
            raise AppError("autoencoder_channels_differ", given=autoencoder.channels, wanted=config.encoder.in_channels)
        self.cells = config.vision.patches  # a drawn picture has as many tokens as a read one
        self.side = math.isqrt(self.cells) * cell
        self.latent_side = self.side // autoencoder.factor
        self.batch = MAX_COUNT
        self.capabilities = Capabilities(
            verbs=frozenset(VERBS),
            size=(self.side, self.side),
            context=min(context, config.language.max_position_embeddings),
            edit_methods=dict(edit.EDIT_METHODS),
        )

    def generate(self, request: GenerateRequest) -> Events:
        """Draw along the flow; after every step comes a preview of the picture it predicts."""
        if request.image_tokens:
            raise AppError("image_tokens_not_drawn")
        return self._generate(request)

    def edit(self, request: EditRequest) -> Events:
        """Change a picture by one of edit.EDIT_METHODS."""
        if request.method not in self.capabilities.edit_methods:
            raise AppError("edit_method_unknown", given=request.method, known=", ".join(edit.EDIT_METHODS))
        return self._edit(request)

    def _generate(self, request: GenerateRequest) -> Events:
        schedule, guidance = FlowSchedule(request.steps), IntervalGuidance(request.guidance, request.guidance_interval)
        velocity = self._velocity(request.prompt, request.negative, schedule)
        like = torch.empty(1, self.autoencoder.channels, self.latent_side, self.latent_side, device=self.network.device)

        def work(streams: list[torch.Generator]) -> Iterator[FlowStep]:
            return integrate_flow(
                velocity, edit.start_noise(streams, like), schedule, solver=request.solver, guidance=guidance
            )

        yield from self._pictures(request, work, schedule.count)

    def _edit(self, request: EditRequest) -> Events:
        if request.image.width != request.image.height:
            yield Notice(Message("picture_cropped"))
        original = fit_square(request.image, self.side)
        clean = self.autoencoder.encode_picture(original)
        guidance = IntervalGuidance(request.guidance, request.guidance_interval)
        schedule = FlowSchedule(request.steps)
        if "strength" in EDIT_SETTINGS[request.method]:
            schedule = FlowSchedule.partial(request.steps, request.strength)
        target = self._velocity(request.prompt, request.negative, schedule)
        if request.method == "image to image":

            def from_noised(streams: list[torch.Generator]) -> Iterator[FlowStep]:
                return edit.image_to_image(target, clean, streams, schedule, solver=request.solver, guidance=guidance)

            yield from self._pictures(request, from_noised, schedule.count)
        elif request.method == "masked":
            assert request.mask is not None  # the request refuses a region without one
            mask = fit_square(request.mask.convert("L"), self.side)
            free = masked_cells(mask, self.latent_side).view(self.latent_side, self.latent_side).to(clean.device)

            def blended(streams: list[torch.Generator]) -> Iterator[FlowStep]:
                return edit.masked(target, clean, free, streams, schedule, solver=request.solver, guidance=guidance)

            yield from self._pictures(request, blended, schedule.count, lambda p: paste_back(p, original, mask))
        else:
            described = request.source_prompt or (yield from self._describe(request.image))
            source = self._velocity(described, request.negative, schedule)
            backward = IntervalGuidance(request.image_guidance, request.guidance_interval)

            def carried(streams: list[torch.Generator]) -> Iterator[FlowStep]:
                return edit.flow_edit(
                    target, source, clean, streams, schedule, guidance=guidance, source_guidance=backward
                )

            yield from self._pictures(request, carried, schedule.count, source_prompt=described)

    def _describe(self, picture: Image.Image) -> Generator[Event, None, str]:
        """The model's own words for a picture."""
        yield Progress("encode", 0, 1, "pictures")
        text = ""
        question = ChatRequest(
            (Turn("user", DESCRIBE, (picture,)),), temperature=0, max_new_tokens=_LONGEST_DESCRIPTION
        )
        for event in self.chat(question):
            if isinstance(event, Finished):
                text = event.text.strip()
            else:
                yield Progress("encode", 0, 1, "pictures")
        if not text:
            raise AppError("description_empty")
        yield Notice(Message("picture_described", text=text))
        return text

    def _pictures(
        self,
        request: GenerateRequest | EditRequest,
        work: Work,
        steps: int,
        finish: Finish | None = None,
        source_prompt: str = "",
    ) -> Events:
        """Draw request.count pictures, self.batch at a time, and apply `finish` to each."""
        started = time.perf_counter()

        def draw(before: tuple[Picture, ...], count: int) -> Generator[Event, None, list[Picture]]:
            seed = request.seed + len(before)
            total, waiting = request.count * steps, request.count - len(before) - count
            blank = Image.new("RGB", (self.side, self.side), BLANK)
            for step in work(sampling.generators(seed, count)):
                done = len(before) * steps + step.done * count
                yield Progress("draw", done, total, "steps")
                if not bool(torch.isfinite(step.latent).all()):
                    raise sampling.non_finite_error(self.network.dtype)
                previews = self.autoencoder.preview(step.predicted)
                previews = [finish(preview) for preview in previews] if finish else previews
                yield Preview((*(p.image for p in before), *previews, *[blank] * waiting), done, total)
            drawn = []
            for i, latent in enumerate(step.latent):
                yield Progress("decode", len(before) + i, request.count, "pictures")
                picture = to_picture(self.autoencoder.decode(latent[None])[0])
                picture = finish(picture) if finish else picture
                drawn.append(Picture(picture, seed + i, source_prompt=source_prompt))
            return drawn

        yield from draw_in_batches(self, request.count, draw, started)

    def _velocity(self, prompt: str, negative: str, schedule: FlowSchedule) -> PromptVelocity:
        """The velocity of a prompt, which is read once, with the time embeddings of the whole schedule."""
        rows = [self.prompt_ids(prompt), self.prompt_ids(negative) if negative.strip() else []]
        velocity = PromptVelocity(self.network, *rows)
        velocity.prepare(schedule.time(step) for step in range(schedule.first, schedule.steps + 1))
        return velocity

    def prompt_ids(self, prompt: str) -> list[int]:
        """Up to the assistant's role; the time embedding takes the place of the begin-of-image behind it."""
        ids = self.tokenizer.encode(prompts.conversation([[prompt.strip()]], self.style, system=""))
        if len(ids) + 1 + self.cells > self.capabilities.context:
            context = self.capabilities.context
            raise AppError("prompt_too_long", tokens=len(ids), picture=self.cells + 1, context=context)
        return ids


def _token_names(folder: Path) -> Sequence[str]:
    """The names of the picture tokens, by processor_config.json; the last is that of end-of-image.

    In the reference's order, because it adds those the tokenizer lacks at the end of the vocabulary.
    """
    named = read_json(folder / "processor_config.json")
    names = (
        named.get("image_tag", IMAGE),
        named.get("image_gen_tag", "<｜begin▁of▁generation｜>"),
        named.get("image_start_tag", IMAGE_BEGIN),
        named.get("image_end_tag", IMAGE_END),
    )
    if names[0] != IMAGE or not all(isinstance(name, str) and name for name in names):
        raise AppError("picture_token_names_unusable")
    return names
