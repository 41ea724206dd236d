"""The five tools. Settings, limits and sentences are those of /v1."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from mcp.server import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ContentBlock,
    ListToolsResult,
    PaginatedRequestParams,
    Tool,
    ToolAnnotations,
)
from pydantic import BaseModel

from janus_app.errors import AppError, Message, system_language
from janus_app.registry.types import Variant
from janus_app.server.api.context import ApiContext, Make
from janus_app.server.api.edits import Edits, Sent
from janus_app.server.api.errors import as_app_error, language_of
from janus_app.server.api.images import Images
from janus_app.server.api.inputs import check_count, each, open_text, picture_bytes
from janus_app.server.api.models import model_row
from janus_app.server.api.schemas import Body, ImageBody
from janus_app.server.bridge import ClientGone
from janus_app.server.mcp import answers
from janus_app.server.mcp.arguments import DescribeCall, EditCall, ModelsCall, RankCall, schema_of
from janus_app.server.mcp.progress import Meter
from janus_app.types import MAX_NEW_TOKENS, ChatRequest, Finished, Notice, RankRequest, Turn
from janus_app.workflows.settings import chat_settings

MODEL = ("model", "adapters")
SETTINGS = ("negative_prompt", "n", "seed", "guidance", "guidance_interval", "temperature", "steps", "solver", "turbo",
            "size")  # fmt: skip
DRAWING = ("prompt", *SETTINGS, "thinking", "plan", *MODEL)
METHOD = ("method", "strength", "image_guidance", "source_prompt")
EDITING = ("prompt", "image", "mask", "more_images", *METHOD, *SETTINGS, *MODEL)
ASKING = ("image", "question", "seed", "temperature", "max_tokens", *MODEL)
Answer = list[ContentBlock]
Prepare = Callable[[], tuple[Variant | None, Make]]


@dataclass(frozen=True)
class Row:
    """A tool as it is listed: the fields of `body` that it takes, and whether it only reads."""

    description: str
    body: type[BaseModel]
    fields: tuple[str, ...]
    reads: bool = True


ROWS = {
    "draw": Row("Draw pictures of a text with the local model.", ImageBody, DRAWING, reads=False),
    "edit": Row("Change a picture, or the masked part of it, with the local model.", EditCall, EDITING, reads=False),
    "describe": Row("Ask the local model about a picture.", DescribeCall, ASKING),
    "rank": Row("Score how well each of several pictures shows a text.", RankCall, ("prompt", "images", *MODEL)),
    "models": Row(
        "List the models on this machine, what each can do, and which one is loaded; and the LoRA adapters.",
        ModelsCall,
        (),
    ),
}


def listed() -> list[Tool]:
    """The tools for a host. None of them deletes or replaces anything, and none reaches the network."""
    return [
        Tool(
            name=name,
            description=row.description,
            input_schema=schema_of(row.body, row.fields),
            annotations=ToolAnnotations(
                title=name.capitalize(), read_only_hint=row.reads, destructive_hint=False, open_world_hint=False
            ),
        )
        for name, row in ROWS.items()
    ]


@dataclass(frozen=True)
class Tools:
    """`startup` is the load of the model that was named at the start, None where none was; calls wait for it."""

    context: ApiContext
    startup: asyncio.Future[None] | None = None

    async def list(self, ctx: ServerRequestContext, params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=listed())

    async def call(self, ctx: ServerRequestContext, params: CallToolRequestParams) -> CallToolResult:
        """Run a tool. Whatever goes wrong is told to the model that called it, which may then do better."""
        language = language_of(ctx.request) if ctx.request else system_language()
        if params.name not in ROWS:
            raise MCPError(INVALID_PARAMS, Message("mcp_tool_unknown", known=", ".join(ROWS)).text(language))
        try:
            body = ROWS[params.name].body.model_validate(params.arguments or {})
            answer = await Call(self, ctx, language).answer(body)
        except ClientGone:
            return CallToolResult(content=[], is_error=True)  # nobody reads it
        except Exception as error:
            return CallToolResult(content=[answers.text(as_app_error(error).text(language))], is_error=True)
        return CallToolResult(content=answer)


@dataclass(frozen=True)
class Call:
    """One call of a tool, and the client that waits for it."""

    tools: Tools
    ctx: ServerRequestContext
    language: str

    @property
    def context(self) -> ApiContext:
        return self.tools.context

    async def answer(self, body: BaseModel) -> Answer:
        kinds: dict[type[BaseModel], Callable[[Any], Awaitable[Answer]]] = {
            ImageBody: self.draw,
            EditCall: self.edit,
            DescribeCall: self.describe,
            RankCall: self.rank,
            ModelsCall: self.models,
        }
        return await kinds[type(body)](body)

    async def draw(self, body: ImageBody) -> Answer:
        return await self._pictures(body, partial(Images(self.context).drawing, body))

    async def edit(self, body: EditCall) -> Answer:
        def prepare() -> tuple[Variant | None, Make]:
            given = [body.image, *(body.more_images or ())]
            check_count(len(given))
            pictures = each(picture_bytes, given, self.context.fetch_images)
            mask = picture_bytes(body.mask, self.context.fetch_images) if body.mask else None
            return Edits(Images(self.context)).editing(Sent({}, pictures, mask), body)

        return await self._pictures(body, prepare)

    async def describe(self, body: DescribeCall) -> Answer:
        def prepare() -> tuple[Variant | None, Make]:
            turns = (Turn("user", body.question, (open_text(body.image, self.context.fetch_images),)),)
            variant = self.context.variant(body.model)
            given = {
                "seed": body.seed_or_random(),
                "temperature": body.temperature,
                "max_new_tokens": body.max_tokens and min(body.max_tokens, MAX_NEW_TOKENS),
            }

            def make(on: Variant) -> ChatRequest:
                return ChatRequest(turns, **chat_settings(given, on))

            make(self.context.expected(variant))
            return variant, lambda loaded: make(loaded.variant)

        finished, notices = await self._finished(body, prepare)
        return [answers.text(finished.text), *notices]

    async def rank(self, body: RankCall) -> Answer:
        def prepare() -> tuple[Variant | None, Make]:
            check_count(len(body.images))
            pictures = tuple(each(open_text, body.images, self.context.fetch_images))
            request = RankRequest(body.prompt, pictures)
            return self.context.variant(body.model), lambda _: request

        finished, notices = await self._finished(body, prepare)
        scores = {"scores": [round(score, 4) for score in finished.scores]}
        return [answers.text(json.dumps(scores)), *notices]

    async def models(self, _: ModelsCall) -> Answer:
        found = await self.context.threaded(self.context.models)
        rows = [{"id": variant.id, **model_row(variant, self.context)["janus_app"]} for variant in found.values()]
        adapters = await self.context.threaded(self.context.adapter_names)
        return [answers.text(json.dumps(found, ensure_ascii=False)) for found in (rows, {"adapters": adapters})]

    async def _pictures(self, body: Body, prepare: Prepare) -> Answer:
        finished, notices = await self._finished(body, prepare)
        saved: Answer = await self.context.threaded(
            answers.pictures, self.context, self.ctx.request, finished, self.language
        )
        return [*saved, *notices]

    async def _finished(self, body: Body, prepare: Prepare) -> tuple[Finished, Answer]:
        """The end of the job that `prepare` describes, and its notices; how far it is is reported on the way."""
        meter = Meter(self.ctx, self.context.session, self.language)
        startup = self.tools.startup
        while startup is not None and not startup.done():
            await meter.wait(Message("mcp_preparing"))
            await asyncio.wait([startup], timeout=1)
        if startup is not None:
            startup.result()
        variant, make = await self.context.threaded(prepare)
        adapters = await self.context.threaded(self.context.adapters, body.adapters)
        notices: Answer = []
        async with aclosing(self.context.events(self.ctx.request, variant, make, adapters)) as events:
            async for event in events:
                if self.ctx.request is not None and await self.ctx.request.is_disconnected():
                    raise ClientGone
                if isinstance(event, Notice):
                    notices.append(answers.text(event.message.text(self.language)))
                await meter.see(event)
        if not isinstance(event, Finished):
            raise AppError("api_interrupted")
        return event, notices
