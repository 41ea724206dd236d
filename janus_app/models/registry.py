"""The families of models that this version runs. A family's module is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.files import read_json
from janus_app.models.common.tensor_kinds import contain_all, other_architecture_of
from janus_app.models.family import Family

FAMILIES: dict[str, str | Family] = {  # id -> the family, or "module:name" of it
    "janus": "janus_app.models.janus.family:FAMILY",
    "janusflow": "janus_app.models.janusflow.family:FAMILY",
    "metaquery": "janus_app.models.metaquery.family:FAMILY",
    "unipic2": "janus_app.models.unipic2.family:FAMILY",
    "regression": "janus_app.models.regression.family:FAMILY",
    "mixed_diffusion": "janus_app.models.mixed_diffusion.family:FAMILY",
}


def get_family(name: str) -> Family:
    """A family by its id. Raises AppError for an unknown one."""
    if name not in FAMILIES:
        raise AppError("family_unknown", given=name, known=", ".join(FAMILIES))
    found = FAMILIES[name]
    if isinstance(found, Family):
        return found
    module, _, attribute = found.partition(":")
    family: Family = getattr(import_module(module), attribute)
    return family


def find_config(folder: Path) -> Path | None:
    """The file of a checkpoint in `folder`, or in a subfolder, that says what the checkpoint is; None = not there.

    None too where several subfolders are checkpoints; a part of a model, such as its language model, is none.
    """
    names = dict.fromkeys(get_family(name).config_file for name in FAMILIES)
    direct = [folder / name for name in names]
    if found := next((file for file in direct if file.is_file()), None):
        return found
    nested = [file for name in names if "/" in name for file in folder.glob(f"*/{name}") if file.is_file()]
    if len(nested) != 1:
        return None
    own = nested[0].relative_to(folder).parts[0]
    beside = [path / "config.json" for path in folder.iterdir() if path.name != own]
    return None if any(map(_is_checkpoint, beside)) else nested[0]


def _is_checkpoint(config: Path) -> bool:
    """Whether a config.json is there and of a family."""
    try:
        return config.is_file() and detect_family(read_json(config, 1_000_000)) is not None
    except (AppError, OSError):
        return False


def architecture_of(names: Iterable[str]) -> str | None:
    """The title of the family, or of another architecture, that has tensors of these names; None where none is known.

    Tools that add to names do not matter.
    """
    names = list(names)
    for family in map(get_family, FAMILIES):
        if family.marks and contain_all(names, family.marks):
            return family.title
    return other_architecture_of(names)


def detect_family(config: Mapping[str, Any]) -> Family:
    """The family that a config.json is of. Raises AppError where it is of none."""
    for name in FAMILIES:
        if (family := get_family(name)).detect(config):
            return family
    known = ", ".join(get_family(name).title for name in FAMILIES)
    given = config.get("model_type") or config.get("_class_name") or config.get("architectures")
    if not given:
        raise AppError("checkpoint_type_missing", known=known)
    raise AppError("checkpoint_type_unknown", given=str(given)[:60], known=known)
