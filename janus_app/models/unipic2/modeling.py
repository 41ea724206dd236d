"""The networks of a UniPic2-Metaquery checkpoint in one module, and the names of its tensors.

The language model is transformers' Qwen2.5-VL, the transformer and the autoencoder are diffusers' classes for Stable
Diffusion 3; the conditioner between them is in conditioner.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from janus_app.errors import AppError, Message
from janus_app.files import read_json
from janus_app.models.common.autoencoder import build_autoencoder
from janus_app.models.common.lazy_import import importing
from janus_app.models.common.library_errors import library_errors_as_app_errors
from janus_app.models.common.mllm import ImageFeatures, Qwen25VL, fill_buffers, language_tables
from janus_app.models.unipic2.conditioner import Conditioner
from janus_app.models.unipic2.config import PATCH, checkpoint_root, parse_conditioner

HEAD = "lm_head.weight"
_CELL = 28  # pixels a side of a token of the language model, which stands for 32 of the picture
LARGEST = 1024  # pixels a side of a drawn picture; the model was trained on smaller ones


class Reader(Qwen25VL):
    """Qwen2.5-VL as UniPic2 uses it.

    A conversation shows pictures as Qwen2.5-VL does. A prompt to draw from has plain positions, in contrast, also
    where it shows a picture, and every 32 pixels of the picture are one token.
    """

    def read_queries(self, ids: list[int], features: list[ImageFeatures], queries: Tensor) -> Tensor:
        """The states [N, width] at the queries [N, width] behind a prompt."""
        embeds = self.embed(ids, features)
        embeds = torch.cat([embeds, queries[None].to(embeds.dtype)], dim=1)
        positions = torch.arange(embeds.shape[1], device=embeds.device).expand(3, 1, -1)
        return self.read(embeds, positions)[0, -len(queries) :]

    @torch.inference_mode()
    def encode_reference(self, picture: Image.Image) -> ImageFeatures:
        """The features of a picture in RGB whose sides are multiples of 32."""
        pixels = (picture.width // 32 * _CELL) * (picture.height // 32 * _CELL)
        return self._encode_image(picture, size=self._size(pixels, pixels))


class UniPic2Network(nn.Module):
    """`mllm`, `lm_head` unless tied to the embedding, `conditioner`, `transformer` and `vae`."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = parse_conditioner(raw)
        with library_errors_as_app_errors("Qwen2.5-VL"):
            self.language_config = Reader.parse(dict(raw["language"]))
            self.mllm = Reader.build(self.language_config)
        text = self.language_config.text_config
        if text.hidden_size != self.config.language_width:
            raise AppError("language_model_size_differs", component="Qwen2.5-VL")
        tied = self.language_config.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.conditioner = Conditioner(self.config)
        self.transformer = _transformer(raw["transformer"])
        self.vae = build_autoencoder(raw["vae"], "UniPic2")

    @property
    def head(self) -> Tensor:
        """The rows [words, width] that score words."""
        mllm: Any = self.mllm
        return mllm.get_input_embeddings().weight if self.lm_head is None else self.lm_head.weight

    @property
    def device(self) -> torch.device:
        return self.conditioner.meta_queries.device

    def finish(self) -> None:
        """What is left to do when the weights are in place: buffers that no checkpoint has, and the table of positions.

        Of the table the middle is read, as much as the largest picture needs; the rest is let go.
        """
        fill_buffers(self, language_tables(Reader, self.language_config, "mllm"), self.device)
        embed: Any = self.transformer.pos_embed
        side = min(embed.pos_embed_max_size, LARGEST // PATCH)
        middle = embed.cropped_pos_embed(side * embed.patch_size, side * embed.patch_size)
        embed.pos_embed_max_size, embed.pos_embed = side, nn.Parameter(middle.clone(), requires_grad=False)


def language_key(name: str) -> str:
    """The name in the network of a tensor of Qwen2.5-VL's own repository."""
    return name if name == HEAD else f"mllm.{Reader.remap_key(name)}"


def explain_mismatch(network: Any, name: str, found: bool) -> Message | None:
    """See `Family.explain_mismatch`."""
    if not name.startswith(("mllm.", "lm_head.")):
        return None
    if not found:
        return Message("language_model_incomplete")
    return Message("language_model_size_differs", component="Qwen2.5-VL")


def build(raw: Mapping[str, Any]) -> UniPic2Network:
    """The network on the current default device, from what `config.read_config` found.

    Raises AppError where a part is of another architecture or a package is missing.
    """
    try:
        with importing:
            import diffusers
            import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise AppError("family_package_missing", family="UniPic2", package=error.name) from error
    diffusers.utils.logging.set_verbosity_error()  # it warns about every field of a config that it does not know
    return UniPic2Network(raw).eval().requires_grad_(False)


def _transformer(raw: Mapping[str, Any]) -> Any:
    with importing:
        from diffusers import SD3Transformer2DModel

    classes = ("SD3Transformer2DKontextModel", "SD3Transformer2DModel")
    if (given := raw.get("_class_name")) not in classes:
        raise AppError("denoiser_unknown", component="transformer", given=str(given)[:60], known=", ".join(classes))
    with library_errors_as_app_errors("transformer"):
        return SD3Transformer2DModel.from_config({**raw, "_class_name": "SD3Transformer2DModel"})


def scheduler(folder: Path) -> Any:
    """A new flow matching solver of the checkpoint's own numbers. Raises AppError for a file that is of no use."""
    with importing:
        from diffusers import FlowMatchEulerDiscreteScheduler

    file = checkpoint_root(folder) / "scheduler" / "scheduler_config.json"
    with library_errors_as_app_errors(str(file)):
        solver = FlowMatchEulerDiscreteScheduler.from_config(read_json(file))
        solver.set_timesteps(1)  # fails where the schedule depends on something that is not known here
        return solver
