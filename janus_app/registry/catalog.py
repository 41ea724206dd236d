"""The catalog: weights_manifest.yaml and the user's own list, read into frozen `Variant`s.

catalog = load_catalog()
variant = catalog.resolve("janus-pro-1b")  # or a folder that holds a checkpoint
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from janus_app.errors import AppError, Message
from janus_app.paths import MANIFEST, data_folder
from janus_app.registry.resolve import resolve
from janus_app.registry.types import Variant

USER_LIST = "models.yaml"


class Catalog(Mapping[str, Variant]):
    """The variants by id, in the manifest's order."""

    def __init__(self, variants: Mapping[str, Variant], defaults: Mapping[str, str]) -> None:
        self._variants = dict(variants)
        self._defaults = dict(defaults)
        self._first: Variant | None = None

    def __getitem__(self, name: str) -> Variant:
        return self._variants[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variants)

    def __len__(self) -> int:
        return len(self._variants)

    def include(self, variant: Variant) -> None:
        """Add a row the user has just made, for as long as this program runs."""
        self._variants[variant.id] = variant

    def start_with(self, variant: Variant) -> None:
        """Make a variant the default one, which may be a folder in no list, for as long as this program runs."""
        self._first = variant

    def default(self, has_gpu: bool = False) -> Variant:
        """The variant to select where the user named none."""
        return self._first or self._variants[self._defaults["gpu" if has_gpu else "cpu"]]

    def resolve(self, name: str) -> Variant:
        """A variant by id, in any case, or the checkpoint in the folder `name`. Raises AppError where it is neither."""
        return resolve(name, self)

    def name_of(self, variant: Variant) -> str:
        """The name that `resolve` turns into this variant: its id, or the path of a folder that is in no list."""
        listed = self.get(variant.id)
        if variant.folder is None or (listed is not None and listed.folder == variant.folder):
            return variant.id
        return str(variant.folder)


def load_catalog(extra: Path | None = None) -> Catalog:
    """The built-in rows and the user's.

    The user's come from `extra`, else $JANUS_APP_MANIFEST, else models.yaml in the data folder where there is one.

    Raises AppError with file, row, field and reason of the first thing that is wrong.
    """
    document = _read(MANIFEST)
    variants = _variants(document, MANIFEST, built_in={})
    defaults = document.get("defaults", {})
    for device in ("cpu", "gpu"):
        if defaults.get(device) not in variants:
            raise AppError("model_list_default_unknown", file=MANIFEST.name, device=device)
    own = user_list(extra)
    if own.is_file() or own != data_folder() / USER_LIST:  # a file that was asked for must be there
        variants |= _variants(_read(own), own, built_in=variants)
    return Catalog(variants, defaults)


def user_list(extra: Path | None = None) -> Path:
    """The file of the user's own rows: `extra`, else $JANUS_APP_MANIFEST, else models.yaml in the data folder."""
    chosen = extra or os.environ.get("JANUS_APP_MANIFEST")
    return Path(chosen).expanduser() if chosen else data_folder() / USER_LIST


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        # libyaml is ten times as fast, but deep nesting makes it crash: it reads the file of this checkout only.
        fast = path == MANIFEST and hasattr(yaml, "CSafeLoader")
        document = yaml.load(text, yaml.CSafeLoader if fast else yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or Message("not_utf8")
        raise AppError("model_list_unreadable", path=path, reason=reason) from error
    except RecursionError as error:
        raise AppError("model_list_unreadable", path=path, reason=Message("yaml_malformed")) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else text.count("\n", 0, getattr(error, "position", 0)) + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or Message("yaml_malformed")
        raise AppError("model_list_not_yaml", path=path, line=line, problem=problem) from error
    if not isinstance(document, dict) or not isinstance(document.get("variants"), list):
        raise AppError("model_list_without_rows", path=path)
    return document


def _variants(document: Mapping[str, Any], source: Path, built_in: Mapping[str, Variant]) -> dict[str, Variant]:
    from pydantic import ValidationError

    from janus_app.registry.schema import Row, first_problem

    found: dict[str, Variant] = {}
    for number, row in enumerate(document["variants"], start=1):
        name = row.get("id", f"number {number}") if isinstance(row, dict) else f"number {number}"
        try:
            variant = Row.model_validate(row).variant(source.resolve().parent)
        except ValidationError as error:
            field, reason = first_problem(error)
            raise AppError("model_row_wrong", source=source, row=name, field=field, reason=reason) from error
        if name in found or name in built_in:
            reason = Message("row_id_used_twice" if name in found else "row_id_built_in")
            raise AppError("model_row_wrong", source=source, row=name, field="id", reason=reason)
        found[variant.id] = variant
    return found
