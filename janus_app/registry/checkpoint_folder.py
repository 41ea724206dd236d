"""A folder on this machine that holds a checkpoint, described as a `Variant` from its own files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.registry.types import Component, Setting, Variant
from janus_app.types import SOLVERS, VERBS

TRAINED_CONTEXT = 4096  # Janus' configs allow 16,384 positions, but training used sequences of 4,096
MAX_CONFIG_BYTES = 1_000_000  # real ones are under 2 kB

_SETTINGS = {
    "guidance": Setting(5.0, 1.0, 10.0, 0.5),
    "temperature": Setting(1.0, 0.0, 2.0, 0.05),
    "count": Setting(1, 1, 16, 1),
    "strength": Setting(0.6, 0.05, 1.0, 0.05),
    "chat_temperature": Setting(0.1, 0.0, 2.0, 0.05),
    "top_p": Setting(0.95, 0.05, 1.0, 0.05),
    "max_new_tokens": Setting(512, 16, 2048, 16),
}
_FLOW_SETTINGS = {
    "guidance": Setting(2.0, 1.0, 10.0, 0.5),
    "image_guidance": Setting(1.5, 1.0, 10.0, 0.5),
    "steps": Setting(30, 1, 100, 1),
    "guidance_start": Setting(0.0, 0.0, 1.0, 0.05),
    "guidance_end": Setting(1.0, 0.0, 1.0, 0.05),
    **{name: setting for name, setting in _SETTINGS.items() if name not in ("guidance", "temperature")},
}
_JANUS_4O = ("instruct", "region", "variation")
_PLAIN_READING = Setting(5.0, 1.0, 10.0, 0.5)  # the weight Janus-4o's published code uses
_METAQUERY_SETTINGS = {
    "guidance": Setting(4.5, 1.0, 10.0, 0.5),
    "image_guidance": Setting(1.5, 1.0, 10.0, 0.5),
    "steps": Setting(30, 1, 100, 1),
    **{name: _SETTINGS[name] for name in ("count", "chat_temperature", "top_p", "max_new_tokens")},
}


def variant_of_folder(folder: Path, known: Iterable[Variant] = ()) -> Variant:
    """Describe the Janus, JanusFlow or MetaQuery checkpoint in `folder` (original layout).

    Repositories that its config.json names are fetched as the variants `known` say. Raises AppError where the folder
    holds no checkpoint.
    """
    config = _config(folder)
    kind = config.get("model_type")
    if kind == "metaquery":
        latents = _number(config, folder, "input_size", low=1, high=1024, default=16)
        scale = _number(config, folder, "vae_downsample_f", low=1, high=64, default=32)
        side = latents * scale
        positions = 32_768  # of LLaVA-OneVision; Qwen2.5-VL, whose config is elsewhere, holds more
        found = _variant(folder, "metaquery", (side, side), positions, _METAQUERY_SETTINGS)
        return replace(found, components=_known_components(config, known))
    if kind == "janus":
        raise AppError(
            f"{folder} holds a Janus checkpoint in the layout of the transformers library. "
            "This app reads the original layout: use the deepseek-ai repositories."
        )
    if kind != "multi_modality":
        raise AppError(
            f"{folder} holds a checkpoint of type {str(kind)[:60]!r}, not Janus ('multi_modality') or MetaQuery "
            "('metaquery'). Choose a folder downloaded from a deepseek-ai/Janus repository."
        )
    flow = "vision_gen_enc_config" in config  # Janus and JanusFlow call themselves by the same model_type
    tower = "vision_und_enc_config" if flow else "vision_config"
    side = _number(config, folder, f"{tower}.params.image_size", low=8, high=4096, default=384)
    positions = _number(config, folder, "language_config.max_position_embeddings", low=1, high=2**24, default=2048)
    settings = _FLOW_SETTINGS if flow else _SETTINGS
    family = "janusflow" if flow else "janus"
    found = _variant(folder, family, (side, side), min(positions, TRAINED_CONTEXT), settings)
    if family == "janus" and _is_copy_of(folder.resolve(), "janus4o"):  # its files are those of Janus-Pro
        return replace(found, edit_methods=_JANUS_4O, settings={**settings, "image_guidance": _PLAIN_READING})
    return found


def _variant(
    folder: Path, family: str, size: tuple[int, int], context: int, settings: Mapping[str, Setting]
) -> Variant:
    weights = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin") and path.is_file()]
    if not weights:
        raise AppError(
            f"{folder} has a config.json but no weights (.safetensors or .bin). Download the checkpoint again."
        )
    name = re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("-") or "checkpoint"
    return Variant(
        id=f"folder-{name}",
        title=f"{folder.resolve().name} (folder)",
        family=family,
        repo=None,
        revision=None,
        folder=folder.resolve(),
        files=(),
        code_licence="see the folder",
        weights_licence="see the folder",
        licence_note="This checkpoint comes from your own folder; its licence is whatever its publisher says.",
        verbs=VERBS,
        size=size,
        context=context,
        settings=dict(settings),
        solvers=SOLVERS if family == "janusflow" else (),
        parameters=sum(path.stat().st_size for path in weights) // 2,
        roles=_roles(folder.resolve()),
        status="A folder of your own: nothing about it has been verified here.",
    )


def with_own_components(variant: Variant, known: Iterable[Variant]) -> Variant:
    """A row whose weights the user brings, with the components that their config.json names in place of the row's.

    They are fetched as the variants `known` say. Raises AppError where that config.json is unreadable.
    """
    if not variant.user_supplied or variant.family != "metaquery" or not (variant.folder and _is_there(variant.folder)):
        return variant
    return replace(variant, components=_known_components(_config(variant.folder), known))


def _is_there(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _known_components(config: Mapping[str, Any], known: Iterable[Variant]) -> dict[str, Component]:
    """What the manifest can fetch of the repositories a MetaQuery names."""
    wanted = {"mllm": config.get("mllm_id"), "diffusion": config.get("diffusion_model_id")}
    rows = [row.components for row in known]
    return {role: row[role] for role, repo in wanted.items() for row in rows if role in row and row[role].repo == repo}


def _roles(folder: Path) -> str:
    """Janus-1.3B calls its roles by plain words, but early revisions of its files say otherwise or nothing."""
    return "words" if _is_copy_of(folder, "janus13b") else ""


def _is_copy_of(folder: Path, name: str) -> bool:
    """A copy is known by its name: the folder's own, or the repository's above it in a download cache."""
    return any(name in re.sub(r"[^a-z0-9]", "", part.lower()) for part in folder.parts)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise AppError(f"{folder} holds no config.json, so it is no checkpoint folder. Give the folder that has one.")
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise AppError(f"{path} is far too large to be a model's config. Download the checkpoint again.")
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AppError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error
    except (ValueError, RecursionError) as error:
        raise AppError(f"{path} is not valid JSON. Download the checkpoint again.") from error
    if not isinstance(config, dict):
        raise AppError(f"{path} is not a model's config. Download the checkpoint again.")
    return config


def _number(config: dict[str, Any], folder: Path, field: str, low: int, high: int, default: int) -> int:
    value: Any = config
    for part in field.split("."):
        value = value.get(part, {}) if isinstance(value, dict) else {}
    if value == {}:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise AppError(f"{folder / 'config.json'}: {field} must be {low} to {high}, not {str(value)[:40]}.")
    return value
