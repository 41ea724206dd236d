"""JanusFlow (Ma et al. 2024): a language model whose rectified flow draws in the latents of SDXL's autoencoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.models.common.components import AUTOENCODER, autoencoder_source, find_autoencoder
from janus_app.models.common.config import fields_at
from janus_app.models.common.language_head import explain_vocabulary, tied_head
from janus_app.models.common.settings import CHAT, COUNT, STEPS, STRENGTH, guidance
from janus_app.models.family import CheckpointFacts, Family, Parts, WeightSource
from janus_app.models.janus.family import CELL, janus_facts, pixels_per_cell
from janus_app.types import SOLVERS, Model, Setting, Thinking

if TYPE_CHECKING:
    from torch import nn

    from janus_app.models.common.cost import DrawingCost
    from janus_app.models.common.memory import BytesPerElement, Job, Peak

_SETTINGS = {
    "guidance": guidance(2.0),
    "image_guidance": guidance(1.5),
    "steps": STEPS,
    "guidance_start": Setting(0.0, 0.0, 1.0, 0.05),
    "guidance_end": Setting(1.0, 0.0, 1.0, 0.05),
    "count": COUNT,
    "strength": STRENGTH,
    **CHAT,
}
_AUTOENCODERS = ("sdxl-vae",)


def detect(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") in ("multi_modality", None) and "vision_gen_enc_config" in config


def describe(folder: Path, config: Mapping[str, Any]) -> CheckpointFacts:
    """The facts of a checkpoint; without an autoencoder's files, as the published one has them."""
    found = find_autoencoder(folder, None, _AUTOENCODERS)
    widths = read_json(found / "config.json").get("block_out_channels") if found else None
    stride = fields_at(config, "vision_gen_enc_config", "params").whole("stride", 2, high=64)
    cell = stride * pixels_per_cell(widths, CELL // 2)
    return janus_facts(folder, config, "vision_und_enc_config", _SETTINGS, cell)


def read_config(folder: Path, parts: Parts | None = None) -> dict[str, Any]:
    """config.json with the autoencoder's under "vae"; another family's as it is, for `build` to refuse."""
    config = read_json(folder / "config.json")
    if detect(config):
        config[AUTOENCODER] = read_json(autoencoder_folder(folder, parts) / "config.json")
    return config


def autoencoder_folder(folder: Path, parts: Parts | None = None) -> Path:
    """The autoencoder's folder: inside the checkpoint's, where `parts` say, or beside it.

    Raises AppError where it is in none of these places.
    """
    if (found := find_autoencoder(folder, parts, _AUTOENCODERS)) is None:
        raise AppError("autoencoder_missing", folder=folder)
    return found


def build(config: Mapping[str, Any]) -> nn.Module:
    """Without "vae" in the config, the network comes without its autoencoder."""
    from janus_app.models.common.autoencoder import build_autoencoder
    from janus_app.models.janusflow.config import parse_config
    from janus_app.models.janusflow.modeling import JanusFlowNetwork

    network = JanusFlowNetwork(parse_config(config))
    if AUTOENCODER in config:
        network.add_module(AUTOENCODER, build_autoencoder(config[AUTOENCODER], "JanusFlow"))
    return network


def weight_sources(
    network: nn.Module, config: Mapping[str, Any], folder: Path, parts: Parts | None
) -> list[WeightSource]:
    """The checkpoint's own files, and the autoencoder's."""
    return [WeightSource(folder), autoencoder_source(autoencoder_folder(folder, parts))]


def copied_parts(folder: Path, parts: Parts | None) -> dict[str, Path]:
    return {AUTOENCODER: autoencoder_folder(folder, parts)}


def job_peak(config: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement) -> Peak:
    from janus_app.models.janusflow.config import parse_config
    from janus_app.models.janusflow.memory import peak

    return peak(parse_config(config), config.get(AUTOENCODER, {}), side, job, widths)


def drawing_cost(config: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement) -> DrawingCost:
    from janus_app.models.janusflow import cost
    from janus_app.models.janusflow.config import parse_config

    return cost.drawing_cost(parse_config(config), config.get(AUTOENCODER, {}), side, job, widths)


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
    from janus_app.models.common.autoencoder import Autoencoder
    from janus_app.models.janusflow.modeling import JanusFlowNetwork
    from janus_app.models.janusflow.pipeline import JanusFlowModel

    assert isinstance(network, JanusFlowNetwork)
    network.language_model.model.fuse()
    autoencoder = Autoencoder(network.get_submodule(AUTOENCODER))
    return JanusFlowModel(network, autoencoder, folder, context=context, roles=roles)


FAMILY = Family(
    id="janusflow",
    title="JanusFlow",
    drawing="flow",
    edit_methods=("flowedit", "masked", "image to image"),
    detect=detect,
    describe=describe,
    read_config=read_config,
    build=build,
    weight_sources=weight_sources,
    copied_parts=copied_parts,
    job_peak=job_peak,
    drawing_cost=drawing_cost,
    pipeline=pipeline,
    tied=tied_head,
    explain_mismatch=explain_vocabulary,
    solvers=SOLVERS,
    quantized_prefix="language_model.model.layers.",
    offload_prefix="language_model.model.layers.",
    picture_decoder_prefix=f"{AUTOENCODER}.",
    marks=("vision_gen_enc_model.",),
    # SigLIP's pooling head: in every checkpoint, unused at inference.
    unused_prefixes=("vision_und_enc_model.vision_tower.attn_pool.",),
)
