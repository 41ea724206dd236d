"""Between pictures and the latents that a model draws: the AutoencoderKL of diffusers (Rombach et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from janus_app.errors import AppError
from janus_app.models.common.config import Fields
from janus_app.models.common.config_sections import refuse_other_values
from janus_app.models.common.latent_preview import LatentPreview
from janus_app.models.common.lazy_import import importing

# Names of attention layers in checkpoints written before mid-2023.
_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_LARGEST_WIDTH = 4096


def build_autoencoder(raw: Mapping[str, Any], family: str) -> nn.Module:
    """The autoencoder a vae/config.json describes, built on the current default device.

    Raises AppError for another class of autoencoder, absurd numbers, or where diffusers, which `family` (a title)
    needs, is not installed.
    """
    if raw.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        raise AppError("autoencoder_class_wrong", given=str(raw["_class_name"])[:60])
    widths = raw.get("block_out_channels")
    if not isinstance(widths, list) or not 1 <= len(widths) <= 8:
        raise AppError("config_list_unusable", field="vae.block_out_channels", value=repr(widths)[:60])
    fields = Fields("vae", {**raw, **{f"block_out_channels.{i}": width for i, width in enumerate(widths)}})
    for name in ("latent_channels", "layers_per_block", *(f"block_out_channels.{i}" for i in range(len(widths)))):
        fields.whole(name, high=_LARGEST_WIDTH)
    fields.number("scaling_factor", 0.18215)
    refuse_other_values(fields, {"latents_mean": (), "latents_std": ()})
    try:
        with importing:
            from diffusers import AutoencoderKL
    except ImportError as error:
        raise AppError("family_package_missing", family=family, package="diffusers") from error
    try:
        return AutoencoderKL.from_config(dict(raw)).eval().requires_grad_(False)
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError, RuntimeError) as error:
        raise AppError("autoencoder_unusable", reason=str(error)[:200]) from error


def current_key(name: str) -> str:
    """The name that diffusers uses now for a tensor of an older checkpoint."""
    if ".attentions." in name:
        for old, new in _OLD_NAMES.items():
            name = name.replace(old, new)
    return name


class Autoencoder:
    """Pictures [n, 3, H, W] in -1..1 to latents [n, channels, H / factor, W / factor], and back.

    Latents are float32: (mean - shift) * scale of the encoder's output. Pictures go through one at a time: a batch
    would round differently, and a latent must give the same picture whatever else is drawn with it.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module: Any = module
        config: Any = self._module.config
        self.channels: int = config.latent_channels
        self.factor: int = 2 ** (len(config.block_out_channels) - 1)
        self._scale: float = config.scaling_factor
        self._shift: float = config.shift_factor or 0.0
        self._weight: Tensor = module.get_parameter("decoder.conv_in.weight")
        self._preview: LatentPreview | None = None

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """The mean of the encoder's distribution, not a sample of it: the same picture is the same latent."""
        return torch.cat([self.normalize(self.moments(row[None])[0]) for row in pixels])

    @torch.inference_mode()
    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the encoder's distribution for a picture [1, 3, H, W], not normalised."""
        found = self._module.encode(self._to_device(pixels)).latent_dist
        return found.mean.float(), found.std.float()

    def normalize(self, encoded: Tensor) -> Tensor:
        """Values of the encoder as latents."""
        return (encoded - self._shift) * self._scale

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [n, 3, H, W], about -1..1, in the autoencoder's own dtype."""
        raw = latents / self._scale + self._shift
        return torch.cat([self._module.decode(self._to_device(row[None])).sample for row in raw])

    def encode_picture(self, picture: Image.Image) -> Tensor:
        """An RGB picture whose sides are multiples of `factor` to its latent [1, channels, h, w]."""
        pixels = torch.from_numpy(np.array(picture)).float().permute(2, 0, 1) / 127.5 - 1
        return self.encode(pixels[None])

    def preview(self, latents: Tensor) -> list[Image.Image]:
        """Pictures in about the colours that decoding would give, at a thousandth of its cost."""
        if self._preview is None:
            self._preview = self._fit_preview()
        return self._preview(latents)

    def _fit_preview(self) -> LatentPreview:
        """A preview fitted to pictures of coloured clouds."""
        cells = 16
        clouds = torch.randn(4, 3, 4, 4, generator=torch.Generator("cpu").manual_seed(0))
        pictures = F.interpolate(clouds, scale_factor=cells * self.factor // 4, mode="bicubic").clamp(-1, 1)
        preview = LatentPreview(self.factor)
        preview.fit(self.encode(pictures), pictures)
        return preview

    def _to_device(self, x: Tensor) -> Tensor:
        return x.to(self._weight.device, self._weight.dtype)
