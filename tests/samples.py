"""Metadata and picture files that several tests use."""

from __future__ import annotations

import base64
import io
import struct
import zlib

from PIL import Image

from janus_app.outputs.metadata import ImageMetadata

METADATA = ImageMetadata(
    "1", "tiny-a", "Tiny A", "", "", "janus", "fp32", "cpu", "generate", "a red circle", "", 7, (8, 8),
    "2026-11-20T10:00:00+00:00", {"guidance": 5.0}, {}, (1, 2, 3),
)  # fmt: skip


def png_uri(picture: Image.Image) -> str:
    """The picture as a PNG in a data URI, as a browser sends what is painted."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def png_claiming(width: int, height: int) -> bytes:
    """A PNG file whose header claims a size and which contains almost no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
