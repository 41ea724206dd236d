"""POST /v1/images/generations, and how pictures are answered, whole or as a stream."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL.Image import Image
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from janus_app.errors import AppError, Message
from janus_app.outputs.image_io import open_picture
from janus_app.outputs.store import StoredImage
from janus_app.registry.types import Variant
from janus_app.server.api.context import ApiContext, EventStream, Make, sse
from janus_app.server.api.errors import language_of
from janus_app.server.api.schemas import ImageBody, json_body
from janus_app.types import Finished, GenerateRequest, Notice, Preview
from janus_app.workflows.settings import generate_settings

if TYPE_CHECKING:
    from janus_app.runtime.adapters import Adapter

QUALITY = 95  # of JPEG and WebP where none was asked for


@dataclass(frozen=True)
class Images:
    context: ApiContext

    async def generations(self, request: Request) -> Response:
        body = await json_body(request, ImageBody)
        return await self.answer(request, body, *await self.context.threaded(self.drawing, body))

    def drawing(self, body: ImageBody) -> tuple[Variant | None, Make]:
        """The variant that was asked for, and what builds the request for it. Raises AppError before a job waits."""
        variant = self.context.variant(body.model)

        def make(on: Variant) -> GenerateRequest:
            return GenerateRequest(body.prompt, **generate_settings(body.given(), on))

        make(self.context.expected(variant))
        return variant, lambda loaded: make(loaded.variant)

    async def answer(
        self, request: Request, body: ImageBody, variant: Variant | None, make: Make, name: str = "image_generation"
    ) -> Response:
        """Draw, and answer with pictures; `name` is the first part of a stream's event names."""
        adapters = await self.context.threaded(self.context.adapters, body.adapters)
        if body.stream:
            return EventStream(request, self._stream(request, body, variant, make, name, adapters))
        notices: list[Message] = []
        finished = await self.context.finished(request, variant, make, adapters, notices)
        said = [notice.text(language_of(request)) for notice in notices]
        return JSONResponse(await self.context.threaded(self.whole, request, body, finished, said))

    def whole(self, request: Request, body: ImageBody, finished: Finished, notices: list[str]) -> dict[str, Any]:
        """The pictures of a job as an answer that is not a stream. They are saved like all pictures of the app."""
        saved = self.context.store.save(finished)
        data = []
        for stored in saved:
            item: dict[str, Any] = {"revised_prompt": None, "janus_app": facts_of(stored)}
            if body.response_format == "url":
                item["url"] = self.context.publish(request, stored.file, body.media)
            else:
                item["b64_json"] = base64_of(encoded(stored, body))
            data.append(item)
        provenance = finished.provenance
        assert provenance is not None
        facts = {"model": provenance.variant_id, "seconds": round(finished.compute_seconds, 3), "notices": notices}
        return {"created": int(time.time()), "data": data, **described(saved[0].image, body), "janus_app": facts}

    async def _stream(
        self,
        request: Request,
        body: ImageBody,
        variant: Variant | None,
        make: Make,
        name: str,
        adapters: tuple[Adapter, ...] | None,
    ) -> AsyncGenerator[str, None]:
        wanted, sent, notices = body.partial_images or 0, 0, []
        language = language_of(request)
        async with aclosing(self.context.events(request, variant, make, adapters)) as events:
            async for event in events:
                if isinstance(event, Notice):
                    notices.append(event.message.text(language))
                # The k-th of n partial pictures is due when k / (n + 1) of the work is done.
                if (
                    isinstance(event, Preview)
                    and sent < wanted
                    and event.done * (wanted + 1) >= event.total * (sent + 1)
                ):
                    for place, image in enumerate(event.images):
                        content = base64_of(await self.context.threaded(encoded, image, body))
                        facts = {"partial_image_index": sent, "janus_app": {"index": place}}
                        yield _image_event(f"{name}.partial_image", content, image, body, facts)
                    sent += 1
                elif isinstance(event, Finished):
                    saved = await self.context.threaded(self.context.store.save, event)
                    for place, stored in enumerate(saved):
                        content = base64_of(await self.context.threaded(encoded, stored, body))
                        own = {"index": place, **facts_of(stored), "notices": notices}
                        yield _image_event(f"{name}.completed", content, stored.image, body, {"janus_app": own})
                else:
                    yield ""

    async def file(self, request: Request) -> Response:
        """A picture whose URL was given out."""
        found = self.context.files.get(request.path_params["name"])
        if found is None or not found[0].is_file():
            raise AppError("api_picture_gone")
        file, media = found
        if media == "png":
            return FileResponse(file, media_type="image/png")
        body = ImageBody(prompt="", output_format=media)  # type: ignore[arg-type]
        picture = await self.context.threaded(open_picture, file)
        return Response(await self.context.threaded(encoded, picture, body), media_type=f"image/{media}")


def _image_event(kind: str, content: str, image: Image, body: ImageBody, facts: dict[str, Any]) -> str:
    data = {"type": kind, "b64_json": content, "created_at": int(time.time()), **described(image, body), **facts}
    return sse(data, kind)


def facts_of(stored: StoredImage) -> dict[str, Any]:
    """What an answer says of one picture: its seed and, where the model thought in words, what it wrote."""
    record = stored.metadata
    thought = {name: text for name, text in (("plan", record.plan), ("judgement", record.judgement)) if text}
    return {"seed": record.seed, **thought}


def described(image: Image, body: ImageBody) -> dict[str, Any]:
    """The fields of an answer that describe its pictures; "size" is the true one."""
    return {
        "size": f"{image.width}x{image.height}",
        "output_format": body.media,
        "background": "opaque",
        "quality": "high",
    }


def encoded(picture: StoredImage | Image, body: ImageBody) -> bytes:
    """A picture in the format that was asked for. The PNG of a saved one is its file, metadata included."""
    image = picture.image if isinstance(picture, StoredImage) else picture
    if body.media == "png" and isinstance(picture, StoredImage):
        return picture.file.read_bytes()
    content = io.BytesIO()
    quality = QUALITY if body.output_compression is None else body.output_compression
    image.convert("RGB").save(content, body.media.upper(), **({} if body.media == "png" else {"quality": quality}))
    return content.getvalue()


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()
