"""Denoising networks of diffusers, SANA or Stable Diffusion's U-Net, with conditioning computed once for all steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.nn.fast.cuda_graphs import CudaGraphFunction
from janus_app.nn.fast.decode_step import can_capture


class CachedCrossAttention:
    """Cross-attention with precomputed keys and values: the captions do not change from step to step.

    A processor for diffusers' Attention. key and value are [rows, heads, N, head_dim].
    """

    def __init__(self) -> None:
        self.key = self.value = torch.empty(0)

    def set_captions(self, attention: Any, captions: Tensor) -> None:
        """Compute keys and values of captions [rows, N, C] with the layers of `attention`."""
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
        # Each caption serves all pictures that are drawn with it.
        key, value = (part.repeat_interleave(rows // part.shape[0], dim=0) for part in (self.key, self.value))
        out = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(rows, steps, -1)
        for layer in attention.to_out:
            out = layer(out)
        return out / attention.rescale_output_factor


class Denoiser:
    """SANA or a U-Net whose conditioning is set once and serves every step."""

    def __init__(self, network: nn.Module) -> None:
        self.network: Any = network
        self.rows = 0  # of guidance
        self._cross_attentions: list[tuple[Any, CachedCrossAttention]] = []
        for name, module in self.network.named_modules():
            if name.endswith("attn2"):
                processor = CachedCrossAttention()
                module.set_processor(processor)
                self._cross_attentions.append((module, processor))
        self._outputs: Callable[[Tensor, Tensor], Tensor]

    @torch.inference_mode()
    def set_conditioning(self, captions: Tensor, added: Mapping[str, Tensor] | None = None) -> None:
        """Set the captions [rows, N, C]. SANA projects captions before its blocks: that is done here, once.

        added: what the U-Net of Stable Diffusion XL reads beside them, "text_embeds" and "time_ids" [rows, ...].
        """
        self.rows = captions.shape[0]
        caption = captions[:1, :1]  # the networks take captions as an argument, but nothing reads them any more
        if hasattr(self.network, "caption_projection"):
            captions = self.network.caption_norm(self.network.caption_projection(captions))
        for attention, processor in self._cross_attentions:
            processor.set_captions(attention, captions)
        # CUDA graphs read the keys and values at their addresses, so new captions need new graphs.
        outputs = partial(_outputs, self.network, caption, self.rows, added or {})
        self._outputs = CudaGraphFunction(outputs) if can_capture(self.network, captions.device) else outputs

    @torch.inference_mode()
    def __call__(self, latents: Tensor, time: Tensor) -> Tensor:
        """Outputs [rows, n, C, S, S] before guidance, for latents [n, C, S, S] at one time of the scheduler."""
        return self._outputs(latents, time.to(latents.device)).unflatten(0, (self.rows, -1))


def _outputs(
    network: Any, caption: Tensor, rows: int, added: Mapping[str, Tensor], latents: Tensor, time: Tensor
) -> Tensor:
    batch = latents.to(caption.dtype).repeat(rows, 1, 1, 1)
    captions = caption.expand(len(batch), -1, -1)
    more = {name: part.repeat_interleave(len(latents), dim=0) for name, part in added.items()}
    options = {"added_cond_kwargs": more} if more else {}
    times = time.expand(len(batch))
    out = network(batch, encoder_hidden_states=captions, timestep=times, return_dict=False, **options)[0]
    result: Tensor = out.float()
    return result
