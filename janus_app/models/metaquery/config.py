"""The config.json of a MetaQuery checkpoint, and the folders of the repositories that it names by id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.models.common.components import component_beside, component_places
from janus_app.models.common.config import Fields

MODEL_TYPE = "metaquery"
_SYSTEM = (
    "You will be given an image or its caption. Please describe the content of the image in detail in your own words."
)


@dataclass(frozen=True)
class MetaQueryConfig:
    """The fields that change a result. The ids name repositories whose configs, tokenizer and scheduler are needed;
    their weights are in the checkpoint itself.

    queries: learned embeddings behind the prompt. latent_side: height and width of the latents; times `scale`, pixels.
    text_limit: tokens of a caption that are read.
    """

    mllm_id: str
    diffusion_id: str
    vae_id: str
    scheduler_id: str
    queries: int
    connector_layers: int
    latent_side: int
    latent_channels: int
    scale: int
    text_limit: int
    system_prompt: str

    @property
    def side(self) -> int:
        """Pixels a side of a drawn picture."""
        return self.latent_side * self.scale


def parse_config(raw: Mapping[str, Any]) -> MetaQueryConfig:
    """config.json of a MetaQuery checkpoint. Raises AppError for another architecture or an absurd number."""
    if (raw.get("model_type") or MODEL_TYPE) != MODEL_TYPE:
        raise AppError("config_model_type_wrong", given=str(raw.get("model_type"))[:60], wanted=MODEL_TYPE)
    fields = Fields("config", raw)
    diffusion = _id(raw, "diffusion_model_id")
    system = raw.get("system_prompt", _SYSTEM)
    if not isinstance(system, str):
        raise AppError("config_system_prompt_unusable")
    return MetaQueryConfig(
        mllm_id=_id(raw, "mllm_id"),
        diffusion_id=diffusion,
        vae_id=_id(raw, "vae_id", diffusion),
        scheduler_id=_id(raw, "scheduler_id", diffusion),
        queries=fields.whole("num_metaqueries"),
        connector_layers=fields.whole("connector_num_hidden_layers"),
        latent_side=fields.whole("input_size"),
        latent_channels=fields.whole("in_channels"),
        scale=fields.whole("vae_downsample_f"),
        text_limit=fields.whole("max_input_text_tokens", 256),
        system_prompt=system,
    )


def _id(raw: Mapping[str, Any], field: str, default: str | None = None) -> str:
    value = raw.get(field) or default
    parts = value.split("/") if isinstance(value, str) else [""]
    if any(part in ("", ".", "..") or "\\" in part or ":" in part for part in parts):
        raise AppError("config_repository_unusable", field=field, value=repr(value)[:100])
    return "/".join(parts)


class Components:
    """Folders of the repositories that a checkpoint names by id.

    They are looked for in the folder `components` inside the checkpoint and beside it (`component_beside`), then in
    `parts`, the folders that the downloader fetched by role, "mllm" and "diffusion".
    """

    def __init__(self, folder: Path, config: MetaQueryConfig, parts: Mapping[str, Path] | None = None) -> None:
        self.checkpoint = folder
        roles = {"diffusion": config.diffusion_id, "mllm": config.mllm_id}
        self._parts = {roles[role]: path for role, path in (parts or {}).items() if role in roles and path.is_dir()}

    def folder(self, component: str) -> Path:
        """The folder of a repository. Raises AppError, which says where to put it, if it is missing."""
        found = self.find(component)
        if found is None:
            place = component_places(self.checkpoint)[0] / component
            raise AppError("component_missing", component=component, folder=place)
        return found

    def find(self, component: str) -> Path | None:
        return component_beside(self.checkpoint, component) or self._parts.get(component)
