"""MetaQuery (Pan et al. 2025): learned queries carry what a frozen language model knows into a diffusion model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from janus_app.errors import Message
from janus_app.files import read_json
from janus_app.models.common.config import Fields
from janus_app.models.common.settings import CHAT, COUNT, STEPS, guidance
from janus_app.models.family import CheckpointFacts, Family, LanguageHalf, Parts, WeightSource
from janus_app.types import Model, Thinking

if TYPE_CHECKING:
    from torch import nn

    from janus_app.models.common.memory import BytesPerElement, Job, Peak
    from janus_app.models.metaquery.modeling import MetaQueryNetwork

_CONTEXT = 32_768  # of LLaVA-OneVision; Qwen2.5-VL holds more, but its config is in another repository
_SETTINGS = {
    "guidance": guidance(4.5),
    "image_guidance": guidance(1.5),
    "steps": STEPS,
    "count": COUNT,
    **CHAT,
}


def detect(config: Mapping[str, Any]) -> bool:
    if config.get("model_type") is None:
        return "mllm_id" in config and "num_metaqueries" in config
    return config.get("model_type") == "metaquery"


def describe(folder: Path, config: Mapping[str, Any]) -> CheckpointFacts:
    fields = Fields("config", config)
    side = fields.whole("input_size", 16, high=1024) * fields.whole("vae_downsample_f", 32, high=64)
    named = {"mllm": config.get("mllm_id"), "diffusion": config.get("diffusion_model_id")}
    components = {role: repo for role, repo in named.items() if isinstance(repo, str)}
    return CheckpointFacts((side, side), _CONTEXT, _SETTINGS, components=components)


def read_config(folder: Path, parts: Parts | None = None) -> dict[str, Any]:
    """config.json with the configs of the language model, the diffusion model and its decoder under "parts"."""
    from janus_app.models.metaquery.config import Components, parse_config
    from janus_app.models.metaquery.modeling import read_parts

    config = read_json(folder / "config.json")
    return read_parts(config, Components(folder, parse_config(config), parts))


def build(config: Mapping[str, Any]) -> nn.Module:
    from janus_app.models.metaquery import modeling

    return modeling.build(config)


def weight_sources(
    network: MetaQueryNetwork, config: Mapping[str, Any], folder: Path, parts: Parts | None
) -> list[WeightSource]:
    """The checkpoint's own files, and the head for words from the language model's repository where it has one."""
    from janus_app.models.metaquery.modeling import HEAD, PARTS

    sources = [WeightSource(folder, remap_key=network.remap_key)]
    if network.lm_head is not None:
        file, name = config[PARTS]["head"]
        sources.append(WeightSource(Path(file), remap_key=lambda _: HEAD, only=name))
    return sources


def language_half(folder: Path) -> LanguageHalf:
    from janus_app.models.metaquery import modeling

    return modeling.language_half(folder)


def copied_parts(folder: Path, parts: Parts | None) -> dict[str, Path]:
    from janus_app.models.metaquery.config import Components, parse_config

    config = parse_config(read_json(folder / "config.json"))
    named = (config.mllm_id, config.diffusion_id, config.vae_id, config.scheduler_id)
    components = Components(folder, config, parts)
    return {f"components/{name.removeprefix('components/')}": components.folder(name) for name in named}


def explain_mismatch(network: MetaQueryNetwork, name: str, found: bool) -> Message | None:
    return network.explain_mismatch(name, found)


def job_peak(config: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement) -> Peak:
    from janus_app.models.metaquery.memory import peak

    return peak(config, job, widths)


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
    from janus_app.models.metaquery.config import Components
    from janus_app.models.metaquery.modeling import MetaQueryNetwork
    from janus_app.models.metaquery.pipeline import MetaQueryModel

    assert isinstance(network, MetaQueryNetwork)
    return MetaQueryModel(network, Components(folder, network.config, parts), context=context)


FAMILY = Family(
    id="metaquery",
    title="MetaQuery",
    drawing="diffusion",
    edit_methods=("instruct",),
    detect=detect,
    describe=describe,
    read_config=read_config,
    build=build,
    weight_sources=weight_sources,
    copied_parts=copied_parts,
    explain_mismatch=explain_mismatch,
    job_peak=job_peak,
    pipeline=pipeline,
    language_half=language_half,
    quantized_prefix="mllm.language_model.layers.",
    offload_prefix="mllm.language_model.layers.",
    picture_decoder_prefix="vae.",
    # Input pictures enter through the language model alone, so the encoding half of the autoencoder is not used. The
    marks=("mllm_backbone.",),
    # reference drops the head for words; where a checkpoint has one, it is that of the language model's repository.
    unused_prefixes=("vae.encoder.", "vae.quant_conv.", "mllm.lm_head.", "mllm.language_model.lm_head."),
)
