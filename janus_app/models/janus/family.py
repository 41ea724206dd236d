"""Janus and Janus-Pro (Chen et al. 2025), and Janus-4o, trained from the latter: they draw image tokens in order."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from janus_app.errors import Message
from janus_app.files import read_json
from janus_app.models.common.config import fields_at
from janus_app.models.common.language_head import explain_vocabulary, tied_head
from janus_app.models.common.settings import CHAT, COUNT, STRENGTH, guidance
from janus_app.models.family import CheckpointFacts, Family, LanguageHalf, Layout, Parts, WeightSource
from janus_app.models.janus.transformers_layout import MODEL_TYPE, original_config, our_name
from janus_app.types import Event, Model, Setting, Thinking

if TYPE_CHECKING:
    from torch import nn

    from janus_app.models.common.cost import DrawingCost
    from janus_app.models.common.memory import BytesPerElement, Job, Peak

CELL = 16  # pixels a side of a token, drawn or read, in the published checkpoints
TRAINED_CONTEXT = 4096  # the configs allow 16,384 positions, but training used sequences of 4,096
SETTINGS = {
    "guidance": guidance(5.0),
    "temperature": Setting(1.0, 0.0, 2.0, 0.05),
    "count": COUNT,
    "strength": STRENGTH,
    **CHAT,
}
_JANUS_4O_METHODS = ("instruct", "region", "variation")
_JANUS_4O_SETTINGS = {**SETTINGS, "image_guidance": guidance(5.0)}  # the weight that its published code uses


def detect(config: Mapping[str, Any]) -> bool:
    """Janus and its flow relative call themselves by the same model_type; this one has a VQ model."""
    if config.get("model_type") is None:
        return "gen_vision_config" in config and "language_config" in config
    return config.get("model_type") == MODEL_TYPE or (
        config.get("model_type") == "multi_modality" and "vision_gen_enc_config" not in config
    )


def describe(folder: Path, config: Mapping[str, Any]) -> CheckpointFacts:
    """The facts of a checkpoint. Janus-4o and Janus-1.3B have configs like the others, so their names tell them."""
    config = original_config(config)
    cell = pixels_per_cell(fields_at(config, "gen_vision_config", "params").values.get("ch_mult"), CELL)
    facts = janus_facts(folder, config, "vision_config", SETTINGS, cell)
    if not _is_copy_of(folder, "janus4o"):
        return facts
    return CheckpointFacts(facts.size, facts.context, _JANUS_4O_SETTINGS, _JANUS_4O_METHODS, facts.roles)


def pixels_per_cell(levels: object, usual: int) -> int:
    """Pixels a side of a cell behind a codec with these `levels`, each of which halves; `usual` where none are said."""
    return 2 ** (min(len(levels), 8) - 1) if isinstance(levels, list) and levels else usual


def janus_facts(
    folder: Path, config: Mapping[str, Any], tower: str, settings: Mapping[str, Setting], cell: int
) -> CheckpointFacts:
    """What both relatives say in the same way; `tower` is the section of the encoder that reads pictures.

    A drawn picture has as many tokens as a read one, each of `cell` pixels a side.
    """
    seen = fields_at(config, tower, "params")
    side = seen.whole("image_size", 384, low=8, high=4096) // seen.whole("patch_size", CELL, high=4096) * cell
    positions = fields_at(config, "language_config").whole("max_position_embeddings", 2048, high=1 << 24)
    # Janus-1.3B writes its roles as plain words, but early revisions of its files say otherwise or nothing.
    roles = "words" if _is_copy_of(folder, "janus13b") else ""
    return CheckpointFacts((side, side), min(positions, TRAINED_CONTEXT), settings, roles=roles)


def _is_copy_of(folder: Path, name: str) -> bool:
    """A copy is known by its name: the folder's own, or in a Hub cache that of the repository.

    Other folders of the path say nothing: a model may lie in a folder that is named after another one.
    """
    folder = folder.resolve()
    names = [folder.name]
    if folder.parent.name == "snapshots":  # models--owner--name/snapshots/<revision>
        names.append(folder.parent.parent.name.rpartition("--")[2])
    return any(name in re.sub(r"[^a-z0-9]", "", one.lower()) for one in names)


def read_config(folder: Path, parts: Parts | None = None) -> dict[str, Any]:
    return dict(original_config(read_json(folder / "config.json")))


def network_name(config: Mapping[str, Any], name: str) -> str:
    return our_name(name) if config.get("model_type") == MODEL_TYPE else name


def weight_sources(
    network: nn.Module, config: Mapping[str, Any], folder: Path, parts: Parts | None
) -> list[WeightSource]:
    return [WeightSource(folder, remap_key=partial(network_name, config))]


def language_half(folder: Path) -> LanguageHalf:
    from janus_app.models.common.chat import keeps_language
    from janus_app.models.common.config_sections import parse_style
    from janus_app.models.common.prompts import chat

    raw, processor = read_json(folder / "config.json"), read_json(folder / "processor_config.json")
    config = original_config(raw)
    tied = {"tie_word_embeddings": bool(tied_head(config))}
    return LanguageHalf(
        config={"model_type": "llama", **fields_at(config, "language_config").values, **tied},
        folder=folder,
        sources=[WeightSource(folder, remap_key=partial(network_name, raw))],
        pieces=partial(chat, style=parse_style(processor, describe(folder, raw).roles)),
        keeps_language=keeps_language(processor),
    )


def adapted_tensors(layer: str) -> tuple[str, ...]:
    return (f"{layer}.weight", f"language_model.{layer}.weight", our_name(f"{layer}.weight"))


def layouts() -> Mapping[str, Layout]:
    from janus_app.models.janus.layouts import LAYOUTS

    return LAYOUTS


def build(config: Mapping[str, Any]) -> nn.Module:
    from janus_app.models.janus.config import parse_config
    from janus_app.models.janus.modeling import JanusNetwork

    return JanusNetwork(parse_config(config))


def job_peak(config: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement) -> Peak:
    from janus_app.models.janus.config import parse_config
    from janus_app.models.janus.memory import peak

    return peak(parse_config(config), side, job, widths)


def drawing_cost(config: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement) -> DrawingCost:
    from janus_app.models.janus import cost
    from janus_app.models.janus.config import parse_config

    return cost.drawing_cost(parse_config(config), side, job, widths)


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
    from janus_app.models.janus.modeling import JanusNetwork
    from janus_app.models.janus.pipeline import JanusModel

    assert isinstance(network, JanusNetwork)
    network.arrange()
    return JanusModel(network, folder, context=context, roles=roles, methods=edit_methods, thinking=thinking)


def check_drawing(model: Any) -> Generator[Event, None, Message | None]:
    from janus_app.models.janus import weight_check

    return (yield from weight_check.check_drawing(model))


FAMILY = Family(
    id="janus",
    title="Janus",
    drawing="tokens",
    edit_methods=("region", "variation"),
    detect=detect,
    describe=describe,
    read_config=read_config,
    build=build,
    job_peak=job_peak,
    drawing_cost=drawing_cost,
    pipeline=pipeline,
    network_name=network_name,
    weight_sources=weight_sources,
    adapted_tensors=adapted_tensors,
    layouts=layouts,
    tied=tied_head,
    explain_mismatch=explain_vocabulary,
    check_drawing=check_drawing,
    language_half=language_half,
    quantized_prefix="language_model.model.layers.",
    offload_prefix="language_model.model.layers.",
    picture_decoder_prefix="gen_vision_model.",
    thinks=True,
    marks=("gen_vision_model.", "gen_head."),
    # SigLIP's pooling head and a training counter of the tokenizer: in every checkpoint, unused at inference.
    unused_prefixes=("vision_model.vision_tower.attn_pool.", "gen_vision_model.quantize.codebook_used"),
)
