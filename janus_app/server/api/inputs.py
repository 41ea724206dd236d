"""Pictures that a client sends: data URIs, base64, and web addresses where the user allowed them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from PIL.Image import Image

from janus_app.errors import AppError
from janus_app.outputs.image_io import open_picture
from janus_app.server.api.fetch import fetch

T = TypeVar("T")
MAX_PICTURES = 16  # of a request


def picture_bytes(text: str, fetch_images: bool) -> bytes:
    """The bytes of a data URI, of bare base64, or at a web address. Never a path. Raises AppError."""
    if text[:8].lower().startswith(("http://", "https://")):
        if not fetch_images:
            raise AppError("api_url_refused")
        return fetch(text)
    head, comma, data = text.partition(",") if text[:5].lower() == "data:" else ("", "", text)
    if head and not (comma and head.lower().endswith(";base64")):
        raise AppError("api_picture_not_base64")
    try:
        content = base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        raise AppError("api_picture_not_base64") from None
    if not content:
        raise AppError("api_picture_not_base64")
    return content


def check_count(count: int) -> None:
    """Raises AppError for more pictures than a request may have; called before they are decoded."""
    if count > MAX_PICTURES:
        raise AppError("api_pictures_too_many", count=count, most=MAX_PICTURES)


def each(read: Callable[[str, bool], T], texts: Sequence[str], fetch_images: bool) -> list[T]:
    """What `read`, one of the functions here, finds in each text, all at the same time: they may be at web addresses.

    Raises AppError.
    """
    with ThreadPoolExecutor(max(1, len(texts)), "picture") as pool:
        return list(pool.map(lambda text: read(text, fetch_images), texts))


def open_text(text: str, fetch_images: bool) -> Image:
    """The picture in a text, as `picture_bytes` finds it. Raises AppError."""
    return open_picture(picture_bytes(text, fetch_images))
