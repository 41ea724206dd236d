"""A folder on this machine that holds a checkpoint, described as a `Variant` from its own files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from janus_app.errors import AppError, Message
from janus_app.file_kinds import is_pickle, other_model_format, tensor_header, what_it_is
from janus_app.files import read_errors_as_app_errors, read_json
from janus_app.models.common.tensor_kinds import refuse_changed_layers
from janus_app.models.common.weight_files import WEIGHT_SUFFIXES, find_weights, is_adapter_file, weight_candidates
from janus_app.models.family import CheckpointFacts
from janus_app.models.registry import architecture_of, detect_family, find_config, get_family
from janus_app.registry.types import Component, Variant
from janus_app.types import VERBS

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
COPY_RECORD = "saved_copy.json"  # in a copy that the app saved: what it was made from, and how
MAX_CONFIG_BYTES = 1_000_000  # real ones are under 10 kB


def variant_of_path(path: Path, known: Iterable[Variant] = ()) -> Variant:
    """Describe the checkpoint in the folder `path`, or the one that the file `path` belongs to.

    Raises AppError, which says what the file or folder is, where it is no checkpoint of a known family.
    """
    with read_errors_as_app_errors(path):
        folder = path if path.is_dir() else folder_of_file(path)
    return variant_of_folder(folder, known)


def variant_of_folder(folder: Path, known: Iterable[Variant] = ()) -> Variant:
    """Describe the checkpoint in `folder` (original layout), or in the only folder inside it that has one.

    Repositories that its config.json names are fetched as the variants `known` say, and a copy that was saved from one
    of them is used as it. Raises AppError where the folder holds no checkpoint of a known family, or cannot be read.
    """
    rows = tuple(known)
    with read_errors_as_app_errors(folder):
        found = _described(folder, rows)
        source = _copied_from(found, rows)
    if source is None:
        return found
    fields = ("context", "settings", "examples", "roles", "solvers", "edit_methods", "thinking")
    return replace(found, **{name: getattr(source, name) for name in fields})


def _copied_from(found: Variant, known: Iterable[Variant]) -> Variant | None:
    """The variant that a copy was saved from, where it is one of the `known`."""
    assert found.folder is not None
    if not (found.folder / COPY_RECORD).is_file():
        return None
    source = read_json(found.folder / COPY_RECORD, MAX_CONFIG_BYTES).get("from")
    name = source.get("model") if isinstance(source, dict) else None
    return next((row for row in known if row.id == name and row.family == found.family), None)


def _described(folder: Path, known: Iterable[Variant]) -> Variant:
    if refused := what_folder_is(folder):
        raise refused
    if (inside := _checkpoint_inside(folder)) != folder:
        return _described(inside, known)
    config = _read_config(folder)
    _refuse_quantized(folder, config)
    family = detect_family(config)
    facts = family.describe(folder, config)
    try:
        weights = _weights(folder, family.config_file)
    except AppError as error:
        if error.code != "checkpoint_without_weights" or not facts.weights_elsewhere:
            raise
        weights = ()
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
        components=_known_components(facts, family.id, known),
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
    return replace(variant, components=_known_components(facts, variant.family, known)) if facts.components else variant


def _known_components(facts: CheckpointFacts, family: str, known: Iterable[Variant]) -> dict[str, Component]:
    """The components that can be fetched as one of the `known` variants says, if it can one of the same family.

    Families need different files of one repository: a MetaQuery has the weights of its language model itself.
    """
    rows = [row.components for row in sorted(known, key=lambda row: row.family == family)]
    return {
        role: row[role]
        for role, repo in facts.components.items()
        for row in rows
        if role in row and row[role].repo == repo
    }


def folder_of_file(file: Path) -> Path:
    """The checkpoint folder that a file is part of. Raises AppError, which says what it is, where it is of none."""
    folder = file.parent
    if file.exists() and not file.is_file():  # a pipe, which may never end
        raise AppError("file_of_unknown_kind", file=file.name)
    if file.name == CONFIG or file.name.endswith(".index.json"):
        return folder
    if refused := what_it_is(file):
        raise refused
    header = tensor_header(file)
    if header is not None:
        dtypes = {name: dtype for name, (dtype, _) in header.tensors.items()}
        refuse_changed_layers(Path(file.name), dtypes, header.metadata)
    elif not is_pickle(file):
        raise AppError("file_of_unknown_kind", file=file.name)
    if (folder / CONFIG).is_file() and file in find_weights(folder).files:
        return folder
    raise weights_alone(file)


def weights_alone(file: Path) -> AppError:
    """The refusal of a weight file without the other files of its checkpoint, with the architecture if it is known."""
    header = tensor_header(file)
    found = architecture_of(header.tensors if header else ())
    return AppError("weights_file_alone", file=file.name, found=found or Message("architecture_unknown"))


def what_folder_is(folder: Path) -> AppError | None:
    """The refusal of a folder that is no checkpoint of a whole model; None where it may be one."""
    weights = weight_candidates(folder)
    if all(is_adapter_file(path) for path in weights) and (weights or (folder / ADAPTER_CONFIG).is_file()):
        return _adapter(folder)
    if find_config(folder) is not None:
        return None
    if (folder / "model_index.json").is_file():
        kind = str(read_json(folder / "model_index.json", MAX_CONFIG_BYTES).get("_class_name"))[:60]
        return AppError("checkpoint_is_pipeline", folder=folder, kind=kind)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() not in WEIGHT_SUFFIXES and (found := other_model_format(path)):
            return AppError("weights_other_format", file=path.name, format=found)
    for path in weights:
        try:
            folder_of_file(path)
        except AppError as error:
            if error.code != "file_of_unknown_kind":
                return error
    return None


def _weights(folder: Path, config_file: str) -> Sequence[Path]:
    """The weight files of a checkpoint: where `config_file` is in the folder of a part, those in the folders of its
    parts. Raises AppError for none."""
    if (config := find_config(folder)) is not None and (depth := config_file.count("/")):
        root = config.parents[depth]  # the folders beside it are not of this checkpoint
        found: Sequence[Path] = [path for path in root.glob("**/*") if path.suffix in WEIGHT_SUFFIXES]
    else:
        try:
            found = find_weights(folder).files
        except AppError as error:
            if error.code != "weights_missing":
                raise
            found = ()
    if not found:
        raise AppError("checkpoint_without_weights", folder=folder)
    return found


def _adapter(folder: Path) -> AppError | None:
    base: Any = None
    if (folder / ADAPTER_CONFIG).is_file():
        base = read_json(folder / ADAPTER_CONFIG, MAX_CONFIG_BYTES).get("base_model_name_or_path")
    return AppError("checkpoint_is_adapter", folder=folder, base=str(base)[:100] if base else Message("its_base_model"))


def _checkpoint_inside(folder: Path) -> Path:
    """The folder itself, or where it has no config.json the only folder in it that has one.

    Of a repository in the Hub's cache that is the snapshot of its main branch. Raises AppError where there are several.
    """
    if find_config(folder) is not None or (folder / "model_index.json").is_file():
        return folder
    snapshots = folder if folder.name == "snapshots" else folder / "snapshots"
    if snapshots.is_dir():
        main = snapshots.parent / "refs" / "main"
        named = snapshots / main.read_text("utf-8", "replace").strip() if main.is_file() else snapshots / "main"
        if find_config(named) is not None:
            return named
        folder = snapshots
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and find_config(path) is not None]
    if len(inside) > 1:
        raise AppError("checkpoint_folders_inside", folder=folder, names=", ".join(path.name for path in inside[:6]))
    return inside[0] if inside else folder


def _refuse_quantized(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises AppError for a config.json that says that the weights are quantised."""
    for section in ("quantization_config", "compression_config", "quantization"):
        found = config.get(section)
        if isinstance(found, Mapping) and found:
            bits = "bitsandbytes" if found.get("load_in_4bit") or found.get("load_in_8bit") else None
            mlx = "MLX" if section == "quantization" else None
            method = found.get("quant_method") or bits or mlx or section
            raise AppError("checkpoint_quantized", folder=folder, method=str(method)[:40])


def _read_config(folder: Path) -> Mapping[str, Any]:
    if (file := find_config(folder)) is None:
        raise AppError("checkpoint_without_config", folder=folder)
    return read_json(file, MAX_CONFIG_BYTES)
