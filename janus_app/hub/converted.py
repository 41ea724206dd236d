"""Where the safetensors copy of a pickled checkpoint lies, and whether it may be used. Reads no weights.

A model of the cache has it beside its snapshots, models--owner--name/janus-converted/<revision>, where no other
program looks and deleting the model takes it along; a folder of the user has it inside, in janus-converted.
`converted.json` in it names the pickles it was made from and the files it consists of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "janus-converted"
RECORD = "converted.json"


def converted_folder(folder: Path) -> Path:
    """Where the converted weights of a checkpoint folder belong, there or not."""
    return folder.parent.parent / NAME / folder.name if folder.parent.name == "snapshots" else folder / NAME


def pickles(folder: Path) -> list[Path]:
    """The pickled weight files a checkpoint folder is read from; empty where it has safetensors of its own."""
    if any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        return []
    if (folder / "pytorch_model.bin").is_file():
        return [folder / "pytorch_model.bin"]
    try:
        index = json.loads((folder / "pytorch_model.bin.index.json").read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    # A name that leads out of the folder is the loader's to refuse.
    plain = all(isinstance(name, str) and name == Path(name).name and "\\" not in name for name in names)
    return [folder / name for name in names] if plain else []


def usable(folder: Path) -> Path | None:
    """The folder with converted weights, if it is whole and its pickles are still those it was made from."""
    inside = converted_folder(folder)
    record = read_metadata(inside)
    sources, files = record.get("from"), record.get("files")
    if not isinstance(sources, dict) or not isinstance(files, dict) or not files:
        return None
    try:
        same = {path.name: stamp(path) for path in pickles(folder)} == sources
        whole = all((inside / name).stat().st_size == facts["size"] for name, facts in files.items())
    except (OSError, TypeError, KeyError):
        return None
    return inside if same and whole else None


def wanting(folder: Path) -> bool:
    """True for a checkpoint that is read from pickles and could be converted."""
    files = pickles(folder)
    return bool(files) and all(file.is_file() for file in files) and usable(folder) is None


def read_metadata(inside: Path) -> Mapping[str, Any]:
    """converted.json, empty where there is none that can be read."""
    try:
        record = json.loads((inside / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def stamp(path: Path) -> list[int]:
    """What changes when a file does: its length and its time."""
    seen = path.stat()
    return [seen.st_size, seen.st_mtime_ns]
