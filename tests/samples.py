"""Metadata and picture files that several tests use."""

from __future__ import annotations

import struct
import zlib

from janus_app.outputs.metadata import ImageMetadata

METADATA = ImageMetadata(
    "1", "tiny-a", "Tiny A", "", "", "janus", "fp32", "cpu", "generate", "a red circle", "", 7, (8, 8),
    "2026-11-20T10:00:00+00:00", {"guidance": 5.0}, {}, (1, 2, 3),
)  # fmt: skip


def png_claiming(width: int, height: int) -> bytes:
    """A PNG file whose header claims a size and which contains almost no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
