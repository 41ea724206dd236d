"""From the vectors of a picture to pixels: a visualiser's U-Net, guided away from zeros or from an empty caption."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from janus_app.models.common.denoiser import Denoiser
from janus_app.models.common.image_processor import BLANK, to_rounded_picture
from janus_app.models.common.latent_preview import LatentPreview
from janus_app.models.regression.modeling import RegressionNetwork
from janus_app.nn import sampling
from janus_app.nn.diffusion import TextImageGuidance, denoise, evaluations
from janus_app.types import EditRequest, Event, GenerateRequest, Picture, Preview, Progress


@dataclass(frozen=True)
class Conditions:
    """Captions [rows, N, C], and what Stable Diffusion XL reads beside them (`Denoiser.set_conditioning`)."""

    captions: Tensor
    added: dict[str, Tensor]


class Painter:
    """Paints pictures with the U-Net of a network. scheduler: makes a new scheduler of diffusers."""

    def __init__(self, network: RegressionNetwork, scheduler: Callable[[], Any]) -> None:
        self.network, self._scheduler = network, scheduler
        self.denoiser = Denoiser(network.unet)
        vae = network.vae.config
        self._factor = 2 ** (len(vae.block_out_channels) - 1)
        self._scale, self._shift = vae.scaling_factor, vae.shift_factor or 0.0
        self.preview = LatentPreview(self._factor)

    @property
    def side(self) -> int:
        """Pixels a side of a picture."""
        return int(self.network.unet.config.sample_size) * self._factor

    @torch.inference_mode()
    def conditions(self, vectors: Tensor, unconditional: Tensor | None, guidance: float) -> Conditions:
        """Conditions of the rows that guidance mixes, from vectors [V, width].

        unconditional: the vectors that guidance leads away from; None stands for conditions of zeros.
        """
        said = self._conditions(vectors)
        if guidance == 1:
            return said
        other = self._conditions(vectors if unconditional is None else unconditional)
        weight = 0 if unconditional is None else 1
        captions = torch.cat([weight * other.captions, said.captions])
        return Conditions(captions, {name: torch.cat([other.added[name], said.added[name]]) for name in said.added})

    def _conditions(self, vectors: Tensor) -> Conditions:
        adapter = self.network.adapter
        assert adapter is not None
        like = next(adapter.parameters())
        given = vectors[None].to(like.device, like.dtype)
        if (pooled := adapter.pooled(given)) is None:
            return Conditions(adapter(given), {})
        size = torch.tensor([[self.side, self.side, 0, 0, self.side, self.side]], device=like.device)
        return Conditions(adapter(given), {"text_embeds": pooled, "time_ids": size.to(like.dtype)})

    def paint(
        self,
        request: GenerateRequest | EditRequest,
        conditions: Conditions,
        before: tuple[Picture, ...],
        count: int,
    ) -> Generator[Event, None, list[Picture]]:
        """`count` pictures of the request from seed + len(before) on, with a preview after each step."""
        self.denoiser.set_conditioning(conditions.captions, conditions.added)
        solver, seed = self._scheduler(), request.seed + len(before)
        guidance = TextImageGuidance(request.guidance)
        steps = evaluations(solver, request.steps)
        total = request.count * steps
        blanks = [Image.new("RGB", (self.side, self.side), BLANK)] * (request.count - len(before) - count)
        latents = self._noise(seed, count)
        for number, step in enumerate(denoise(self.denoiser, solver, latents, guidance, request.steps), 1):
            latents, done = step.latents, len(before) * steps + number * count
            yield Progress("draw", done, total, "steps")
            if not self.preview.fitted:
                self.preview.fit(step.predicted[:1], self.decode(step.predicted[:1]))
            yield Preview((*(p.image for p in before), *self.preview(step.predicted), *blanks), done, total)
        drawn, decoded = [], []
        for i in range(count):
            yield Progress("decode", len(before) + i, request.count, "pictures")
            decoded.append(self.decode(latents[i : i + 1]))
            drawn.append(Picture(to_rounded_picture(decoded[-1][0]), seed + i))
        self.preview.fit(latents, torch.cat(decoded))
        return drawn

    def _noise(self, seed: int, count: int) -> Tensor:
        """[count, c, S, S] float32: picture i from seed + i, whatever is painted beside it."""
        unet = self.network.unet.config
        shape = (unet.in_channels, unet.sample_size, unet.sample_size)
        rows = [torch.randn(shape, generator=stream) for stream in sampling.generators(seed, count)]
        return torch.stack(rows).to(self.network.device)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [n, 3, H, W], about -1..1, float32 in main memory."""
        vae = self.network.vae
        like = next(vae.decoder.parameters())
        raw = (latents / self._scale + self._shift).to(like.device, like.dtype)
        pixels: Tensor = vae.decode(raw).sample.float().cpu()
        return pixels
