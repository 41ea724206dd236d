"""UniPic2-Metaquery (Skywork 2025): learned queries carry what Qwen2.5-VL knows into Stable Diffusion 3's transformer.

Weights of this design are public, as those of MetaQuery, whose idea it follows, are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from janus_app.errors import AppError, Message
from janus_app.files import read_json
from janus_app.models.common.config import Fields
from janus_app.models.common.settings import CHAT, COUNT, STEPS, guidance
from janus_app.models.family import CheckpointFacts, Family, Parts, WeightSource
from janus_app.models.unipic2.config import (
    CONDITIONER,
    LANGUAGE_MODEL,
    PATCH,
    checkpoint_root,
    language_folder,
    read_config,
)
from janus_app.types import Model, Setting, Thinking

if TYPE_CHECKING:
    from torch import nn

    from janus_app.models.common.memory import BytesPerElement, Job, Peak

_CONTEXT = 32_768  # of Qwen2.5-VL
_SIZE = (384, 512)
_LARGEST = 1024  # pixels a side; larger ones are possible, but the model was trained on smaller ones
_SETTINGS = {
    "guidance": guidance(3.5),
    "steps": Setting(50, STEPS.low, STEPS.high, STEPS.step),
    "count": COUNT,
    **CHAT,
}


def detect(config: Mapping[str, Any]) -> bool:
    return config.get("_class_name") == CONDITIONER


def describe(folder: Path, config: Mapping[str, Any]) -> CheckpointFacts:
    transformer = Fields("transformer", read_json(checkpoint_root(folder) / "transformer" / "config.json"))
    largest = min(_LARGEST, transformer.whole("pos_embed_max_size", 384) * PATCH)
    width, height = (min(side, largest) for side in _SIZE)
    sides = {
        name: Setting(side, min(256, largest), largest, PATCH) for name, side in (("width", width), ("height", height))
    }
    try:
        language_folder(folder)
        language = ""  # it is here, under whichever name
    except AppError:
        language = LANGUAGE_MODEL
    return CheckpointFacts((width, height), _CONTEXT, {**_SETTINGS, **sides}, components={"mllm": language})


def build(config: Mapping[str, Any]) -> nn.Module:
    from janus_app.models.unipic2 import modeling

    return modeling.build(config)


def weight_sources(network: Any, config: Mapping[str, Any], folder: Path, parts: Parts | None) -> list[WeightSource]:
    from janus_app.models.unipic2.modeling import language_key

    root = checkpoint_root(folder)

    def inside(part: str) -> WeightSource:
        return WeightSource(root / part, "diffusion_pytorch_model", lambda name: f"{part}.{name}")

    return [
        WeightSource(language_folder(folder, parts), remap_key=language_key),
        *(inside(part) for part in ("conditioner", "transformer", "vae")),
    ]


def copied_parts(folder: Path, parts: Parts | None) -> dict[str, Path]:
    root = checkpoint_root(folder)
    own = {part: root / part for part in ("conditioner", "transformer", "vae", "scheduler")}
    return {**own, "language_model": language_folder(folder, parts)}


def explain_mismatch(network: Any, name: str, found: bool) -> Message | None:
    from janus_app.models.unipic2 import modeling

    return modeling.explain_mismatch(network, name, found)


def job_peak(config: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement) -> Peak:
    from janus_app.models.unipic2.memory import peak

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
    from janus_app.models.unipic2.modeling import UniPic2Network
    from janus_app.models.unipic2.pipeline import UniPic2Model

    assert isinstance(network, UniPic2Network)
    return UniPic2Model(network, folder, language_folder(folder, parts), context=context)


FAMILY = Family(
    id="unipic2",
    title="UniPic2",
    drawing="diffusion",
    edit_methods=("instruct",),
    config_file="conditioner/config.json",
    detect=detect,
    describe=describe,
    read_config=read_config,
    build=build,
    weight_sources=weight_sources,
    copied_parts=copied_parts,
    explain_mismatch=explain_mismatch,
    job_peak=job_peak,
    pipeline=pipeline,
    quantized_prefix=(
        "mllm.language_model.layers.",
        "transformer.transformer_blocks.",
        "conditioner.connector.layers.",
    ),
    offload_prefix="mllm.language_model.layers.",
    picture_decoder_prefix="vae.",
)
