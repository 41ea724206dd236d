"""The families of models this version runs: which one a checkpoint is of, its network, and the model around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from janus_app.errors import AppError
from janus_app.models.common.config import read_json
from janus_app.models.common.memory import BytesPerElement, Job, Peak
from janus_app.models.janusflow.config import is_janusflow
from janus_app.models.metaquery.config import Components, is_metaquery
from janus_app.models.metaquery.config import parse_config as parse_metaquery
from janus_app.types import Model

FAMILIES = ("janus", "janusflow", "metaquery")
AUTOENCODER = "vae"  # JanusFlow's component: a folder of this name, and the prefix of its tensors in the network


def read_config(folder: Path, parts: Mapping[str, Path] | None = None, family: str = "") -> dict[str, Any]:
    """config.json of a checkpoint folder, with the configs of the parts it is made of.

    JanusFlow: its autoencoder's under "vae". MetaQuery: those of all it names by id under "parts". `family` is what
    the folder should hold; "" takes it as it is. Raises AppError where a file is missing or broken.
    """
    config = read_json(folder / "config.json")
    if is_metaquery(config) and family in ("", "metaquery"):
        from janus_app.models.metaquery.modeling import read_parts

        return read_parts(config, Components(folder, parse_metaquery(config), parts))
    if is_janusflow(config) and family in ("", "janusflow"):
        config[AUTOENCODER] = read_json(autoencoder_folder(folder, parts) / "config.json")
    return config


def autoencoder_folder(folder: Path, parts: Mapping[str, Path] | None = None) -> Path:
    """Where a JanusFlow's autoencoder lies: inside the checkpoint's folder, where `parts` say, or beside it.

    Raises AppError where it is in none of these places.
    """
    beside = folder.resolve().parent
    fetched = (parts[AUTOENCODER],) if parts and AUTOENCODER in parts else ()
    places = (folder / AUTOENCODER, *fetched, beside / AUTOENCODER, beside / "sdxl-vae")
    for place in places:
        if (place / "config.json").is_file():
            return place
    raise AppError(
        f"JanusFlow draws with an autoencoder, and {folder} has none: there is no folder called vae in it or beside "
        "it. Download stabilityai/sdxl-vae (config.json and diffusion_pytorch_model.safetensors) into a folder vae "
        "there, or load janusflow-1.3b, which fetches it."
    )


def meta_network(config: Mapping[str, Any], family: str = "") -> nn.Module:
    """The network `read_config` describes, without memory behind its tensors; `family` "" = what config.json is of.

    Without "vae" in it, a JanusFlow network comes without its autoencoder. Raises AppError for another family's config.
    """
    family = family or ("metaquery" if is_metaquery(config) else "janusflow" if is_janusflow(config) else "janus")
    with torch.device("meta"):
        if family == "metaquery":
            from janus_app.models.metaquery.modeling import build

            return build(config)
        if family == "janusflow":
            return _janusflow(config).eval().requires_grad_(False)
        if family == "janus":
            from janus_app.models.janus.config import parse_config
            from janus_app.models.janus.modeling import JanusNetwork

            return JanusNetwork(parse_config(config)).eval().requires_grad_(False)
    raise AppError(f"This version runs the families {', '.join(FAMILIES)}, not {family!r}. Correct the model's row.")


def _janusflow(config: Mapping[str, Any]) -> nn.Module:
    from janus_app.models.janusflow.config import parse_config
    from janus_app.models.janusflow.modeling import JanusFlowNetwork
    from janus_app.models.janusflow.vae import meta_autoencoder

    network = JanusFlowNetwork(parse_config(config))
    if AUTOENCODER in config:
        network.add_module(AUTOENCODER, meta_autoencoder(config[AUTOENCODER]))
    return network


def own_names(network: nn.Module) -> Callable[[str], str]:
    """From a tensor's name in a checkpoint to its name in the network; most families keep the checkpoint's."""
    return getattr(network, "remap_key", str)


def explain_mismatch(network: nn.Module, name: str, given: bool) -> str:
    """What a person can do about a tensor that has another shape, or (not `given`) is lacking."""
    explain = getattr(network, "explain_mismatch", None)
    found = explain(name, given) if explain else ""
    if found:
        return found
    if given:
        return "The files belong to different models; download the checkpoint again."
    return "It is incomplete; download it again."


def head_source(config: Mapping[str, Any]) -> Path | None:
    """A weight file outside the checkpoint that holds the words' head of its language model."""
    head = config.get("parts", {}).get("head") if is_metaquery(config) else None
    return Path(head) if head else None


def unused_prefixes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Tensors every checkpoint of this family holds and nobody uses, by their names in the network."""
    if is_metaquery(config):
        from janus_app.models.metaquery.modeling import UNUSED_PREFIXES as METAQUERY

        return METAQUERY
    if is_janusflow(config):
        from janus_app.models.janusflow.modeling import UNUSED_PREFIXES as JANUSFLOW

        return JANUSFLOW
    from janus_app.models.janus.modeling import UNUSED_PREFIXES as JANUS

    return JANUS


def job_peak(config: Mapping[str, Any], side: int, job: Job, widths: BytesPerElement) -> Peak:
    """Cache and work of a job beside the weights, for pictures of `side` pixels."""
    if is_metaquery(config):
        from janus_app.models.metaquery import memory as metaquery

        return metaquery.peak(config, job, widths)
    if is_janusflow(config):
        from janus_app.models.janusflow import config as janusflow
        from janus_app.models.janusflow import memory as flow

        return flow.peak(janusflow.parse_config(config), config.get(AUTOENCODER, {}), side, job, widths)
    from janus_app.models.janus import config as janus
    from janus_app.models.janus import memory

    return memory.peak(janus.parse_config(config), side, job, widths)


def build_model(
    network: nn.Module,
    folder: Path,
    *,
    context: int,
    roles: str,
    parts: Mapping[str, Path] | None = None,
    methods: Sequence[str] = (),
) -> Model:
    """The model around a network with its weights in place and the other files of its folder.

    `methods` are the ways of editing a Janus was trained for; empty = those that every Janus has.
    """
    from janus_app.models.janus.modeling import JanusNetwork

    if isinstance(network, JanusNetwork):
        network.arrange()
        from janus_app.models.janus.pipeline import JanusModel

        return JanusModel(network, folder, context=context, roles=roles, methods=methods)
    if type(network).__name__ == "MetaQueryNetwork":  # named, not imported: its libraries are heavy
        from janus_app.models.metaquery.modeling import MetaQueryNetwork
        from janus_app.models.metaquery.pipeline import MetaQueryModel

        assert isinstance(network, MetaQueryNetwork)
        return MetaQueryModel(network, Components(folder, network.config, parts), context=context)
    from janus_app.models.janusflow.modeling import JanusFlowNetwork
    from janus_app.models.janusflow.pipeline import JanusFlowModel
    from janus_app.models.janusflow.vae import Autoencoder

    assert isinstance(network, JanusFlowNetwork)
    network.language_model.model.fuse()
    autoencoder = Autoencoder(network.get_submodule(AUTOENCODER))
    return JanusFlowModel(network, autoencoder, folder, context=context, roles=roles)
