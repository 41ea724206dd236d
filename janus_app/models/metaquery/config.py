"""What the config.json of a MetaQuery checkpoint says, and where the parts it names by id lie on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
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

    queries: learned rows behind the prompt. latent_side: latents a side; latent_side * scale = pixels a side.
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

    @property
    def component_ids(self) -> tuple[str, ...]:
        """Every repository the checkpoint needs a file of, once each."""
        return tuple(dict.fromkeys((self.mllm_id, self.diffusion_id, self.vae_id, self.scheduler_id)))


def parse_config(raw: Mapping[str, Any]) -> MetaQueryConfig:
    """config.json of a MetaQuery checkpoint. Raises AppError for another architecture or an absurd number."""
    if raw.get("model_type") != MODEL_TYPE:
        raise AppError(
            f"config.json says model_type {raw.get('model_type')!r}; MetaQuery checkpoints say {MODEL_TYPE!r}."
        )
    fields = Fields("config", raw)
    diffusion = _id(raw, "diffusion_model_id")
    system = raw.get("system_prompt", _SYSTEM)
    if not isinstance(system, str):
        raise AppError("config.json gives a system_prompt that is no text. The file is damaged.")
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
        raise AppError(
            f"config.json says {field} = {value!r}, which is not the id of a repository. The file is damaged."
        )
    return "/".join(parts)


@contextlib.contextmanager
def usable(what: str) -> Iterator[None]:
    """Whatever a library says about a file it cannot make sense of, as a sentence about `what`."""
    try:
        yield
    except AppError:
        raise
    except Exception as error:  # their checks raise many things
        said = " ".join(str(error).split())[:200]
        raise AppError(f"{what} cannot be used ({type(error).__name__}: {said}). Download its files again.") from error


class Components:
    """Folders of the parts a checkpoint names by id; each holds the files of one repository.

    They are looked for in the folder `components` inside the checkpoint and beside it (component_beside);
    then among `parts`, what the downloader fetched: folders by role, "mllm" and "diffusion".
    """

    def __init__(self, folder: Path, config: MetaQueryConfig, parts: Mapping[str, Path] | None = None) -> None:
        self._checkpoint = folder
        roles = {"diffusion": config.diffusion_id, "mllm": config.mllm_id}
        self._parts = {roles[role]: path for role, path in (parts or {}).items() if role in roles and path.is_dir()}

    def folder(self, component: str) -> Path:
        """The folder of a part. Raises AppError that says where it was looked for."""
        found = self.find(component)
        if found is None:
            raise AppError(
                f"This checkpoint needs {component}, which is not here. Download that repository (its weights are not "
                f"needed) into {component_places(self._checkpoint)[0] / component}."
            )
        return found

    def find(self, component: str) -> Path | None:
        return component_beside(self._checkpoint, component) or self._parts.get(component)
