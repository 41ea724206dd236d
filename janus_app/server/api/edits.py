"""POST /v1/images/edits and /v1/images/variations: forms with files, or the same fields as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from janus_app.errors import AppError
from janus_app.outputs.image_io import open_mask, open_picture
from janus_app.outputs.metadata import read_metadata
from janus_app.registry.types import Variant
from janus_app.runtime.session import ModelFacts
from janus_app.server.api.context import Make
from janus_app.server.api.gate import MAX_BODY
from janus_app.server.api.images import Images
from janus_app.server.api.inputs import MAX_PICTURES, check_count, picture_bytes
from janus_app.server.api.schemas import EditBody, json_object
from janus_app.types import EditRequest
from janus_app.workflows.settings import check_takes_mask, edit_settings, usual_edit_method

PICTURES = ("image", "image[]", "images", "images[]")  # one picture; several of them, as clients differ
UNKNOWN = "a picture"  # the prompt of a variation of a picture that says nothing of itself


@dataclass(frozen=True)
class Sent:
    """The fields of a request, and the bytes of its pictures and of its mask."""

    fields: dict[str, Any]
    pictures: list[bytes]
    mask: bytes | None


@dataclass(frozen=True)
class Edits:
    images: Images

    async def edits(self, request: Request) -> Response:
        sent = await self._sent(request)
        return await self._answer(request, sent, EditBody.model_validate(sent.fields))

    async def variations(self, request: Request) -> Response:
        sent = await self._sent(request)
        prompt = sent.fields.get("prompt") or await self.images.context.threaded(recorded_prompt, sent.pictures)
        return await self._answer(request, sent, EditBody.model_validate({**sent.fields, "prompt": prompt}))

    async def _answer(self, request: Request, sent: Sent, body: EditBody) -> Response:
        variant, make = await self.images.context.threaded(self.editing, sent, body)
        return await self.images.answer(request, body, variant, make, "image_edit")

    def editing(self, sent: Sent, body: EditBody) -> tuple[Variant | None, Make]:
        """The variant that was asked for, and what builds the request for it. Raises AppError before a job waits."""
        variant, make = self.images.context.variant(body.model), edit_maker(sent, body)
        make(self.images.context.expected(variant), body.method or ("variation" if sent.mask is None else "region"))

        def editing(loaded: ModelFacts) -> EditRequest:
            on, methods = loaded.variant, loaded.capabilities.edit_methods
            return make(on, body.method or usual_edit_method(methods, sent.mask is not None, on.title))

        return variant, editing

    async def _sent(self, request: Request) -> Sent:
        """What a request holds. Raises AppError where it holds no picture, or something else in its place."""
        fields: dict[str, Any] = {}
        given: list[Any] = []
        mask: Any = None
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            async with request.form(max_files=MAX_PICTURES + 1, max_fields=100, max_part_size=MAX_BODY) as form:
                for name, value in form.multi_items():
                    if name in PICTURES:
                        given.append(value)
                    elif name == "mask":
                        mask = value
                    else:
                        fields[name] = value
                return await self._read(fields, given, mask)
        fields = await json_object(request)
        for name in PICTURES:
            value = fields.pop(name, None)
            given += [one for one in (value if isinstance(value, list) else [value]) if one]
        return await self._read(fields, given, fields.pop("mask", None) or None)

    async def _read(self, fields: dict[str, Any], given: list[Any], mask: Any) -> Sent:
        if not given:
            raise AppError("edit_image_missing")
        check_count(len(given))
        pictures = await asyncio.gather(*(self._bytes(one) for one in given))
        content = None if mask is None else await self._bytes(mask)
        return Sent(fields, pictures, content or None)

    async def _bytes(self, value: Any) -> bytes:
        if isinstance(value, UploadFile):
            return await value.read()
        if isinstance(value, dict):
            value = value.get("image_url", value.get("url"))
        if not isinstance(value, str):
            raise AppError("api_picture_not_base64")
        context = self.images.context
        content: bytes = await context.threaded(picture_bytes, value, context.fetch_images)
        return content


def edit_maker(sent: Sent, body: EditBody) -> Callable[[Variant, str], EditRequest]:
    """Open the pictures, and return what builds the request for a variant and a method. Raises AppError."""
    pictures = [open_picture(content) for content in sent.pictures]
    mask: Image | None = None
    if sent.mask is not None:
        mask = open_mask(sent.mask, pictures[0].size, transparent="redraw")
        if body.method:
            check_takes_mask(body.method)

    def make(variant: Variant, method: str) -> EditRequest:
        more = tuple(pictures[1:])
        settings = edit_settings(body.given(), variant)
        return EditRequest(body.prompt, pictures[0], mask, method=method, more_images=more, **settings)

    return make


def recorded_prompt(pictures: list[bytes]) -> str:
    """What the first picture was drawn from, if this app drew it."""
    try:
        return read_metadata(pictures[0]).prompt
    except AppError:
        return UNKNOWN
