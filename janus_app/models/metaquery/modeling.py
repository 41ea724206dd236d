"""The networks of a MetaQuery checkpoint in one module, built from configs alone, and the names of its tensors.

The language model is from transformers, the diffusion model and its picture decoder from diffusers (SANA with DC-AE, or
the U-Net of Stable Diffusion 1.5); the connector is in connector.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from janus_app.errors import AppError, Message
from janus_app.file_kinds import tensor_header
from janus_app.files import read_json
from janus_app.models.common.lazy_import import importing
from janus_app.models.common.library_errors import library_errors_as_app_errors
from janus_app.models.common.mllm import LlavaOneVision, Mllm, Qwen25VL, fill_buffers, language_tables
from janus_app.models.common.weight_files import find_weights
from janus_app.models.family import LanguageHalf, WeightSource
from janus_app.models.metaquery.config import Components, MetaQueryConfig, parse_config
from janus_app.models.metaquery.connector import HEAD_DIM, connector

_MLLM = "model.mllm_backbone."
HEAD = "lm_head.weight"
# The head's name in the language model's own files; training tools put their prefixes before it.
_HEAD = re.compile(r"((_orig_mod|module|base_model|model|language_model)\.)*lm_head\.weight")
PARTS = "parts"
MARKERS = 2  # embedding rows around the queries: begin and end of image


class _QwenOfMetaQuery(Qwen25VL):
    pixel_limits = (256 * 28 * 28, 1280 * 28 * 28)  # of its training


KINDS: dict[str, type[Mllm]] = {"llava_onevision": LlavaOneVision, "qwen2_5_vl": _QwenOfMetaQuery}


class MetaQueryNetwork(nn.Module):
    """`mllm`, `connector`, `transformer` (the denoiser), `vae` and, unless tied to the embedding, `lm_head`."""

    def __init__(self, config: MetaQueryConfig, parts: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.kind = _kind(config, parts["language"])
        with library_errors_as_app_errors(config.mllm_id):
            self.language_config = self.kind.parse(dict(parts["language"]))
        text = self.language_config.text_config
        self.tied = bool(self.language_config.tie_word_embeddings or text.tie_word_embeddings)
        self.lm_head: nn.Linear | None = None
        if parts.get("head") and not self.tied:
            self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        text.vocab_size += config.queries + MARKERS
        with library_errors_as_app_errors(config.mllm_id):
            self.mllm = self.kind.build(self.language_config)
        if text.hidden_size % HEAD_DIM:
            raise AppError("connector_width_unusable", width=text.hidden_size, head=HEAD_DIM)
        self.transformer = _denoiser(config, parts["denoiser"])
        self.connector = connector(text.hidden_size, config.connector_layers, caption_width(self.transformer))
        self.vae = _decoder(config, parts["vae"])

    @property
    def device(self) -> torch.device:
        return self._like.device

    @property
    def dtype(self) -> torch.dtype:
        return self._like.dtype

    @property
    def _like(self) -> Tensor:
        return self.connector.get_parameter("1.weight")

    def remap_key(self, name: str) -> str:
        """The name in this network of a tensor of the checkpoint; unknown names are returned unchanged."""
        if not name.startswith(_MLLM):
            return name.removeprefix("model.")
        inner = name.removeprefix(_MLLM)
        ours = f"mllm.{self.kind.remap_key(inner)}"
        if ".vision_model." in ours and not hasattr(getattr(self.mllm, "vision_tower", None), "vision_model"):
            ours = ours.replace(".vision_model.", ".", 1)  # newer releases of transformers lost this level
        return ours

    def explain_mismatch(self, name: str, found: bool) -> Message | None:
        """See `Family.explain_mismatch`."""
        if found and name.startswith(("mllm.", "connector.0.")):  # the connector is as wide as the language model
            return Message("language_model_size_differs", component=self.config.mllm_id)
        if not found and name.startswith("mllm."):
            return Message("language_model_incomplete")
        return None

    def fill_buffers(self) -> None:
        """Fill the buffers that no checkpoint holds, in language model and denoiser."""
        tables = language_tables(self.kind, self.language_config, "mllm")
        if any(buffer.is_meta for buffer in self.transformer.buffers()):  # SANA with an interpolation_scale
            denoiser: Any = self.transformer
            with torch.device("cpu"):
                narrow = type(denoiser).from_config({**denoiser.config, "num_layers": 0})
            tables |= dict(narrow.named_buffers(prefix="transformer"))
        fill_buffers(self, tables, self.device)


def build(raw: Mapping[str, Any]) -> MetaQueryNetwork:
    """The network on the current default device, from what `read_parts` found.

    Raises AppError where a part is of another architecture or does not fit the checkpoint's config.
    """
    _require_packages()
    return MetaQueryNetwork(parse_config(raw), raw[PARTS]).eval().requires_grad_(False)


def _require_packages() -> None:
    try:
        with importing:
            import diffusers
            import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise AppError("family_package_missing", family="MetaQuery", package=error.name) from error
    diffusers.utils.logging.set_verbosity_error()  # it warns about every field of a config that it does not know


def read_parts(raw: Mapping[str, Any], components: Components) -> dict[str, Any]:
    """config.json with what it refers to by name: the configs of the language model, the diffuser and its decoder.

    "head" among them is what `find_head` returns.
    """
    config = parse_config(raw)
    diffusion = components.folder(config.diffusion_id)
    denoiser = diffusion / "transformer" / "config.json"
    if not denoiser.is_file():
        denoiser = diffusion / "unet" / "config.json"
    language = components.folder(config.mllm_id)
    return {
        **raw,
        PARTS: {
            "language": read_json(language / "config.json"),
            "denoiser": read_json(denoiser),
            "vae": read_json(components.folder(config.vae_id) / "vae" / "config.json"),
            "head": find_head(language) or find_head(components.checkpoint),  # a quantized copy holds it itself
        },
    }


def language_half(folder: Path) -> LanguageHalf:
    """The frozen language model of the checkpoint in a folder, with its tower; see `Family.language_half`."""
    config = parse_config(read_json(folder / "config.json"))
    language = Components(folder, config).folder(config.mllm_id)
    head = find_head(language)

    def remap_key(name: str) -> str:
        doubled = head is not None and _HEAD.fullmatch(name.removeprefix(_MLLM))
        return "" if doubled else name.removeprefix(_MLLM).removeprefix("model.")

    sources = [WeightSource(folder, remap_key=remap_key)]
    if head is not None:
        sources.append(WeightSource(Path(head[0]), remap_key=lambda _: HEAD, only=head[1]))
    return LanguageHalf(read_json(language / "config.json"), language, sources, extra_rows=config.queries + MARKERS)


def find_head(folder: Path) -> tuple[str, str] | None:
    """The weight file in a folder that holds the language model's output head, and the head's name in it."""
    try:
        files = find_weights(folder).files
    except AppError:  # without weights, or without all of them: pictures need no head
        return None
    for file in files:
        header = tensor_header(file)
        for name in header.tensors if header else ():
            if _HEAD.fullmatch(name):
                return str(file), name
    return None


def _kind(config: MetaQueryConfig, language: Mapping[str, Any]) -> type[Mllm]:
    name = language.get("model_type")
    if name not in KINDS:
        raise AppError("language_model_unknown", component=config.mllm_id, given=str(name)[:60], known=", ".join(KINDS))
    return KINDS[name]


def _denoiser(config: MetaQueryConfig, raw: Mapping[str, Any]) -> nn.Module:
    with importing:
        from diffusers import SanaTransformer2DModel, UNet2DConditionModel

    return _diffusers_part(config, raw, (SanaTransformer2DModel, UNet2DConditionModel), "in_channels")


def _decoder(config: MetaQueryConfig, raw: Mapping[str, Any]) -> nn.Module:
    with importing:
        from diffusers import AutoencoderDC, AutoencoderKL

    vae: Any = _diffusers_part(config, raw, (AutoencoderDC, AutoencoderKL), "latent_channels")
    vae.encoder = nn.Identity()
    if getattr(vae, "quant_conv", None) is not None:
        vae.quant_conv = nn.Identity()
    return vae


def _diffusers_part(
    config: MetaQueryConfig, raw: Mapping[str, Any], kinds: tuple[Any, ...], channels: str
) -> nn.Module:
    named = {kind.__name__: kind for kind in kinds}
    if raw.get("_class_name") not in named:
        class_name = str(raw.get("_class_name"))[:60]
        raise AppError("denoiser_unknown", component=config.diffusion_id, given=class_name, known=", ".join(named))
    if raw.get(channels) != config.latent_channels:
        raise AppError(
            "latent_channels_differ",
            component=f"{config.diffusion_id} ({raw['_class_name']})",
            given=str(raw.get(channels))[:40],
            wanted=config.latent_channels,
        )
    with library_errors_as_app_errors(f"{config.diffusion_id} ({raw['_class_name']})"):
        return named[raw["_class_name"]].from_config(dict(raw))


def caption_width(transformer: Any) -> int:
    """Channels of the conditioning that the denoiser was trained with."""
    return int(transformer.config.get("caption_channels") or transformer.config["cross_attention_dim"])


def scheduler(config: MetaQueryConfig, components: Components) -> Any:
    """DPM-Solver++ (Lu et al. 2022) with the numbers of the scheduler's own file, whichever solver it names."""
    with importing:
        from diffusers import DPMSolverMultistepScheduler

    file = components.folder(config.scheduler_id) / "scheduler" / "scheduler_config.json"
    with library_errors_as_app_errors(str(file)):
        return DPMSolverMultistepScheduler.from_config(read_json(file))
