"""Stable Diffusion 3's transformer (Esser et al. 2024), which also reads the latents of a picture to change.

They stand before the latents to denoise as more tokens with the same positions. What does not change from step to step
is computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from janus_app.nn.fast.cuda_graphs import CudaGraphFunction
from janus_app.nn.fast.decode_step import can_capture


class Denoiser:
    """The transformer with its conditioning set once for all steps."""

    def __init__(self, network: nn.Module) -> None:
        self.network: Any = network
        self.rows = 0  # of guidance
        self._velocity: Callable[[Tensor, Tensor], Tensor]

    def release(self) -> None:
        """Let go of the conditioning, and of the memory of CUDA graphs."""
        self._velocity = _unconditioned

    @torch.inference_mode()
    def set_conditioning(self, captions: Tensor, pooled: Tensor, reference: Tensor | None = None) -> None:
        """captions [rows, N, C]; pooled [rows, P]; reference: latents [n, 16, h, w] of the picture to change."""
        network, self.rows = self.network, len(captions)
        context = network.context_embedder(captions)
        pooled = network.time_text_embed.text_embedder(pooled)
        tokens = None if reference is None else network.pos_embed(reference.to(context.dtype))
        # CUDA graphs read these tensors at their addresses, so new ones need new graphs.
        velocity = partial(_velocity, network, context, pooled, tokens)
        self._velocity = CudaGraphFunction(velocity) if can_capture(network, context.device) else velocity

    @torch.inference_mode()
    def __call__(self, latents: Tensor, time: Tensor) -> Tensor:
        """Velocities [rows, n, 16, h, w] before guidance, for latents [n, 16, h, w] at one time, 1000 (noise) to 0."""
        return self._velocity(latents, time.to(latents.device)).unflatten(0, (self.rows, -1))


def _unconditioned(latents: Tensor, time: Tensor) -> Tensor:
    raise AssertionError("set_conditioning comes first")


def _velocity(
    network: Any, context: Tensor, pooled: Tensor, reference: Tensor | None, latents: Tensor, time: Tensor
) -> Tensor:
    rows, count = len(context), len(latents)
    hidden = network.pos_embed(latents.to(context.dtype))
    cells = hidden.shape[1]
    if reference is not None:
        hidden = torch.cat([reference, hidden], dim=1)
    hidden = hidden.repeat(rows, 1, 1)
    embed = network.time_text_embed
    step = embed.timestep_embedder(embed.time_proj(time.expand(rows * count)).to(context.dtype))
    step = step + pooled.repeat_interleave(count, dim=0)
    text = context.repeat_interleave(count, dim=0)
    for block in network.transformer_blocks:
        text, hidden = block(hidden_states=hidden, encoder_hidden_states=text, temb=step)
    patches = network.proj_out(network.norm_out(hidden[:, -cells:], step)).float()
    side = network.config.patch_size
    height, width = (length // side for length in latents.shape[-2:])
    patches = patches.unflatten(1, (height, width)).unflatten(-1, (side, side, -1))
    out: Tensor = patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
    return out
