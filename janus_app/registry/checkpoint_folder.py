"""A folder on this machine that holds a checkpoint, described as a `Variant` from its own files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.models.family import CheckpointFacts
from janus_app.models.registry import detect_family, find_config, get_family
from janus_app.registry.types import Component, Variant
from janus_app.types import VERBS

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
OTHER_FORMATS = {".gguf": "GGUF", ".onnx": "ONNX", ".h5": "TensorFlow", ".msgpack": "Flax"}
MAX_CONFIG_BYTES = 1_000_000  # real ones are under 10 kB


def variant_of_folder(folder: Path, known: Iterable[Variant] = ()) -> Variant:
    """Describe the checkpoint in `folder` (original layout).

    Repositories that its config.json names are fetched as the variants `known` say. Raises AppError where the folder
    holds no checkpoint of a known family.
    """
    _refuse_adapter(folder)
    config = _read_config(folder)
    if isinstance(quantized := config.get("quantization_config"), Mapping):
        raise AppError("checkpoint_quantized", folder=folder, method=str(quantized.get("quant_method"))[:40])
    family = detect_family(config)
    facts = family.describe(folder, config)
    pattern = "*" if family.config_file == "config.json" else "**/*"
    weights = [path for path in folder.glob(pattern) if path.suffix in WEIGHT_SUFFIXES and path.is_file()]
    if not weights:
        for path in sorted(folder.iterdir()):
            if path.suffix in OTHER_FORMATS:
                raise AppError("weights_other_format", file=path.name, format=OTHER_FORMATS[path.suffix])
        raise AppError("checkpoint_without_weights", folder=folder)
    folder = folder.resolve()
    name = re.sub(r"[^a-z0-9._-]+", "-", folder.name.lower()).strip("-") or "checkpoint"
    return Variant(
        id=f"folder-{name}",
        title=f"{folder.name} (folder)",
        family=family.id,
        repo=None,
        revision=None,
        folder=folder,
        files=(),
        code_licence="see the folder",
        weights_licence="see the folder",
        licence_note="This checkpoint comes from your own folder; its licence is whatever its publisher says.",
        verbs=VERBS,
        size=facts.size,
        context=facts.context,
        settings=dict(facts.settings),
        solvers=family.solvers,
        parameters=sum(path.stat().st_size for path in weights) // 2,
        roles=facts.roles,
        status="A folder of your own: nothing about it has been verified here.",
        components=_known_components(facts, known),
        edit_methods=facts.edit_methods,
    )


def with_own_components(variant: Variant, known: Iterable[Variant]) -> Variant:
    """A row of a folder, with the components that the folder's config.json names.

    They take the place of the row's where the user brings the weights, and are added to a row that lists none. They are
    fetched as the variants `known` say. Raises AppError where that config.json is unreadable.
    """
    folder = variant.folder
    if folder is None or find_config(folder) is None:
        return variant
    if variant.components and not variant.user_supplied:
        return variant
    facts = get_family(variant.family).describe(folder, _read_config(folder))
    return replace(variant, components=_known_components(facts, known)) if facts.components else variant


def _known_components(facts: CheckpointFacts, known: Iterable[Variant]) -> dict[str, Component]:
    """The components that can be fetched as one of the `known` variants says."""
    rows = [row.components for row in known]
    return {
        role: row[role]
        for role, repo in facts.components.items()
        for row in rows
        if role in row and row[role].repo == repo
    }


def _refuse_adapter(folder: Path) -> None:
    """Raises AppError for a LoRA adapter without the weights that it changes."""
    if not (folder / "adapter_config.json").is_file():
        return
    if all(path.name.startswith("adapter_") for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES):
        base = read_json(folder / "adapter_config.json", MAX_CONFIG_BYTES).get("base_model_name_or_path")
        raise AppError("checkpoint_is_adapter", folder=folder, base=str(base)[:100])


def _read_config(folder: Path) -> Mapping[str, Any]:
    if (file := find_config(folder)) is None:
        raise AppError("checkpoint_without_config", folder=folder)
    return read_json(file, MAX_CONFIG_BYTES)
