"""MetaMorph (Tong et al. 2024): a language model reads and writes pictures as vectors, which a visualiser paints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from janus_app.errors import AppError, Message
from janus_app.files import read_json
from janus_app.models.common.config import Fields
from janus_app.models.common.settings import CHAT, COUNT
from janus_app.models.family import CheckpointFacts, Family, Parts, WeightSource
from janus_app.models.regression import layouts
from janus_app.models.regression.layouts import base_folder, base_of, painting_defaults, read_config, visualizer_folder
from janus_app.types import Model, Setting, Thinking

if TYPE_CHECKING:
    from torch import nn

    from janus_app.models.common.memory import BytesPerElement, Job, Peak

_TYPES = ("metamorph_llama", "pisces")
_SIDE = 512  # of Stable Diffusion 1.5
SETTINGS = {
    "count": COUNT,
    **CHAT,
    "chat_temperature": Setting(0.0, 0.0, 2.0, 0.05),
}


def detect(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") in _TYPES


def describe(folder: Path, config: Mapping[str, Any]) -> CheckpointFacts:
    context = Fields("config", config).whole("tokenizer_model_max_length", 4096, high=1 << 24)
    side, components = _SIDE, {}
    if (visualizer := visualizer_folder(folder)) is not None:
        try:
            base = base_folder(folder, visualizer, None)
            unet = Fields("unet", read_json(base / "unet" / "config.json"))
            vae = read_json(base / "vae" / "config.json")
            side = unet.whole("sample_size", 64, high=1024) * 2 ** (len(vae["block_out_channels"]) - 1)
        except (AppError, KeyError, TypeError):  # loading says what is wrong
            components = {"diffusion": base_of(visualizer)}
    guidance, steps = painting_defaults(folder)
    settings = {**SETTINGS, "guidance": Setting(guidance, 1.0, 15.0, 0.5), "steps": Setting(steps, 1, 100, 1)}
    return CheckpointFacts((side, side), context, settings, components=components)


def build(config: Mapping[str, Any]) -> nn.Module:
    from janus_app.models.regression import modeling

    return modeling.build(config)


def weight_sources(network: Any, config: Mapping[str, Any], folder: Path, parts: Parts | None) -> list[WeightSource]:
    return layouts.weight_sources(network, folder, parts)


def tied(config: Mapping[str, Any]) -> dict[str, str]:
    shared = config.get("tie_word_embeddings") is True
    return {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"} if shared else {}


def explain_mismatch(network: Any, name: str, found: bool) -> Message | None:
    from janus_app.models.regression import modeling

    return modeling.explain_mismatch(network, name, found)


def job_peak(config: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement) -> Peak:
    from janus_app.models.regression.memory import peak

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
    from janus_app.models.regression.modeling import RegressionNetwork
    from janus_app.models.regression.pipeline import RegressionModel

    assert isinstance(network, RegressionNetwork)
    network.arrange()
    return RegressionModel(network, folder, context=context, parts=parts)


FAMILY = Family(
    id="regression",
    title="MetaMorph/Pisces",
    drawing="diffusion",
    edit_methods=("instruct",),
    detect=detect,
    describe=describe,
    read_config=read_config,
    build=build,
    weight_sources=weight_sources,
    tied=tied,
    explain_mismatch=explain_mismatch,
    job_peak=job_peak,
    pipeline=pipeline,
    quantized_prefix="language_model.model.layers.",
    offload_prefix="language_model.model.layers.",
    picture_decoder_prefix="vae.",
    marks=("vision_head.", "mm_projector."),
    unused_prefixes=("unused.", "vae.encoder.", "vae.quant_conv."),
)
