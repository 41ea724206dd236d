"""What of a variant lies on this machine: by names and lengths, without network and without hashing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from janus_app.hub import converted
from janus_app.hub.layout import PARTIAL, RepoCache, file_length
from janus_app.hub.trust import Verifier
from janus_app.registry.types import Variant


@dataclass(frozen=True)
class CacheStatus:
    """What of a variant lies on this machine. `total` counts published sizes where exact ones are not known."""

    complete: bool
    on_disk: int
    total: int
    folder: Path | None
    missing: tuple[str, ...] = ()
    unfinished: int = 0  # of `on_disk`, bytes of files that are not whole yet
    verified: bool = False  # every file was hashed once and has not changed since
    converted: int = 0  # bytes of the safetensors copy of its pickles, beside `on_disk`
    convertible: bool = False  # it is read from pickles, and has no such copy


def status_of_folder(folder: Path) -> CacheStatus:
    """Of a checkpoint that lies in a folder of its own."""
    present = (folder / "config.json").is_file()
    held = sum(file_length(path) or 0 for path in folder.iterdir() if path.is_file()) if present else 0
    return CacheStatus(present, held, held, folder, () if present else ("config.json",), **_copy(folder))


def status_of_cache(variant: Variant, cache: RepoCache, trust: Verifier) -> CacheStatus:
    """Of the variant's own files in huggingface_hub's cache."""
    unfinished = sum(file_length(path) or 0 for path in cache.leftovers() if path.name.endswith(PARTIAL))
    whole, missing = 0, []
    for file in variant.files:
        size = file_length(cache.pointer(file.path))
        whole += size or 0
        if size is None or (file.size is not None and size != file.size):
            missing.append(file.path)
    on_disk = whole + unfinished
    total = max(variant.file_bytes, on_disk) if missing else on_disk
    verified = not missing and all(trust.known_good(variant, file, cache.pointer(file.path)) for file in variant.files)
    return CacheStatus(
        not missing,
        on_disk,
        total,
        cache.snapshot,
        tuple(missing),
        unfinished,
        verified,
        **(_copy(cache.snapshot) if not missing else {}),
    )


def with_part(own: CacheStatus, name: str, part: CacheStatus) -> CacheStatus:
    """A variant and one of its components as one thing on disk."""
    return replace(
        own,
        complete=own.complete and part.complete,
        on_disk=own.on_disk + part.on_disk,
        total=own.total + part.total,
        missing=(*own.missing, *(f"{name}/{file}" for file in part.missing)),
        unfinished=own.unfinished + part.unfinished,
        verified=own.verified and part.verified,
    )


def _copy(folder: Path) -> dict[str, Any]:
    """What there is to say about the converted copy of a checkpoint folder."""
    inside = converted.converted_folder(folder)
    size = sum(file_length(path) or 0 for path in inside.glob("*") if path.is_file())
    return {"converted": size, "convertible": converted.wanting(folder)}
