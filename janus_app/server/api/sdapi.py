"""/sdapi/v1 in the shape of AUTOMATIC1111's web UI, which several programs know how to draw with."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from PIL import ImageOps
from PIL.Image import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from janus_app.errors import AppError, Message
from janus_app.outputs.image_io import open_mask, open_picture
from janus_app.outputs.metadata import parameters
from janus_app.registry.types import Variant
from janus_app.runtime.session import ModelFacts
from janus_app.server.api.context import ApiContext, Make
from janus_app.server.api.errors import language_of
from janus_app.server.api.inputs import open_text, picture_bytes
from janus_app.server.api.schemas import WebuiBody, WebuiEditBody, json_body, json_object
from janus_app.server.bridge import steps, until_gone
from janus_app.types import SOLVERS, EditRequest, Finished, GenerateRequest
from janus_app.workflows.settings import edit_settings, generate_settings, usual_edit_method


@dataclass(eq=False)
class Webui:
    """`running` are the jobs that a client can interrupt: those of this interface, never the page's.

    `drawn` is how far the session's job was when a client last asked, in steps of all.
    """

    context: ApiContext
    running: set[asyncio.Task[Finished]] = field(default_factory=set)
    drawn: tuple[int, int] = (0, 0)

    async def options(self, request: Request) -> Response:
        variant = self.context.expected(None)
        return JSONResponse({"sd_model_checkpoint": variant.id, "sd_checkpoint_hash": "", "samples_format": "png"})

    async def set_options(self, request: Request) -> Response:
        """Load the model that is named; other options are ignored."""
        variant = await self._named(await json_object(request))
        if variant is not None and variant.id != self.context.session.state.variant_id:
            await self.context.threaded(self.context.require_files, variant)

            async def load() -> None:
                with self.context.place(request):
                    job = self.context.session.load(self.context.session.catalog.name_of(variant))
                    async with aclosing(steps(job, self.context.workers)) as events:
                        async for _ in events:
                            pass

            await until_gone(request.receive, load())
        return JSONResponse(None)

    async def models(self, request: Request) -> Response:
        found = await self.context.threaded(self.context.models)
        empty = {"hash": None, "sha256": None, "config": None}
        return JSONResponse([{"title": n, "model_name": n, "filename": n, **empty} for n in found])

    async def samplers(self, request: Request) -> Response:
        return JSONResponse([{"name": name, "aliases": [name], "options": {}} for name in SOLVERS])

    async def schedulers(self, request: Request) -> Response:
        return JSONResponse([{"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1.0}])

    async def nothing(self, request: Request) -> Response:
        """Upscalers, other autoencoders and so on: there are none."""
        return JSONResponse([])

    async def progress(self, request: Request) -> Response:
        state = self.context.session.state
        now = state.progress if state.phase == "busy" else None
        if now is None:
            self.drawn = 0, 0
        elif now.stage != "decode":  # what was drawn stays while it is decoded: clients show the share as one bar
            self.drawn = now.done, now.total
        elif now.total - now.done <= 1:  # the last picture
            self.drawn = now.total, now.total
        done, total = self.drawn
        job = {"job": state.verb, "job_count": state.queue + (state.phase == "busy"), "job_no": 0, "skipped": False}
        steps_done = {"sampling_step": done, "sampling_steps": total, "interrupted": False}
        return JSONResponse(
            {
                "progress": done / total if total else 0.0,
                "eta_relative": now.seconds_left or 0.0 if now else 0.0,
                "state": job | steps_done,
                "current_image": None,
                "textinfo": None,
            }
        )

    async def interrupt(self, request: Request) -> Response:
        for task in self.running:
            task.cancel()
        return JSONResponse({})

    async def txt2img(self, request: Request) -> Response:
        body = await json_body(request, WebuiBody)
        given = body.given()

        def drawing(on: Variant) -> GenerateRequest:
            return GenerateRequest(body.prompt, **generate_settings(given, on))

        return await self._answer(request, body, lambda loaded: drawing(loaded.variant), drawing)

    async def img2img(self, request: Request) -> Response:
        body = await json_body(request, WebuiEditBody)
        given = body.given()
        picture, mask = await self.context.threaded(self._pictures, body)

        def edit(on: Variant, method: str) -> EditRequest:
            return EditRequest(body.prompt, picture, mask, method=method, **edit_settings(given, on))

        def editing(loaded: ModelFacts) -> EditRequest:
            on, methods = loaded.variant, loaded.capabilities.edit_methods
            return edit(on, usual_edit_method(methods, mask is not None, on.title))

        return await self._answer(request, body, editing, lambda on: edit(on, "variation"))

    def _pictures(self, body: WebuiEditBody) -> tuple[Image, Image | None]:
        if not body.init_images:
            raise AppError("edit_image_missing")
        picture = open_text(body.init_images[0], self.context.fetch_images)
        if not body.mask:
            return picture, None
        content = picture_bytes(body.mask, self.context.fetch_images)
        if body.inpainting_mask_invert:
            return picture, open_mask(ImageOps.invert(open_picture(content).convert("L")), picture.size)
        return picture, open_mask(content, picture.size)

    async def _answer(self, request: Request, body: WebuiBody, make: Make, check: Callable[[Variant], Any]) -> Response:
        variant = await self._named(body.override_settings)
        check(self.context.expected(variant))
        notices: list[Message] = []
        task = asyncio.ensure_future(self.context.finished(request, variant, make, notices=notices))
        self.running.add(task)
        try:
            await asyncio.wait([task])
        finally:
            self.running.discard(task)
            task.cancel()
        if task.cancelled():
            raise AppError("api_interrupted")
        answer = await self.context.threaded(self._whole, body, task.result())
        said = [notice.text(language_of(request)) for notice in notices]
        return JSONResponse({**answer, "janus_app": {"notices": said}})

    async def _named(self, options: dict[str, Any]) -> Variant | None:
        name = options.get("sd_model_checkpoint")
        found: Variant | None = await self.context.threaded(
            self.context.variant, name if isinstance(name, str) else None
        )
        return found

    def _whole(self, body: WebuiBody, finished: Finished) -> dict[str, Any]:
        saved = self.context.store.save(finished)
        records = [stored.metadata for stored in saved]
        first = records[0]
        info = {
            "prompt": body.prompt,
            "all_prompts": [body.prompt] * len(saved),
            "negative_prompt": first.negative,
            "seed": first.seed,
            "all_seeds": [record.seed for record in records],
            "width": first.size[0],
            "height": first.size[1],
            "batch_size": len(saved),
            "cfg_scale": first.settings.get("guidance"),
            "steps": first.settings.get("steps", body.steps),
            "sampler_name": first.settings.get("solver", ""),
            "sd_model_name": first.model,
            "infotexts": [parameters(record) for record in records],
            "job_timestamp": first.created,
        }
        sent = body.model_dump(exclude={"init_images", "mask", "override_settings"})
        pictures = [base64.b64encode(stored.file.read_bytes()).decode() for stored in saved]
        return {"images": pictures, "parameters": sent, "info": json.dumps(info, ensure_ascii=False)}
