"""The diffuser: conditioning held once for all steps, guidance between rows, and the solver's steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.nn.fast.cuda_graphs import replaying
from janus_app.nn.fast.decode_step import recordable


class HeldAttention:
    """Cross-attention whose keys and values were computed beforehand: captions do not change from step to step.

    A processor for diffusers' Attention. key and value are [rows, heads, N, head_dim].
    """

    def __init__(self) -> None:
        self.key = self.value = torch.empty(0)

    def hold(self, attention: Any, captions: Tensor) -> None:
        key, value = attention.to_k(captions), attention.to_v(captions)
        if attention.norm_k is not None:
            key = attention.norm_k(key)
        self.key, self.value = (part.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for part in (key, value))

    def __call__(self, attention: Any, hidden_states: Tensor, *unused: Any, **also_unused: Any) -> Tensor:
        rows, steps, _ = hidden_states.shape
        query = attention.to_q(hidden_states)
        if attention.norm_q is not None:
            query = attention.norm_q(query)
        query = query.view(rows, steps, attention.heads, -1).transpose(1, 2)
        key, value = (self._each(part, rows) for part in (self.key, self.value))
        out = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(rows, steps, -1)
        for layer in attention.to_out:
            out = layer(out)
        return out / attention.rescale_output_factor

    @staticmethod
    def _each(part: Tensor, rows: int) -> Tensor:
        """One caption row for every picture that is drawn with it."""
        return part.repeat_interleave(rows // part.shape[0], dim=0)


class Denoiser:
    """SANA or a U-Net whose conditioning is set once and serves every step."""

    def __init__(self, network: nn.Module) -> None:
        self.network: Any = network
        self.rows = 0
        self._crossings: list[tuple[Any, HeldAttention]] = []
        for name, module in self.network.named_modules():
            if name.endswith("attn2"):
                held = HeldAttention()
                module.set_processor(held)
                self._crossings.append((module, held))
        self._caption = torch.empty(0)
        self._replay: Callable[[Tensor, Tensor], Tensor] | None = None

    @torch.inference_mode()
    def hold(self, captions: Tensor) -> None:
        """Set the conditioning [rows, N, C]. SANA projects captions before its blocks see them: that is done here."""
        self.rows = captions.shape[0]
        self._caption = captions[:1, :1]  # the networks ask for captions, but nothing reads them any more
        if hasattr(self.network, "caption_projection"):
            captions = self.network.caption_norm(self.network.caption_projection(captions))
        for attention, held in self._crossings:
            held.hold(attention, captions)
        # Recordings read what is held at its place, so they are made anew with it.
        self._replay = replaying(self._outputs) if recordable(self.network, captions.device) else None

    @torch.inference_mode()
    def __call__(self, latents: Tensor, time: Tensor) -> Tensor:
        """Raw outputs [rows, count, c, S, S] for latents [count, c, S, S] at one time of the solver."""
        outputs = self._replay or self._outputs
        return outputs(latents, time.to(latents.device)).unflatten(0, (self.rows, -1))

    def _outputs(self, latents: Tensor, time: Tensor) -> Tensor:
        batch = latents.to(self._caption.dtype).repeat(self.rows, 1, 1, 1)
        captions = self._caption.expand(len(batch), -1, -1)
        times = time.expand(len(batch))
        found = self.network(batch, encoder_hidden_states=captions, timestep=times, return_dict=False)[0]
        return found.float()


@dataclass(frozen=True)
class Guidance:
    """Weights of the text (Ho and Salimans 2022) and of the input pictures (InstructPix2Pix, section 3.2)."""

    text: float
    pictures: float = 1.0

    @property
    def of_pictures(self) -> bool:
        """Whether input pictures have a weight of their own; up to 1 they have none, as in the reference."""
        return self.pictures > 1

    def mix(self, rows: Tensor) -> Tensor:
        """[rows, ...] to [...]. Rows: caption alone; negative, caption; or nothing seen, negative, caption."""
        *less, caption = rows
        if not less:
            return caption
        negative = less[-1]
        # The published order of operations, kept for its rounding.
        start = negative if len(less) == 1 else less[0] + self.pictures * (negative - less[0])
        return start + self.text * (caption - negative)


@dataclass(frozen=True)
class Step:
    """After a step: the latents it led to, what the finished ones look like from here, and the raw outputs."""

    latents: Tensor
    predicted: Tensor
    raw: Tensor
    guided: Tensor


def denoise(denoiser: Denoiser, solver: Any, noise: Tensor, guidance: Guidance, steps: int) -> Iterator[Step]:
    """Noise [count, c, S, S] in float32 to latents, step by step, with the conditioning the denoiser holds.

    solver is a fresh diffusers scheduler: it keeps the outputs of the steps before.
    """
    solver.set_timesteps(steps)
    latents = noise
    for time in solver.timesteps:
        step = _step(denoiser, solver, latents, guidance, time)
        latents = step.latents
        yield step


@torch.inference_mode()
def _step(denoiser: Denoiser, solver: Any, latents: Tensor, guidance: Guidance, time: Tensor) -> Step:
    raw = denoiser(latents, time)
    guided = guidance.mix(raw)
    after = solver.step(guided, time, latents, return_dict=False)[0]
    return Step(after, solver.model_outputs[-1], raw, guided)
