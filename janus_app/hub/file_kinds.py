"""What a file is that cannot be read as weights: told by its first bytes and its length."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from janus_app.errors import AppError
from janus_app.formatting import size_text

_LONGEST_HEADER = 100_000_000  # bytes; the limit of safetensors


def what_it_is(file: Path) -> AppError | None:
    """The refusal of a file that is of a known other kind or cut off; None where nothing is known."""
    try:
        with open(file, "rb") as opened:
            start = opened.read(512)
        size = file.stat().st_size
    except OSError:
        return None
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start:
        return AppError("weights_empty", file=file.name)
    if text.startswith(b"version https://git-lfs"):
        return AppError("weights_lfs_pointer", file=file.name)
    if text.startswith((b"<!doctype html", b"<html")):
        return AppError("weights_web_page", file=file.name)
    if start.startswith(b"GGUF") or file.suffix in (".gguf", ".onnx"):
        return AppError("weights_other_format", file=file.name, format="GGUF" if start[:4] == b"GGUF" else "ONNX")
    if file.suffix == ".safetensors":
        return _cut_safetensors(file, start, size)
    if start.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(file):
        return AppError("weights_cut_pickle", file=file.name)
    return None


def _cut_safetensors(file: Path, start: bytes, size: int) -> AppError | None:
    """Its header says where the last tensor ends."""
    import json

    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or start[8:9] != b"{" or length > _LONGEST_HEADER:
        return None
    missing = 8 + length - size
    if missing <= 0:
        with open(file, "rb") as opened:
            opened.seek(8, os.SEEK_SET)
            try:
                header = json.loads(opened.read(length))
                ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
                missing += max(ends, default=0)
            except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
                return None
    return AppError("weights_cut", file=file.name, missing=missing, size=size_text(missing)) if missing > 0 else None
