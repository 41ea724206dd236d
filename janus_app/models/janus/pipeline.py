"""A loaded Janus or Janus-Pro: chat, generate and edit, the token view and ranking."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from janus_app.errors import AppError, Message, is_out_of_memory
from janus_app.models.common import prompts
from janus_app.models.common.batching import draw_in_batches, free_memory
from janus_app.models.common.image_processor import BLANK, fit_square, masked_cells, to_picture
from janus_app.models.common.preview_pace import DrawingTime, PreviewPace
from janus_app.models.common.tokenizer import IMAGE_BEGIN, IMAGE_END, PAD
from janus_app.models.janus import edit, think
from janus_app.models.janus.candidates import candidates_for, kept_log_likelihood, varied
from janus_app.models.janus.draw import SamplingRule, decode_tokens, draw_tokens, drawn_range
from janus_app.models.janus.inspect import inspect_tokens, swap_token
from janus_app.models.janus.jacobi import jacobi_decode, window_size
from janus_app.models.janus.modeling import JanusNetwork
from janus_app.models.janus.row_previews import RowPreviews, Sketch
from janus_app.models.janus.thinker import ThinkingMixin
from janus_app.nn import sampling
from janus_app.types import (
    MAX_COUNT,
    VERBS,
    Capabilities,
    EditRequest,
    Event,
    Events,
    Finished,
    GenerateRequest,
    InspectRequest,
    Notice,
    Picture,
    Preview,
    Progress,
    SwapRequest,
    Thinking,
    saying,
)


class JanusModel(ThinkingMixin):
    """The network with its tokenizer and image processor. Not thread-safe.

    context: tokens that the weights were trained to hold. roles: how the conversation's roles are written. methods: the
    edit methods that the weights were trained for. thinking: how they were taught to think. The manifest has all four,
    config.json none.
    """

    network: JanusNetwork

    def __init__(
        self,
        network: JanusNetwork,
        folder: Path,
        *,
        context: int,
        roles: str = "",
        methods: Sequence[str] = (),
        thinking: Thinking | None = None,
    ) -> None:
        config = network.config
        super().__init__(folder, config.language, config.vision, roles=roles, special=(IMAGE_BEGIN, IMAGE_END, PAD))
        self.network = network
        self.picture = prompts.picture_pieces(self.picture_tokens)
        self.grid = config.grid
        self.side = self.grid * config.vq.cell
        self.batch = MAX_COUNT
        self._decode_seconds: float | None = None  # the least that a picture took, once one was decoded
        self._cell_seconds: float | None = None  # what a cell took in the last batch
        self._sketch = Sketch(network, self.grid)
        self.capabilities = Capabilities(
            verbs=frozenset(VERBS),
            size=(self.side, self.side),
            context=min(context, config.language.max_position_embeddings),
            cell=config.vq.cell,
            edit_methods={name: edit.EDIT_METHODS[name] for name in methods or edit.UNTRAINED_METHODS},
            thinking=thinking,
        )

    # ---- pictures

    def generate(self, request: GenerateRequest) -> Events:
        """Draw, with a preview after every row but the last; or decode `image_tokens`; or go on from `keep` of them."""
        known = torch.full((self.grid**2,), -1)
        if request.image_tokens:
            tokens = self._fitting(request.image_tokens)
            if request.keep is None or request.keep == len(tokens):
                return self._redraw(request)
            known[: request.keep] = tokens[: request.keep]
        thinking = self.capabilities.thinking
        if request.plan and not (thinking and thinking.ask):
            raise AppError("plan_untaught")
        if request.think and not thinking:
            raise AppError("thinking_untaught")
        return self._pictures(request, known)

    def inspect(self, request: InspectRequest) -> Events:
        """The facts of every token of a picture, as drawn with the prompt and settings of the request."""
        tokens = self._fitting(request.image_tokens)
        return inspect_tokens(self.network, self.prompt_rows(request, both=True), tokens, self.grid, request)

    def swap(self, request: SwapRequest) -> Events:
        """The picture decoded with each of `tokens` at one cell."""
        self._fitting(request.tokens, cells=len(request.tokens))
        return swap_token(self.network, self._fitting(request.image_tokens), request)

    def edit(self, request: EditRequest) -> Events:
        """Redraw a region of a picture's image tokens or all below its kept top, or follow an instruction."""
        methods = self.capabilities.edit_methods
        if request.method not in methods:
            raise AppError("edit_method_unknown", given=request.method, known=", ".join(methods))
        return self._edit(request)

    def _edit(self, request: EditRequest) -> Events:
        width, height = request.image.size
        if width != height:
            yield Notice(Message("picture_cropped"))
        square = fit_square(request.image, self.side)
        tokens = self._encode(square)
        if request.method == "instruct":
            yield Progress("encode", 0, 1, "pictures")
            blank, rows = torch.full_like(tokens, -1), self._instruction_rows(request, square, tokens)
            yield from self._pictures(request, blank, rows)
            return
        if request.method == "region":
            assert request.mask is not None  # the request refuses a region without one
            cells = masked_cells(fit_square(request.mask.convert("L"), self.side), self.grid)
        else:
            drawn = max(1, round(request.strength * len(tokens)))
            cells = torch.arange(len(tokens)) >= len(tokens) - drawn
        yield from self._pictures(request, torch.where(cells, -1, tokens))

    def _fitting(self, tokens: Sequence[int], cells: int | None = None) -> Tensor:
        """Image tokens as a tensor on the CPU. Raises AppError where they are not this model's."""
        cells, codes = cells or self.grid**2, self.network.config.vq.codebook_size
        if len(tokens) != cells or not all(0 <= t < codes for t in tokens):
            raise AppError("image_tokens_unfit", cells=cells, codes=codes)
        return torch.tensor(tokens)

    def _redraw(self, request: GenerateRequest) -> Events:
        started = time.perf_counter()
        decode = partial(Progress, "decode", 0, 1, "pictures")
        tokens = torch.tensor([request.image_tokens], device=self.network.device)
        pixels = yield from saying(decode, decode_tokens(self.network, tokens))
        picture = Picture(to_picture(pixels[0]), request.seed, request.image_tokens, plan=request.plan)
        yield Finished(pictures=(picture,), compute_seconds=time.perf_counter() - started)

    def _pictures(self, request: GenerateRequest | EditRequest, known: Tensor, rows: Sequence[Tensor] = ()) -> Events:
        """Draw the unknown (-1) of the image tokens `known`; `rows`: the embedded prompt, where it is made already."""
        started = time.perf_counter()
        draw: Callable[..., Generator[Event, None, list[Picture]]] = self._batch
        if isinstance(request, GenerateRequest) and request.think and not request.plan:
            thinking = self.capabilities.thinking
            assert thinking is not None
            if thinking.ask:
                request = replace(request, plan=(yield from self._plan(request, thinking)))
            else:
                draw = self._judged_batch
        elif isinstance(request, EditRequest) and candidates_for(known, request.temperature) > 1:
            draw = self._region_batch
        rows = rows or self.prompt_rows(request)
        yield from draw_in_batches(
            self, request.count, lambda before, count: draw(request, rows, known, before, count), started
        )

    def _batch(
        self,
        request: GenerateRequest | EditRequest,
        rows: Sequence[Tensor],
        known: Tensor,
        before: tuple[Picture, ...],
        count: int,
        attempt: int = 0,
        candidates: int = 1,
    ) -> Generator[Event, None, list[Picture]]:
        """Draw and return `count` pictures, from seed + len(before) on. `RowPreviews` come after rows, but the last.

        Each is the one of `candidates` that the kept tokens fit best; the first of them is in the previews.
        """
        seed = request.seed + len(before)
        attempts = [seed + (attempt + one) * think.SECOND_ATTEMPT for one in range(candidates)]
        streams = [stream for first in attempts for stream in sampling.generators(first, count)]
        codes = self.network.config.vq.codebook_size
        at_own_temperature = partial(varied, own=count, temperature=request.temperature)
        rule = SamplingRule(
            request.guidance,
            request.temperature,
            lambda cells: at_own_temperature(sampling.exponential_noise(streams, codes, cells)),
            request.image_guidance if isinstance(request, EditRequest) and request.method == "instruct" else None,
        )
        unknown_up_to = (known < 0).cumsum(0).tolist()
        steps, waiting = unknown_up_to[-1], request.count - len(before) - count
        blank = Image.new("RGB", (self.side, self.side), BLANK)
        tokens, previews = known.repeat(count, 1), True
        pace = PreviewPace(self._decode_seconds and self._decode_seconds * count).begun(time.perf_counter())
        shown = RowPreviews(self.network, known, self.grid, pace, self._sketch)
        first, last = drawn_range(known)
        ahead = DrawingTime(pace, first, last, self.grid, waiting / count, self._cell_seconds if before else None)
        finished = first // self.grid  # rows

        def at(cell: int) -> Progress:
            done, left = len(before) * steps + unknown_up_to[cell] * count, ahead.left(cell, time.perf_counter())
            return Progress("draw", done, request.count * steps, "tokens", seconds_left=left)

        for cell, tokens in self._cells(request, rows, count * candidates, rule, known):
            yield (progress := at(cell))
            more, finished = (cell + 1) // self.grid > finished, (cell + 1) // self.grid
            if previews and more and cell < last:
                try:
                    parts = yield from shown.after(cell, tokens[:count], progress)
                except Exception as error:  # losing a preview is better than losing the picture
                    if not is_out_of_memory(error):
                        raise
                    previews = False
                    yield Notice(Message("previews_without_memory"))
                    continue
                if parts:
                    images = (*(p.image for p in before), *parts, *[blank] * waiting)
                    yield Preview(images, progress.done, progress.total)
        self._cell_seconds = ahead.each
        if candidates > 1:
            tokens = yield from saying(lambda: at(last), self._best_fit(rows[0], tokens, known, count))
        return (yield from self._decoded(request, tokens, len(before), ahead))

    def _region_batch(
        self,
        request: EditRequest,
        rows: Sequence[Tensor],
        known: Tensor,
        before: tuple[Picture, ...],
        count: int,
    ) -> Generator[Event, None, list[Picture]]:
        """As `_batch`, with several candidates for each picture, or one where there is no memory for more."""
        drawn: list[Picture] = []
        wanted = candidates_for(known, request.temperature)
        while len(drawn) < count:
            try:
                drawn += yield from self._batch(request, rows, known, (*before, *drawn), 1, candidates=wanted)
                continue
            except Exception as error:
                if wanted == 1 or not is_out_of_memory(error):
                    raise
            free_memory()
            wanted = 1
        return drawn

    def _best_fit(self, prompt: Tensor, tokens: Tensor, known: Tensor, count: int) -> Generator[None, None, Tensor]:
        """Of the candidates [candidates * count, cells] the tokens [count, cells] that the kept ones fit best."""
        scores = []
        for row in tokens:
            yield
            scores.append(kept_log_likelihood(self.network, prompt, row, known))
        best = torch.stack(scores).view(-1, count).argmax(0)
        return tokens.view(-1, count, tokens.shape[1])[best, torch.arange(count, device=tokens.device)]

    def _cells(
        self,
        request: GenerateRequest | EditRequest,
        rows: Sequence[Tensor],
        count: int,
        rule: SamplingRule,
        known: Tensor,
    ) -> Iterator[tuple[int, Tensor]]:
        """The tokens [count, cells] each time that all up to a cell are drawn, with that cell."""
        if request.turbo and window_size(len(rows) * count, self.network.device) > 1:
            return jacobi_decode(self.network, rows, count, rule, known)
        return enumerate(draw_tokens(self.network, rows, count, rule, known), drawn_range(known)[0])

    def _decoded(
        self, request: GenerateRequest | EditRequest, tokens: Tensor, before: int, ahead: DrawingTime
    ) -> Generator[Event, None, list[Picture]]:
        """The pictures of drawn tokens [count, cells], of which `before` were finished earlier."""
        drawn, count = list[Picture](), len(tokens)
        plan, started = getattr(request, "plan", ""), time.perf_counter()

        def progress() -> Progress:
            left = ahead.decoding(time.perf_counter() - started)
            return Progress("decode", before + len(drawn), request.count, "pictures", seconds_left=left)

        for row in tokens:
            pixels = yield from saying(progress, decode_tokens(self.network, row[None]))
            seed = request.seed + before + len(drawn)
            drawn.append(Picture(to_picture(pixels[0]), seed, tuple(row.tolist()), plan=plan))
        seconds = (time.perf_counter() - started) / count
        self._decode_seconds = min(seconds, self._decode_seconds or seconds)  # others may have used the processor
        return drawn

    @torch.inference_mode()
    def prompt_rows(self, request: GenerateRequest | EditRequest | InspectRequest, both: bool = False) -> list[Tensor]:
        """The embedded conditional row and, unless guidance is 1 and not `both` are wanted, the unconditional one.

        Unconditional: begin-of-sentence and begin-of-image stay, all between becomes padding *that is attended to*, as
        in training. A negative prompt replaces that row.
        """
        thinking, plan = self.capabilities.thinking, getattr(request, "plan", "")
        pieces = prompts.drawing(request.prompt, self.style)
        if thinking and plan:
            pieces = think.drawing(thinking, request.prompt, plan, self.style)
        ids = self.tokenizer.encode(pieces)
        if len(ids) + self.grid**2 > self.capabilities.context:
            context = self.capabilities.context
            raise AppError("prompt_too_long", tokens=len(ids), picture=self.grid**2, context=context)
        if request.guidance == 1 and not both:
            return [self._embed(ids)]
        return [self._embed(ids), self._embed(self._unconditional(ids, request.negative))]

    @torch.inference_mode()
    def _instruction_rows(self, request: EditRequest, square: Image.Image, tokens: Tensor) -> list[Tensor]:
        """The embedded prompt with image tokens, without them and, unless guidance is 1, the unconditional one."""
        ids = self.tokenizer.encode(edit.instruction(request.prompt, self.picture_tokens, len(tokens), self.style))
        if len(ids) + len(tokens) > self.capabilities.context:
            context = self.capabilities.context
            raise AppError("instruction_too_long", tokens=len(ids), picture=len(tokens), context=context)
        places = torch.tensor(ids, device=self.network.device) == self.tokenizer.id(PAD)
        rows = edit.instruction_rows(self.network, self._embed(ids, [square]), places, tokens)
        return rows if request.guidance == 1 else [*rows, self._embed(self._unconditional(ids, request.negative))]

    def _unconditional(self, ids: Sequence[int], negative: str) -> list[int]:
        """The unconditional row: the negative prompt or, where there is none, padding alone."""
        if negative.strip():
            return self.tokenizer.encode(prompts.drawing(negative, self.style))
        return [ids[0], *[self.tokenizer.id(PAD)] * (len(ids) - 2), ids[-1]]

    @torch.inference_mode()
    def _encode(self, picture: Image.Image) -> Tensor:
        """A native-size picture to its image tokens [cells] on the CPU."""
        vq = self.network.gen_vision_model
        weight = vq.quant_conv.weight
        pixels = (torch.from_numpy(np.array(picture)).float() / 127.5 - 1).permute(2, 0, 1)[None]
        return vq.encode(pixels.to(weight.device, weight.dtype))[0].cpu()
