"""The network: a Llama for words, blocks for pictures beside it or the same ones, a patch codec, and an autoencoder.

All positions of a pass are of one kind, words or the cells of one picture, so the weights of that kind compute it.
Attention is one softmax over both kinds, because keys and values of both are in the same cache: words attend to what
is before them, cells also to the other cells of their picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from janus_app.errors import AppError, Message
from janus_app.models.common.autoencoder import build_autoencoder
from janus_app.models.common.components import AUTOENCODER
from janus_app.models.common.lazy_import import importing
from janus_app.models.common.mllm import fill_buffers
from janus_app.models.mixed_diffusion.codec import LinearCodec, UNetCodec, make_codec
from janus_app.models.mixed_diffusion.config import CELL, READER, MixedConfig, parse_config
from janus_app.models.mixed_diffusion.reader import build_reader, reader_buffers
from janus_app.nn.fast.cuda_graphs import CudaGraphFunction
from janus_app.nn.fast.decode_step import can_capture
from janus_app.nn.llama import Cache, DecoderConfig, KVCache, LlamaForCausalLM, LlamaModel
from janus_app.nn.prefix_cache import FullAttentionCache, Prefix, SharedPrefixCache

PICTURES = "image_model"
_TITLE = "Transfusion"


class PictureBlocks(LlamaModel):
    """Blocks and a final norm for pictures, which have no embeddings of words."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        del self.embed_tokens


class MixedNetwork(nn.Module):
    """`language_model`; `image_model` where pictures have blocks of their own; `codec` and `vae` where it can draw.

    `markers` [2, hidden]: begin-of-picture and end-of-picture where they are no words. `reader`: the tower of a base
    that reads pictures.
    """

    def __init__(self, config: MixedConfig, raw: Mapping[str, Any]) -> None:
        super().__init__()
        self.config, hidden = config, config.language.hidden_size
        self._raw = raw
        self.language_model = LlamaForCausalLM(config.language)
        self.image_model: PictureBlocks | None = None
        self.markers: nn.Parameter | None = None
        self.reader: nn.Module | None = build_reader(raw[READER]) if READER in raw else None
        if config.image is not None:
            self.image_model = PictureBlocks(config.language) if config.image.untied else None
            self.codec: LinearCodec | UNetCodec = make_codec(config.image, hidden)
            if config.image.own_markers:
                self.markers = nn.Parameter(torch.empty(2, hidden))
            self.vae: Any = build_autoencoder(raw[AUTOENCODER], _TITLE)

    @property
    def device(self) -> torch.device:
        return self._like.device

    @property
    def dtype(self) -> torch.dtype:
        return self._like.dtype

    @property
    def _like(self) -> Tensor:
        return self.language_model.model.embed_tokens.weight

    @property
    def picture_blocks(self) -> LlamaModel:
        return self.language_model.model if self.image_model is None else self.image_model

    def arrange(self) -> None:
        """What is left to do when the weights are in place: fuse linears, and make the buffers no checkpoint has."""
        for blocks in {self.language_model.model, self.picture_blocks}:
            blocks.fuse()
        if self.reader is not None:
            fill_buffers(self, reader_buffers(self._raw[READER]), self.device)

    def picture_embeds(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError  # `prefill.Network` asks for it; pictures enter as latents or features

    def text_embeds(self, ids: Tensor) -> Tensor:
        return self.language_model.model.embed_tokens(ids)

    def marked_embeds(self, ids: Tensor) -> Tensor:
        """Inputs [..., hidden] of words and of markers that are no words (-1, -2)."""
        embeds = self.text_embeds(ids.clamp(min=0))
        for number, marker in enumerate(() if self.markers is None else self.markers, 1):
            embeds = torch.where((ids == -number)[..., None], marker, embeds)
        return embeds

    def embeds(self, ids: Sequence[int], features: Sequence[Tensor] = ()) -> Tensor:
        """Inputs [T, hidden] of words and markers (-1, -2); `features` [n, hidden] stand at `CELL`."""
        row = torch.tensor(ids, device=self.device)
        embeds = self.marked_embeds(row)
        if features:
            embeds[row == CELL] = torch.cat(list(features)).to(embeds.dtype)
        return embeds

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        return KVCache(self.config.language, rows, capacity, device=self.device, dtype=self.dtype)

    def forward(self, embeds: Tensor, positions: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Inputs of words [rows, T, hidden] to final hidden states of the same shape."""
        return self.language_model.model(embeds, positions, cache)

    # ---- words and pictures

    @torch.inference_mode()
    def read(
        self, cache: KVCache, ids: Sequence[int], latents: Iterable[Tensor] = (), features: Sequence[Tensor] = ()
    ) -> Tensor:
        """Append a prompt to a cache of one row; returns the final states [T, hidden] of its last words.

        Pictures stand at `CELL`s of `ids`: either clean `latents` [1, C, h, w], or the tower's `features`, which are
        read as words are.
        """
        if features:
            return self(self.embeds(ids, features)[None], None, cache)[0]
        pictures, states = iter(latents), torch.empty(0)
        for is_picture, run in groupby(ids, lambda each: each == CELL):
            if is_picture:
                self.read_picture(cache, next(pictures))
            else:
                states = self(self.embeds(list(run))[None], None, cache)[0]
        return states

    @torch.inference_mode()
    def read_picture(self, cache: KVCache, latent: Tensor) -> None:
        """Append a clean picture [1, C, h, w] to a cache of one row, at time 0."""
        time = torch.zeros(1, dtype=torch.long, device=self.device)
        inputs, _ = self.codec.encode(latent.to(self.device, self.dtype), time)
        self.picture_blocks(inputs, None, FullAttentionCache(cache))

    def prefix(self, ids: Sequence[int], latents: Iterable[Tensor] = ()) -> Prefix:
        """What a picture behind a prompt attends to."""
        cache = self.new_cache(1, len(ids))
        self.read(cache, ids, latents)
        return Prefix.from_cache(cache, cache.length)


class NoisePredictor:
    """The noise (or velocity) in latents behind each of several prompts, which were read once.

    See `nn.diffusion.DenoisingNetwork`.

    The cells of a picture are written anew in every step and never kept: only a step itself reads them.
    """

    def __init__(self, network: MixedNetwork, prefixes: Sequence[Prefix]) -> None:
        self.rows, self._device = len(prefixes), network.device
        predict = partial(_noise, network, SharedPrefixCache(prefixes, causal=False))
        self._predict: Callable[[Tensor, Tensor], Tensor] = (
            CudaGraphFunction(predict) if can_capture(network.picture_blocks, network.device) else predict
        )

    @torch.inference_mode()
    def __call__(self, latents: Tensor, time: Tensor) -> Tensor:
        """Noise [prompts, n, C, h, w] float32 in latents [n, C, h, w] at one time."""
        return self._predict(latents, time.to(self._device)).unflatten(0, (self.rows, -1))


def _noise(network: MixedNetwork, cache: SharedPrefixCache, latents: Tensor, time: Tensor) -> Tensor:
    groups, count = len(cache.prefixes), len(latents)
    # All rows of a picture have the same latent at the same time, so the way in is computed once for them.
    inputs, skips = network.codec.encode(latents.to(network.dtype), time.expand(count))
    rows = inputs.repeat(groups, 1, 1)
    states = network.picture_blocks(rows, cache.positions(len(rows), rows.shape[1], rows.device), cache)
    repeated = tuple(skip.repeat(groups, 1, 1, 1) for skip in skips)
    return network.codec.decode(states, repeated, time.expand(len(rows))).float()


def build(raw: Mapping[str, Any]) -> MixedNetwork:
    """The network on the current default device, from what `layouts.read_config` found."""
    try:
        with importing:
            import diffusers
            import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise AppError("family_package_missing", family=_TITLE, package=error.name) from error
    diffusers.utils.logging.set_verbosity_error()  # it warns about every field of a config that it does not know
    return MixedNetwork(parse_config(raw), raw).eval().requires_grad_(False)


def explain_mismatch(network: MixedNetwork, name: str, found: bool) -> Message | None:
    """See `Family.explain_mismatch`."""
    part = name.partition(".")[0]
    if part in ("language_model", READER) and "base" in network._raw:
        return Message("language_half_other" if found else "language_half_incomplete")
    if not found and part in (PICTURES, "codec", "markers"):
        return Message("picture_half_incomplete")
    return None
