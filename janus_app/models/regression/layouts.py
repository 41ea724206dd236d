"""Where the files of a checkpoint lie: the model's own folder, its visualiser, and the base of this."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.models.common.components import autoencoder_source, component_beside
from janus_app.models.common.config import Fields
from janus_app.models.common.schedulers import new_scheduler
from janus_app.models.family import Parts, WeightSource
from janus_app.models.regression.config import (
    PAINTER,
    TOWER,
    TOWER_CONFIG,
    holds_projector_only,
    parse_adapter,
    parse_config,
)

BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"  # by name in the published code
_VISUALIZERS = ("visualizer", "visualiser")
_TABLE = "model_state_dict"  # of the visualiser's pickles
_UNET, _ADAPTER, _CONFIG = "unet_checkpoint", "adapter_checkpoint", "model_config.json"


def visualizer_folder(folder: Path) -> Path | None:
    """The visualiser of a checkpoint: a folder of that name in or beside it, or its files in the checkpoint itself."""
    places = [place / name for place in (folder, folder.parent) for name in _VISUALIZERS]
    return next((place for place in (folder, *places) if (place / _CONFIG).is_file()), None)


def base_of(visualizer: Path) -> str:
    """The repository whose U-Net, autoencoder and scheduler a visualiser belongs to; its config may name another."""
    named = read_json(visualizer / _CONFIG).get("base_model", BASE)
    parts = named.split("/") if isinstance(named, str) else [""]
    if any(part in ("", ".", "..") or "\\" in part or ":" in part for part in parts):
        raise AppError("config_repository_unusable", field="base_model", value=repr(named)[:100])
    return str(named)


def base_folder(folder: Path, visualizer: Path, parts: Parts | None) -> Path:
    """The folder of the base. Raises AppError, which says where to put it, if it is missing."""
    base = base_of(visualizer)
    found = component_beside(visualizer, base) or component_beside(folder, base)
    if found is None and parts and "diffusion" in parts and parts["diffusion"].is_dir():
        found = parts["diffusion"]
    if found is None:
        raise AppError("component_missing", component=base, folder=folder.resolve() / "components" / base)
    return found


def painting_defaults(folder: Path) -> tuple[float, int]:
    """Guidance and steps, those of the published demo unless the visualiser's config names others."""
    visualizer = visualizer_folder(folder)
    fields = Fields("model_config", read_json(visualizer / _CONFIG) if visualizer else {})
    return fields.number("guidance", 7.5), fields.whole("steps", 50, high=100)


def read_config(folder: Path, parts: Parts | None = None) -> dict[str, Any]:
    """config.json with the configs of the tower and, where there is a visualiser, of all that paints.

    Raises AppError where a file is unreadable, or the folder holds the projector of the first stage of training alone.
    """
    if holds_projector_only(folder):
        raise AppError("checkpoint_is_projector", folder=folder)
    raw = read_json(folder / "config.json")
    tower = component_beside(folder, TOWER)
    if tower is not None and (tower / "config.json").is_file():
        raw[TOWER_CONFIG] = Fields("config", read_json(tower / "config.json")).values.get("vision_config", {})
    if (visualizer := visualizer_folder(folder)) is not None:
        base = base_folder(folder, visualizer, parts)
        raw[PAINTER] = {
            "adapter": read_json(visualizer / _CONFIG),
            "unet": read_json(base / "unet" / "config.json"),
            "vae": read_json(base / "vae" / "config.json"),
        }
        _require_widths(raw, raw[PAINTER])
    return raw


def _require_widths(raw: Mapping[str, Any], painter: Mapping[str, Any]) -> None:
    """Raises AppError where the visualiser reads vectors of another width, or its base conditions of another one."""
    adapter = parse_adapter(painter["adapter"])
    width = parse_config(raw, raw.get(TOWER_CONFIG)).written.width
    if adapter.width != width:
        raise AppError("visualizer_width_differs", given=adapter.width, wanted=width)
    wanted = Fields("unet", painter["unet"]).whole("cross_attention_dim", 768)
    if adapter.out != wanted:
        raise AppError("visualizer_base_differs", given=adapter.out, wanted=wanted)


def weight_sources(network: Any, folder: Path, parts: Parts | None) -> list[WeightSource]:
    """The model's own files and, where it can paint, those of the visualiser and its base's autoencoder."""
    sources = [WeightSource(folder, remap_key=network.our_name)]
    visualizer = visualizer_folder(folder)
    if network.adapter is None or visualizer is None:
        return sources
    base = base_folder(folder, visualizer, parts)
    return [
        *sources,
        WeightSource(_file(visualizer, _ADAPTER), remap_key=lambda name: f"adapter.{name}", table=_TABLE),
        WeightSource(_file(visualizer, _UNET), remap_key=lambda name: f"unet.{name}", table=_TABLE),
        autoencoder_source(base / "vae"),
    ]


def _file(visualizer: Path, stem: str) -> Path:
    """A weight file of a visualiser: the pickle of the training code, or safetensors of the same name."""
    for suffix in (".safetensors", ".pt"):
        if (file := visualizer / f"{stem}{suffix}").is_file():
            return file
    raise AppError("visualizer_file_missing", folder=visualizer, name=f"{stem}.pt")


def scheduler(folder: Path, parts: Parts | None) -> Any:
    """A new scheduler as the base's own file describes it. Raises AppError for one that diffusers cannot make."""
    visualizer = visualizer_folder(folder)
    assert visualizer is not None
    file = base_folder(folder, visualizer, parts) / "scheduler" / "scheduler_config.json"
    return new_scheduler(read_json(file), str(file))
