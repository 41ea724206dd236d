"""Transfusion (Zhou et al. 2024), LMFusion and LLaVAFusion (Shi et al. 2024): words and noised pictures together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from janus_app.errors import Message
from janus_app.models.common.components import AUTOENCODER
from janus_app.models.common.config import Fields, fields_at
from janus_app.models.common.settings import CHAT, COUNT, STRENGTH
from janus_app.models.family import CheckpointFacts, Family, Parts, WeightSource
from janus_app.models.mixed_diffusion import layouts
from janus_app.models.mixed_diffusion.bases import UNUSED
from janus_app.models.mixed_diffusion.config import IMAGE, LANGUAGE, MODEL_TYPE, SIDE, drawing_defaults
from janus_app.models.mixed_diffusion.layouts import read_config
from janus_app.types import MAX_STEPS, EditMethod, Model, Setting, Thinking

if TYPE_CHECKING:
    from torch import nn

    from janus_app.models.common.memory import BytesPerElement, Job, Peak

METHODS: tuple[EditMethod, ...] = ("instruct", "masked", "image to image")
SETTINGS = {"image_guidance": Setting(1.0, 1.0, 10.0, 0.05), "count": COUNT, "strength": STRENGTH, **CHAT}


def detect(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == MODEL_TYPE


def describe(folder: Path, config: Mapping[str, Any]) -> CheckpointFacts:
    image = fields_at(config, IMAGE)
    side = image.whole("side", SIDE, low=8, high=4096)
    steps, guidance = drawing_defaults(config)
    return CheckpointFacts(
        size=(side, side),
        context=Fields("config", config).whole("context", 4096, high=1 << 24),
        settings={**SETTINGS, "guidance": Setting(guidance, 1.0, 10.0, 0.05), "steps": Setting(steps, 1, MAX_STEPS, 1)},
        edit_methods=METHODS if image.values.get("edits") is True else METHODS[1:],
        components={AUTOENCODER: repo if isinstance(repo := image.values.get(AUTOENCODER), str) else ""},
        weights_elsewhere=config.get("base") is not None,
    )


def build(config: Mapping[str, Any]) -> nn.Module:
    from janus_app.models.mixed_diffusion import modeling

    return modeling.build(config)


def weight_sources(network: Any, config: Mapping[str, Any], folder: Path, parts: Parts | None) -> list[WeightSource]:
    return layouts.weight_sources(network, folder, parts)


def tied(config: Mapping[str, Any]) -> dict[str, str]:
    shared = fields_at(config, LANGUAGE).values.get("tie_word_embeddings") is True
    return {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"} if shared else {}


def explain_mismatch(network: Any, name: str, found: bool) -> Message | None:
    from janus_app.models.mixed_diffusion import modeling

    return modeling.explain_mismatch(network, name, found)


def job_peak(config: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement) -> Peak:
    from janus_app.models.mixed_diffusion.memory import peak

    return peak(config, side, job, widths)


def pipeline(
    network: nn.Module,
    folder: Path,
    *,
    context: int,
    roles: str = "",
    edit_methods: Sequence[str] = (),
    parts: Parts | None = None,
    thinking: Thinking | None = None,
) -> Model:
    from janus_app.models.mixed_diffusion.modeling import MixedNetwork
    from janus_app.models.mixed_diffusion.pipeline import MixedModel

    assert isinstance(network, MixedNetwork)
    network.arrange()
    return MixedModel(network, layouts.language_half(folder), context=context)


FAMILY = Family(
    id=MODEL_TYPE,
    title="Transfusion/LMFusion",
    drawing="diffusion",
    edit_methods=METHODS,
    detect=detect,
    describe=describe,
    read_config=read_config,
    build=build,
    weight_sources=weight_sources,
    tied=tied,
    explain_mismatch=explain_mismatch,
    job_peak=job_peak,
    pipeline=pipeline,
    quantized_prefix=("language_model.model.layers.", "image_model.layers."),
    offload_prefix="language_model.model.layers.",
    picture_decoder_prefix="vae.",
    marks=("codec.encoder.", "codec.decoder."),
    unused_prefixes=(UNUSED,),
)
