"""What a tool answers with: pictures and text, small enough for the programs that show them."""

from __future__ import annotations

import io

from mcp_types import ContentBlock, ImageContent, TextContent
from PIL.Image import Image
from starlette.requests import Request

from janus_app.errors import Message
from janus_app.outputs.store import StoredImage
from janus_app.server.api.context import ApiContext
from janus_app.server.api.images import base64_of
from janus_app.types import Finished

INLINE = 1_000_000  # characters of base64 in an answer: some hosts refuse more than 1 MiB, text and all
QUALITIES = (92, 80, 65)  # of a JPEG, the first that is small enough


def text(content: str) -> TextContent:
    return TextContent(type="text", text=content)


def pictures(context: ApiContext, request: Request | None, finished: Finished, language: str) -> list[ContentBlock]:
    """Save the pictures of a job, and return them with a line about each and what the model thought of it: as the saved
    PNGs, or as smaller JPEGs with links to the PNGs where an answer would be too large.
    """
    saved = context.store.save(finished)
    whole = [base64_of(stored.file.read_bytes()) for stored in saved]
    fits = sum(map(len, whole)) <= INLINE
    found: list[ContentBlock] = []
    for stored, content in zip(saved, whole, strict=True):
        record = stored.metadata
        if fits:
            found.append(ImageContent(type="image", data=content, mime_type="image/png"))
        else:
            small = base64_of(_jpeg(stored.image, INLINE // len(saved)))
            found.append(ImageContent(type="image", data=small, mime_type="image/jpeg"))
        found.append(text(_line(context, request, stored, fits).text(language)))
        if record.plan:
            found.append(text(Message("mcp_plan", plan=record.plan).text(language)))
        if record.judgement:
            found.append(text(Message("mcp_judgement", judgement=record.judgement).text(language)))
    return found


def _line(context: ApiContext, request: Request | None, stored: StoredImage, fits: bool) -> Message:
    record = stored.metadata
    about = {"seed": record.seed, "width": record.size[0], "height": record.size[1], "title": record.title}
    if fits:
        return Message("mcp_picture", **about)
    link = context.publish(request, stored.file, "png") if request else stored.file.resolve().as_uri()
    return Message("mcp_picture_small", link=link, **about)


def _jpeg(image: Image, most: int) -> bytes:
    """The picture as a JPEG of at most `most` characters in base64."""
    image = image.convert("RGB")
    while True:
        for quality in QUALITIES:
            content = io.BytesIO()
            image.save(content, "JPEG", quality=quality)
            if 4 * -(-content.tell() // 3) <= most:
                return content.getvalue()
        image = image.reduce(2)
