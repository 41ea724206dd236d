"""The catalog: weights_manifest.yaml read into frozen `Variant`s. Knows facts; knows no network and no torch.

catalog = load_catalog()
variant = catalog.resolve("janus-pro-1b")  # or a folder that holds a checkpoint
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.paths import MANIFEST, data_folder
from janus_app.registry.resolve import resolve
from janus_app.registry.schema import ROW
from janus_app.registry.types import Component, File, Variant
from janus_app.types import Setting


class Catalog(Mapping[str, Variant]):
    """The variants by id, in the manifest's order."""

    def __init__(self, variants: Mapping[str, Variant], defaults: Mapping[str, str]) -> None:
        self._variants = dict(variants)
        self._defaults = dict(defaults)

    def __getitem__(self, name: str) -> Variant:
        return self._variants[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variants)

    def __len__(self) -> int:
        return len(self._variants)

    def include(self, variant: Variant) -> None:
        """Add a row the user has just made, for as long as this program runs."""
        self._variants[variant.id] = variant

    def default(self, has_gpu: bool = False) -> Variant:
        """The variant to select when nobody named one."""
        return self._variants[self._defaults["gpu" if has_gpu else "cpu"]]

    def resolve(self, name: str) -> Variant:
        """A variant by id, in any case, or the checkpoint in the folder `name`. Raises AppError where it is neither."""
        return resolve(name, self)


def load_catalog(extra: Path | None = None) -> Catalog:
    """The built-in rows plus the user's.

    Those come from `extra`, else $JANUS_APP_MANIFEST, else models.yaml in the data folder if it is there.

    Raises AppError naming file, row, field and reason for the first thing that is wrong.
    """
    document = _read(MANIFEST)
    variants = _variants(document, MANIFEST, taken={})
    defaults = document.get("defaults", {})
    for kind in ("cpu", "gpu"):
        if defaults.get(kind) not in variants:
            raise AppError(f"{MANIFEST.name}, defaults: {kind} must name one of its rows. Correct the file.")
    if (own := _own_manifest(extra)) is not None:
        variants |= _variants(_read(own), own, taken=variants)
    return Catalog(variants, defaults)


def _own_manifest(extra: Path | None) -> Path | None:
    chosen = extra or os.environ.get("JANUS_APP_MANIFEST")
    if chosen:
        return Path(chosen).expanduser()
    usual = data_folder() / "models.yaml"
    return usual if usual.is_file() else None


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise AppError(f"The model list {path} cannot be read: {reason}. Check the path and the file.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" near line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it is malformed"
        raise AppError(f"The model list {path} is not valid YAML{place}: {problem}. Correct the file.") from error
    if not isinstance(document, dict) or not isinstance(document.get("variants"), list):
        raise AppError(f"The model list {path} must be a mapping with a list called 'variants'. Correct the file.")
    return document


def _variants(document: Mapping[str, Any], source: Path, taken: Mapping[str, Variant]) -> dict[str, Variant]:
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(ROW)
    found: dict[str, Variant] = {}
    for number, row in enumerate(document["variants"], start=1):
        name = row.get("id", f"number {number}") if isinstance(row, dict) else f"number {number}"
        problems = sorted(validator.iter_errors(row), key=lambda error: [str(part) for part in error.path])
        if problems:
            field_name, reason = _explain(problems[0])
            _refuse(source, name, field_name, reason)
        if row["id"] in found:
            _refuse(source, name, "id", "is used by two rows")
        if row["id"] in taken:
            _refuse(source, name, "id", "is the name of a built-in model; choose another")
        _check(row, source)
        found[row["id"]] = _variant(row, source.resolve().parent)
    return found


def _explain(error: Any) -> tuple[str, str]:
    """The dotted field and the reason of a schema error, in words."""
    place = [str(part) for part in error.path]
    if error.validator == "required":
        missing = re.match(r"'([^']+)'", error.message)
        return ".".join([*place, missing.group(1) if missing else "?"]), "is missing"
    if error.validator == "additionalProperties":
        return ".".join(place) or "row", error.message.split("(")[-1].rstrip(")") + " (misspelt?)"
    reason = error.schema.get("description") if isinstance(error.schema, dict) else None
    given = repr(error.instance)
    given = given if len(given) <= 80 else given[:77] + "..."
    return ".".join(place) or "row", f"{reason or error.message}; it is {given}"


def _refuse(source: Path, row: object, field_name: str, reason: str) -> None:
    raise AppError(f"{source}, model {row!r}, field {field_name!r}: {reason}. Correct the file and start again.")


def _check(row: Mapping[str, Any], source: Path) -> None:
    """What a schema cannot say, or not in a readable sentence."""
    if ("repo" in row) == ("folder" in row):
        _refuse(source, row["id"], "repo", "give exactly one of repo (on the Hub) and folder (on this machine)")
    if "repo" in row:
        for needed in ("revision", "files"):
            if needed not in row:
                _refuse(source, row["id"], needed, "is missing; a model on the Hub needs it")
    _check_files(row, "files", row.get("files", ()), source)
    for name, component in row.get("components", {}).items():
        _check_files(row, f"components.{name}.files", component["files"], source)
    for name, setting in row["settings"].items():
        if not all(math.isfinite(value) for value in setting.values()):
            _refuse(source, row["id"], f"settings.{name}", "numbers must be finite")
        if not setting["low"] <= setting["default"] <= setting["high"]:
            _refuse(source, row["id"], f"settings.{name}", "the default must lie from low to high")


def _check_files(row: Mapping[str, Any], field_name: str, files: Sequence[Mapping[str, Any]], source: Path) -> None:
    seen: set[str] = set()
    for file in files:
        path = file["path"]
        parts = path.split("/")
        if any(part in ("", ".", "..") for part in parts) or re.search(r"[\\:\x00-\x1f]", path):
            _refuse(source, row["id"], field_name, f"{path!r} must be a relative path that stays inside the folder")
        if path in seen:
            _refuse(source, row["id"], field_name, f"{path!r} is listed twice")
        seen.add(path)


def _variant(row: Mapping[str, Any], base: Path) -> Variant:
    """A validated row as a Variant; a relative folder is relative to the manifest's own."""
    folder = row.get("folder")
    examples = {
        language: {verb: tuple(prompts) for verb, prompts in verbs.items()}
        for language, verbs in row.get("examples", {}).items()
    }
    return Variant(
        id=row["id"],
        title=row["title"],
        family=row["family"],
        repo=row.get("repo"),
        revision=row.get("revision"),
        folder=base / Path(folder).expanduser() if folder else None,
        files=tuple(File(**file) for file in row.get("files", ())),
        code_licence=row["code_licence"],
        weights_licence=row["weights_licence"],
        licence_note=row.get("licence_note", "").strip(),
        verbs=tuple(row["verbs"]),
        size=(row["size"][0], row["size"][1]),
        context=row["context"],
        settings={name: Setting(**setting) for name, setting in row["settings"].items()},
        parameters=row.get("parameters", 0),
        memory=dict(row.get("memory", {})),
        examples=examples,
        status=row.get("status", "").strip(),
        notes=row.get("notes", "").strip(),
        roles=row.get("roles", ""),
        solvers=tuple(row.get("solvers", ())),
        edit_methods=tuple(row.get("edit_methods", ())),
        user_supplied=row.get("yours", False),
        components={
            name: Component(
                part["repo"],
                part["revision"],
                tuple(File(**file) for file in part["files"]),
                part.get("licence", ""),
            )
            for name, part in row.get("components", {}).items()
        },
    )
