"""What a Janus checkpoint's config.json says, with the defaults it leaves out and bounds on what it may say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from janus_app.errors import AppError
from janus_app.models.common.config import Fields
from janus_app.models.common.config_sections import (
    language_config,
    refuse_other_kinds,
    refuse_other_projectors,
    section_params,
    vision_config,
)
from janus_app.models.janus.transformers_layout import MODEL_TYPE, original_config
from janus_app.nn.llama import DecoderConfig
from janus_app.nn.siglip import VisionConfig
from janus_app.nn.vq_model import VQConfig


@dataclass(frozen=True)
class JanusConfig:
    language: DecoderConfig
    vision: VisionConfig
    vq: VQConfig
    head_width: int

    @property
    def grid(self) -> int:
        """Tokens a side of a drawn picture: it has as many as a read one."""
        return math.isqrt(self.vision.patches)


def parse_config(raw: Mapping[str, Any]) -> JanusConfig:
    """config.json of Janus or Janus-Pro, in either layout. Raises AppError for another one or an absurd number."""
    raw = original_config(raw)
    if (raw.get("model_type") or "multi_modality") not in ("multi_modality", MODEL_TYPE):
        raise AppError("config_model_type_wrong", given=str(raw.get("model_type"))[:60], wanted="multi_modality")
    if "vision_gen_enc_config" in raw or "gen_vision_config" not in raw:
        raise AppError("checkpoint_not_janus")
    refuse_other_projectors(raw, "aligner_config", "gen_aligner_config")
    refuse_other_kinds(raw, "gen_head_config", "vision_head", {})
    head = Fields("gen_head_config.params", section_params(raw, "gen_head_config"))
    vision = replace(vision_config(raw, "vision_config"), separate_qkv=raw.get("model_type") == MODEL_TYPE)
    return JanusConfig(language_config(raw), vision, _vq(raw), head.whole("image_token_embed"))


def _vq(raw: Mapping[str, Any]) -> VQConfig:
    fields = Fields("gen_vision_config.params", section_params(raw, "gen_vision_config"))
    refuse_other_kinds(raw, "gen_vision_config", "VQ-16", {"codebook_l2_norm": (True,), "norm_type": ("group",)})
    mult = fields.values.get("ch_mult", [1, 1, 2, 2, 4])
    if (
        not isinstance(mult, list)
        or not 1 <= len(mult) <= 8
        or not all(isinstance(m, int) and 1 <= m <= 64 for m in mult)
    ):
        raise AppError("config_list_unusable", field="gen_vision_config.params.ch_mult", value=repr(mult)[:60])
    return VQConfig(
        codebook_size=fields.whole("image_token_size", 16384),
        code_dim=fields.whole("n_embed", 8),
        ch=fields.whole("ch", 128),
        ch_mult=tuple(mult),
        num_res_blocks=fields.whole("num_res_blocks", 2),
        z_channels=fields.whole("z_channels", 256),
    )
