"""Adds a folder to the user's own list of models, so that it can be loaded by name."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.files import file_lock, write_atomically
from janus_app.registry.catalog import load_catalog, user_list
from janus_app.registry.checkpoint_folder import variant_of_folder
from janus_app.registry.types import Variant

_HEADER = "# Models of your own; docs/models.md says what a row may hold. Rows added by the app stand at the end.\n"


def register(folder: Path, name: str = "") -> Variant:
    """Add the checkpoint in `folder` to the user's list and return its row as the catalog now reads it.

    `name`, else the folder's name, becomes its id and title. Comments and rows in the list stay as they are. Raises
    AppError where the folder holds no checkpoint, the name is taken, or the list cannot be extended.

    The row does not list the components that the folder's config.json names: `resolve` reads them from there.
    """
    found = variant_of_folder(folder.expanduser())
    title = name.strip() or found.title.removesuffix(" (folder)")
    identity = (re.sub(r"[^a-z0-9._-]+", "-", title.lower()).strip("-._") or found.id)[:64]
    path = user_list()
    with _locked(path):
        if identity in load_catalog():
            raise AppError("model_name_taken", name=identity)
        _append(path, _row(found, identity, title))
    return load_catalog(path).resolve(identity)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Exclude other writers of the list. Raises AppError where its folder cannot be written, or another keeps it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(path.with_name(f".{path.name}.lock")):
            yield
    except OSError as error:
        raise AppError("model_list_not_writable", path=path, reason=error.strerror or error) from error


def _row(variant: Variant, identity: str, title: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": identity,
        "title": title,
        "family": variant.family,
        "folder": str(variant.folder),
        "code_licence": variant.code_licence,
        "weights_licence": variant.weights_licence,
        "licence_note": variant.licence_note,
        "verbs": list(variant.verbs),
        "size": list(variant.size),
        "context": variant.context,
        "parameters": variant.parameters,
        "settings": {key: asdict(setting) for key, setting in variant.settings.items()},
        "status": variant.status,
    }
    if variant.edit_methods:
        row["edit_methods"] = list(variant.edit_methods)
    if variant.solvers:
        row["solvers"] = list(variant.solvers)
    if variant.roles:
        row["roles"] = variant.roles
    return row


def _append(path: Path, row: dict[str, Any]) -> None:
    """Write the row at the end of the list's text, and keep the result only if it reads as the old rows plus this."""
    import yaml

    text = yaml.safe_dump([row], sort_keys=False, allow_unicode=True, default_flow_style=False)
    try:
        old = path.read_text(encoding="utf-8") if path.exists() else f"{_HEADER}variants:\n"
        before = (yaml.safe_load(old) or {}).get("variants") or []
        start = old if old.endswith("\n") else old + "\n"
        indented = (textwrap.indent(text, " " * width) for width in (2, 0, 4))  # as deep as the rows before it
        new = next(start + block for block in indented if _rows(start + block) == [*before, row])
        write_atomically(path, new.encode("utf-8"))
    except (StopIteration, AttributeError, yaml.YAMLError):
        raise AppError("model_list_not_extendable", path=path, row=text) from None


def _rows(text: str) -> Any:
    """The rows of a list's text, None where it is not YAML."""
    import yaml

    try:
        return yaml.safe_load(text).get("variants")
    except (AttributeError, yaml.YAMLError):
        return None
