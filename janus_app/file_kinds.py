"""What a file is, told by its first bytes and its length, whatever it is called. Reads no more than a header."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.formatting import size_text

_LONGEST_HEADER = 100_000_000  # bytes; the limit of safetensors
_OLD_PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before PyTorch 1.6: a magic number of its own
_TEXT = re.compile(rb"[\t\n\f\r\x20-\x7e\x80-\xff]*")

# Formats of models that this app does not read, by their first bytes or, for those without any, by their suffix.
_MODEL_STARTS = {
    b"GGUF": "GGUF",
    b"lmgg": "GGML",
    b"tjgg": "GGML",
    b"fmgg": "GGML",
    b"\x89HDF\r\n\x1a\n": "HDF5 (Keras, TensorFlow)",
    b"\x93NUMPY": "NumPy",
}
_MODEL_SUFFIXES = {
    ".gguf": "GGUF",
    ".ggml": "GGML",
    ".onnx": "ONNX",
    ".h5": "HDF5 (Keras, TensorFlow)",
    ".keras": "Keras",
    ".pb": "TensorFlow",
    ".tflite": "TensorFlow Lite",
    ".msgpack": "Flax",
    ".npz": "NumPy (MLX)",
    ".mlmodel": "Core ML",
    ".mlpackage": "Core ML",
    ".distcp": "PyTorch distributed checkpoint",
    ".engine": "TensorRT",
    ".plan": "TensorRT",
    ".pte": "ExecuTorch",
    ".pdparams": "PaddlePaddle",
}
_PICTURE_STARTS = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
}
_BOXES = {b"WEBP": "WebP", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"avif": "AVIF"}  # at byte 8
_ARCHIVE_STARTS = {
    b"7z\xbc\xaf": "7z",
    b"Rar!": "RAR",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}
_OTHER_STARTS = {
    b"%PDF": "PDF",
    b"ID3": "MP3",
    b"OggS": "Ogg",
    b"fLaC": "FLAC",
    b"\x1aE\xdf\xa3": "Matroska",
    b"MZ": "Windows program",
    b"\x7fELF": "Linux program",
    b"SQLite format 3": "SQLite",
}
_UNFINISHED = (".part", ".crdownload", ".incomplete", ".download", ".aria2", ".tmp", ".!ut", ".partial")


@dataclass(frozen=True)
class TensorHeader:
    """The header of a safetensors file: dtype and shape of each tensor, and the bytes that the whole file has."""

    tensors: dict[str, tuple[str, tuple[int, ...]]]
    length: int
    metadata: dict[str, Any] = field(default_factory=dict)


def tensor_header(file: Path) -> TensorHeader | None:
    """The header of a safetensors file, cut off or not; None where the file has none. Raises OSError."""
    with open(file, "rb") as opened:
        start = opened.read(9)
        length = int.from_bytes(start[:8], "little")
        if len(start) < 9 or start[8:] != b"{" or length > _LONGEST_HEADER:
            return None
        text = b"{" + opened.read(length - 1)
    if len(text) < length:
        return TensorHeader({}, 8 + length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", None) or {}
        tensors = {name: (str(row["dtype"]), tuple(map(int, row["shape"]))) for name, row in header.items()}
        end = max((int(row["data_offsets"][1]) for row in header.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None
    return TensorHeader(tensors, 8 + length + end, metadata)


def is_pickle(file: Path) -> bool:
    """Whether PyTorch wrote the file with torch.save, in its present or its old format. Raises OSError."""
    with open(file, "rb") as opened:
        start = opened.read(len(_OLD_PICKLE))
    if start == _OLD_PICKLE:
        return True
    return start.startswith(b"PK\x03\x04") and any(name.endswith("/data.pkl") for name in _names_in_zip(file))


def is_weights(file: Path) -> bool:
    """Whether a file contains weights in a format that is read here, whole or cut off."""
    try:
        return tensor_header(file) is not None or is_pickle(file)
    except OSError:
        return False


def other_model_format(file: Path) -> str | None:
    """The name of a format of models that is not read here, by the file's first bytes, else by its suffix."""
    if file.is_dir():
        return _MODEL_SUFFIXES.get(file.suffix.lower())
    start = _start_of(file)
    if found := next((name for magic, name in _MODEL_STARTS.items() if start.startswith(magic)), None):
        return found
    if start[4:8] == b"TFL3":
        return "TensorFlow Lite"
    if start[:1] == b"\x08" and (b"pytorch" in start or b"onnx" in start.lower()):
        return "ONNX"
    if file.suffix.lower() == ".bin" and file.with_suffix(".xml").is_file():
        return "OpenVINO"
    if re.search(r"\.data-\d+-of-\d+$", file.name):
        return "TensorFlow"
    return _MODEL_SUFFIXES.get(file.suffix.lower())


def what_it_is(file: Path) -> AppError | None:
    """The refusal of a file that is of another kind than weights, or cut off; None where nothing is known."""
    try:
        start, size = _start_of(file), file.stat().st_size
        header = tensor_header(file)
    except OSError as error:
        return AppError("model_file_unreadable", path=file, reason=error.strerror or error)
    if refused := _not_the_file_itself(file, start):
        return refused
    if header is not None:
        return _cut(file, header, size)
    if file.suffix.lower() == ".safetensors" and size < 9:
        return AppError("weights_cut_pickle", file=file.name)
    if file.suffix.lower() in _UNFINISHED:
        return AppError("weights_download_unfinished", file=file.name)
    if found := other_model_format(file):
        return AppError("weights_other_format", file=file.name, format=found)
    if found := picture_format(start):
        return AppError("file_is_picture", file=file.name, format=found)
    if start.startswith(b"PK\x03\x04"):
        return _what_the_zip_is(file)
    if found := _by_start(_ARCHIVE_STARTS, start) or ("tar" if start[257:262] == b"ustar" else None):
        return AppError("file_is_archive", file=file.name, format=found)
    if found := _by_start(_OTHER_STARTS, start) or ("MP4" if start[4:8] == b"ftyp" else None):
        return AppError("file_is_of_kind", file=file.name, format=found)
    if start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5" and not start.startswith(_OLD_PICKLE):
        return AppError("weights_pickle_runs_code", file=file.name)  # not one of PyTorch
    if not start.strip(b"\0"):
        return AppError("weights_zeros", file=file.name)
    if text := _text(start):
        return AppError("file_is_text", file=file.name, text=text)
    return None


def what_it_is_instead_of_text(file: Path) -> AppError | None:
    """The refusal of a file that should be JSON and is nothing of that kind; None where it may be damaged JSON."""
    try:
        start = _start_of(file)
    except OSError:
        return None
    return _not_the_file_itself(file, start)


def picture_format(start: bytes) -> str | None:
    """The format of the picture whose first bytes these are."""
    if start[:4] == b"RIFF" or start[4:8] == b"ftyp":
        return _BOXES.get(start[8:12])
    return _by_start(_PICTURE_STARTS, start)


def _start_of(file: Path) -> bytes:
    with open(file, "rb") as opened:
        return opened.read(512)


def _by_start(kinds: dict[bytes, str], start: bytes) -> str | None:
    return next((name for magic, name in kinds.items() if start.startswith(magic)), None)


def _not_the_file_itself(file: Path, start: bytes) -> AppError | None:
    """What came in place of a file: nothing, a pointer to it, or a page about it."""
    if not start:
        return AppError("weights_empty", file=file.name)
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return AppError("weights_lfs_pointer", file=file.name)
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--", b"<script")):
        return AppError("weights_web_page", file=file.name)
    return None


def _cut(file: Path, header: TensorHeader, size: int) -> AppError | None:
    if (missing := header.length - size) > 0:
        return AppError("weights_cut", file=file.name, missing=missing, size=size_text(missing))
    return None


def _names_in_zip(file: Path) -> list[str]:
    try:
        with zipfile.ZipFile(file) as opened:
            return opened.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        with open(file, "rb") as cut:
            return ["archive/data.pkl"] if b"/data.pkl" in cut.read(512) else []


def _what_the_zip_is(file: Path) -> AppError | None:
    names = _names_in_zip(file)
    if not zipfile.is_zipfile(file):
        pickled = any(name.endswith("/data.pkl") for name in names)
        return AppError("weights_cut_pickle" if pickled else "file_cut_archive", file=file.name)
    if any(name.endswith("/constants.pkl") for name in names):
        return AppError("weights_other_format", file=file.name, format="TorchScript")
    if names and all(name.endswith(".npy") for name in names):
        return AppError("weights_other_format", file=file.name, format="NumPy (MLX)")
    if any(name.endswith("/data.pkl") for name in names):
        return None
    return AppError("file_is_archive", file=file.name, format="ZIP")


def _text(start: bytes) -> str:
    """The beginning of a text, "" for anything else."""
    if not _TEXT.fullmatch(start):
        return ""
    try:
        text = start.decode("utf-8", "ignore")
    except ValueError:
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:60]
