"""The network: a SigLIP tower, projectors, a Llama decoder, the head that writes vectors, and what paints them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_app.errors import AppError, Message
from janus_app.models.common.autoencoder import build_autoencoder
from janus_app.models.common.lazy_import import importing
from janus_app.models.common.library_errors import library_errors_as_app_errors
from janus_app.models.regression.adapter import Adapter
from janus_app.models.regression.config import (
    PAINTER,
    PLACE,
    TOWER_CONFIG,
    RegressionConfig,
    VectorConfig,
    parse_adapter,
    parse_config,
)
from janus_app.nn.llama import Cache, KVCache, LlamaForCausalLM
from janus_app.nn.siglip import SigLIP

UNUSED = "unused."  # names of tensors that checkpoints have and nothing reads
_TOWER = "model.vision_tower.vision_tower."
_TOWER_NAMES = {  # transformers' SigLIP -> ours
    "embeddings.patch_embedding.": "patch_embed.proj.",
    "embeddings.position_embedding.weight": "pos_embed",
    "encoder.layers.": "blocks.",
    "post_layernorm.": "norm.",
}
_BLOCK_NAMES = {"layer_norm": "norm", "self_attn.out_proj.": "attn.proj.", "self_attn.": "attn.", "_proj.": "."}
_OWN_NAMES = {  # the first is MetaMorph's, the others are those of the layout of Pisces
    "model.mm_projector.": "mm_projector.",
    "model.understanding_projector.": "mm_projector.",
    "model.generation_projector.": "write_projector.",
    "generation_head.": "vision_head.",
}
_LAYER = re.compile(r"blocks\.(\d+)\.")


class RegressionNetwork(nn.Module):
    """`language_model`, `tower`, `mm_projector`, `vision_head`; `adapter`, `unet` and `vae` where it can paint.

    `write_projector` reads vectors that the model wrote itself, where those that it sees go through another one.
    """

    def __init__(self, config: RegressionConfig, painter: Mapping[str, Any] | None) -> None:
        super().__init__()
        self.config = config
        hidden = config.language.hidden_size
        self.language_model = LlamaForCausalLM(config.language)
        self.tower = SigLIP(config.vision)
        self.mm_projector = _projector(config.read.width, hidden, config.projector)
        self.write_projector = None if config.shared else _projector(config.written.width, hidden, config.projector)
        self.vision_head = _head(config.head, hidden, config.written.width)
        self.adapter: Adapter | None = None
        if painter is not None:
            self.adapter = Adapter(parse_adapter(painter["adapter"]))
            self.unet: Any = build_unet(painter["unet"])
            self.vae: Any = _decoder(painter["vae"])

    @property
    def device(self) -> torch.device:
        return self._like.device

    @property
    def dtype(self) -> torch.dtype:
        return self._like.dtype

    @property
    def _like(self) -> Tensor:
        return self.language_model.model.embed_tokens.weight

    def arrange(self) -> None:
        """Join and fuse linears, once the weights are loaded; see `LlamaModel.fuse`."""
        self.tower.join_qkv()
        self.language_model.model.fuse()

    def features(self, pixels: Tensor) -> Tensor:
        """Pictures [n, 3, S, S] to vectors [n, V, width] as `config.read` has them."""
        return reduced(self.tower(pixels), self.config.read, self.config.reduction)

    def picture_embeds(self, pixels: Tensor) -> Tensor:
        """Pictures [n, 3, S, S] to decoder inputs [n, V, hidden]."""
        return self.mm_projector(self.features(pixels))

    def text_embeds(self, ids: Tensor) -> Tensor:
        return self.language_model.model.embed_tokens(ids)

    def prompt_embeds(self, ids: list[int], pictures: Tensor | None) -> Tensor:
        """Decoder inputs [T, hidden] of ids in which `PLACE` stands for one of the pictures' inputs [n, V, hidden]."""
        row = torch.tensor(ids, device=self.device)
        embeds = self.text_embeds(row.clamp(min=0))
        if pictures is not None:
            embeds[row == PLACE] = pictures.flatten(0, 1)
        return embeds

    def write(self, hidden: Tensor) -> Tensor:
        """Final hidden states [..., hidden] to the vectors [..., width] that the model writes there, float32."""
        vectors = self.vision_head(hidden).float()
        return F.normalize(vectors, dim=-1) if self.config.written.normalized else vectors

    def written_embeds(self, vectors: Tensor) -> Tensor:
        """Vectors of the model's own [..., width] to decoder inputs [..., hidden]."""
        projector = self.write_projector or self.mm_projector
        return projector(vectors.to(self.dtype))

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        return KVCache(self.config.language, rows, capacity, device=self.device, dtype=self.dtype)

    def forward(self, embeds: Tensor, positions: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Decoder inputs [rows, T, hidden] to final hidden states of the same shape."""
        return self.language_model.model(embeds, positions, cache)

    # ---- names

    def our_name(self, name: str) -> str:
        """The name in this network of a tensor of the checkpoint."""
        if name.startswith(_TOWER):
            return self._tower_name(name.removeprefix(_TOWER).removeprefix("vision_model."))
        if name.startswith("model.vision_proj."):
            return UNUSED + name
        for theirs, ours in _OWN_NAMES.items():
            if name.startswith(theirs):
                return ours + name.removeprefix(theirs)
        return f"language_model.{name}" if name.startswith(("model.", "lm_head.")) else name

    def _tower_name(self, name: str) -> str:
        for theirs, ours in _TOWER_NAMES.items():
            if name.startswith(theirs):
                name = ours + name.removeprefix(theirs)
        if name.startswith("blocks."):
            for theirs, ours in _BLOCK_NAMES.items():
                name = name.replace(theirs, ours)
        layer = _LAYER.match(name)
        behind = layer is not None and int(layer[1]) >= self.config.vision.layers
        if behind or name.startswith("head.") or (name.startswith("norm.") and not self.config.vision.normed):
            return f"{UNUSED}{name}"
        return f"tower.{name}"


def reduced(features: Tensor, vectors: VectorConfig, how: str) -> Tensor:
    """Features of a square grid [n, patches, width] brought to the grid of `vectors`, and normalised if these are.

    "bilinear": without antialiasing, corners not aligned, in float32. "mean": the mean of equal squares of cells.
    """
    count, dtype = features.shape[1], features.dtype
    if count != vectors.count:
        side = int(count**0.5)
        cells = features.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
        size = (vectors.grid, vectors.grid)
        if how == "mean":
            cells = F.adaptive_avg_pool2d(cells, size)
        else:
            cells = F.interpolate(cells, size=size, mode="bilinear", align_corners=False)
        features = cells.permute(0, 2, 3, 1).flatten(1, 2).to(dtype)
    return F.normalize(features, dim=-1) if vectors.normalized else features


def _projector(inner: int, outer: int, depth: int) -> nn.Module:
    """`depth` linears with exact GELUs between them; a single one is no sequence, as its names in checkpoints say."""
    linears = [nn.Linear(inner if i == 0 else outer, outer) for i in range(depth)]
    return linears[0] if depth == 1 else nn.Sequential(*_with_gelus(linears))


def _head(kind: str, hidden: int, width: int) -> nn.Module:
    """The head that writes vectors: two or three linears, or a single one for every other kind."""
    depth = {"mlp": 2, "mlp2x_gelu": 3}.get(kind, 1)
    linears = [nn.Linear(hidden, width if i == depth - 1 else hidden) for i in range(depth)]
    return linears[0] if depth == 1 else nn.Sequential(*_with_gelus(linears))


def _with_gelus(linears: list[nn.Linear]) -> list[nn.Module]:
    modules: list[nn.Module] = [linears[0]]
    for linear in linears[1:]:
        modules += [nn.GELU(), linear]
    return modules


def build_unet(raw: Mapping[str, Any]) -> nn.Module:
    """Stable Diffusion's U-Net as its config.json describes it. Raises AppError for another class of denoiser."""
    with importing:
        from diffusers import UNet2DConditionModel

    if (given := raw.get("_class_name", "UNet2DConditionModel")) != "UNet2DConditionModel":
        raise AppError("denoiser_unknown", component="unet", given=str(given)[:60], known="UNet2DConditionModel")
    with library_errors_as_app_errors("unet"):
        return UNet2DConditionModel.from_config(dict(raw))


def _decoder(raw: Mapping[str, Any]) -> nn.Module:
    """The half of the autoencoder that makes pictures."""
    vae: Any = build_autoencoder(raw, "MetaMorph")
    vae.encoder = nn.Identity()
    vae.quant_conv = nn.Identity()
    return vae


def build(raw: Mapping[str, Any]) -> RegressionNetwork:
    """The network on the current default device, from what `layouts.read_config` found."""
    try:
        with importing:
            import diffusers
    except ModuleNotFoundError as error:
        raise AppError("family_package_missing", family="MetaMorph", package=error.name) from error
    diffusers.utils.logging.set_verbosity_error()  # it warns about every field of a config that it does not know
    config = parse_config(raw, raw.get(TOWER_CONFIG))
    return RegressionNetwork(config, raw.get(PAINTER)).eval().requires_grad_(False)


def explain_mismatch(network: RegressionNetwork, name: str, found: bool) -> Message | None:
    """See `Family.explain_mismatch`."""
    part = name.partition(".")[0]
    if part in ("adapter", "unet") and found:
        return Message("visualizer_of_another_model")
    if not found and part not in ("adapter", "unet", "vae"):
        return Message("checkpoint_stage_one")
    return None
