"""All parts of a MetaQuery checkpoint in one module, built from configs alone, and the names its tensors go by.

The language model is transformers', the diffuser and its picture decoder are diffusers' (SANA with DC-AE, or the
U-Net of Stable Diffusion 1.5), the connector is ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from janus_app.errors import AppError
from janus_app.models.checkpoint import read_json
from janus_app.models.metaquery.config import Components, MetaQueryConfig
from janus_app.models.metaquery.connector import HEAD_DIM, connector
from janus_app.models.metaquery.mllm import Mllm, language_model

# Pictures enter through the language model alone, so the encoding half of the autoencoder has no part in drawing.
UNUSED_PREFIXES = ("vae.encoder.", "vae.quant_conv.")
_MLLM = "model.mllm_backbone."
MARKERS = 2  # embedding rows around the queries: begin and end of image


class MetaQueryNetwork(nn.Module):
    """`mllm`, `connector`, `transformer` (the diffuser), `vae` and, where words need a head of their own, `lm_head`."""

    def __init__(self, config: MetaQueryConfig, reader: Mllm, transformer: nn.Module, vae: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.mllm = reader.network
        width = reader.hidden_size
        if width % HEAD_DIM:
            raise AppError(
                f"The language model is {width} wide, which is no multiple of {HEAD_DIM}: no connector fits."
            )
        self.connector = connector(width, config.connector_layers, caption_width(transformer))
        self.transformer = transformer
        self.vae = vae
        self.lm_head = None if reader.tied else nn.Linear(width, reader.vocabulary, bias=False)

    @property
    def device(self) -> torch.device:
        return self._like.device

    @property
    def dtype(self) -> torch.dtype:
        return self._like.dtype

    @property
    def _like(self) -> Tensor:
        return self.connector.get_parameter("1.weight")


def build(config: MetaQueryConfig, components: Components) -> tuple[MetaQueryNetwork, Mllm]:
    """The network on the meta device, with the reader that wraps its language model.

    Raises AppError where a component is missing, of another architecture, or does not fit the checkpoint's config.
    """
    try:
        import diffusers
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise AppError(
            f"MetaQuery needs the package {error.name}, which is not installed. "
            "Run `python -m pip install transformers diffusers`."
        ) from error
    diffusers.utils.logging.set_verbosity_error()  # it remarks on every field of a config it does not know
    with torch.device("meta"):
        reader = language_model(components.folder(config.mllm_id), config.queries + MARKERS)
        transformer = _denoiser(diffusers, config, components)
        vae = _decoder(diffusers, config, components)
        network = MetaQueryNetwork(config, reader, transformer, vae)
    return network.eval().requires_grad_(False), reader


def _denoiser(diffusers: Any, config: MetaQueryConfig, components: Components) -> nn.Module:
    folder = components.folder(config.diffusion_id)
    for part, kind in (("transformer", diffusers.SanaTransformer2DModel), ("unet", diffusers.UNet2DConditionModel)):
        if (folder / part / "config.json").is_file():
            raw = read_json(folder / part / "config.json")
            if raw.get("_class_name") != kind.__name__:
                raise AppError(
                    f"{config.diffusion_id} holds a {raw.get('_class_name')}; MetaQuery draws with "
                    "SanaTransformer2DModel or UNet2DConditionModel."
                )
            if raw.get("in_channels") != config.latent_channels:
                raise AppError(
                    f"{config.diffusion_id} draws {raw.get('in_channels')} latent channels, the checkpoint asks for "
                    f"{config.latent_channels}: they do not belong together."
                )
            return kind.from_config(raw)
    raise AppError(
        f"{folder} holds neither transformer/config.json (SANA) nor unet/config.json. Download that repository again."
    )


def _decoder(diffusers: Any, config: MetaQueryConfig, components: Components) -> nn.Module:
    file = components.folder(config.vae_id) / "vae" / "config.json"
    raw = read_json(file)
    kinds = {kind.__name__: kind for kind in (diffusers.AutoencoderDC, diffusers.AutoencoderKL)}
    if raw.get("_class_name") not in kinds:
        raise AppError(f"{file} describes a {raw.get('_class_name')}; MetaQuery decodes with {' or '.join(kinds)}.")
    vae = kinds[raw["_class_name"]].from_config(raw)
    if vae.config.latent_channels != config.latent_channels:
        raise AppError(
            f"{config.vae_id} decodes {vae.config.latent_channels} latent channels, the checkpoint asks for "
            f"{config.latent_channels}: they do not belong together."
        )
    vae.encoder = nn.Identity()
    if getattr(vae, "quant_conv", None) is not None:
        vae.quant_conv = nn.Identity()
    return vae


def caption_width(transformer: Any) -> int:
    """Channels of the conditioning the diffuser was trained with."""
    return int(transformer.config.get("caption_channels") or transformer.config["cross_attention_dim"])


def scheduler(config: MetaQueryConfig, components: Components) -> Any:
    """DPM-Solver++ (Lu et al. 2022) with the numbers of the scheduler's own file, whatever solver that names."""
    from diffusers import DPMSolverMultistepScheduler

    file = components.folder(config.scheduler_id) / "scheduler" / "scheduler_config.json"
    return DPMSolverMultistepScheduler.from_config(read_json(file))


def own_name(name: str, network: MetaQueryNetwork, reader: Mllm) -> str:
    """Where a tensor of the checkpoint belongs in the network; names it does not know come back as they are."""
    if not name.startswith(_MLLM):
        return name.removeprefix("model.")
    inner = name.removeprefix(_MLLM)
    if inner.removeprefix("language_model.") == "lm_head.weight":
        return "lm_head.weight"
    ours = f"mllm.{reader.own_name(inner)}"
    if ".vision_model." in ours and not hasattr(getattr(network.mllm, "vision_tower", None), "vision_model"):
        ours = ours.replace(".vision_model.", ".", 1)  # newer releases of transformers lost this level
    return ours


def fill_buffers(network: MetaQueryNetwork, reader: Mllm) -> None:
    """Give the language model the tables that no checkpoint holds (rotary frequencies, position numbers).

    They follow from the config alone, so a twin of one narrow layer, built in memory, has the same ones.
    """
    missing = {name for name, buffer in network.named_buffers() if buffer.is_meta}
    if not missing:
        return
    with torch.device("cpu"):
        twin = dict(reader.small_twin().named_buffers(prefix="mllm"))
    for name in missing:
        if name not in twin:
            raise AppError(f"The checkpoint lacks {name}. It is incomplete; download it again.")
        path, leaf = name.rsplit(".", 1)
        network.get_submodule(path).register_buffer(leaf, twin[name].to(network.device), persistent=False)
