"""POST /v1/chat/completions: text and pictures in, text out, and pictures drawn in the chat as `images`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from janus_app.errors import AppError, Message
from janus_app.registry.types import Variant
from janus_app.runtime.session import ModelFacts
from janus_app.server.api.context import ApiContext, EventStream, sse
from janus_app.server.api.errors import FieldError
from janus_app.server.api.images import base64_of
from janus_app.server.api.inputs import check_count, each, open_text
from janus_app.server.api.schemas import ChatBody, ChatMessage, json_body
from janus_app.server.bridge import until_gone
from janus_app.types import (
    ChatRequest,
    EditRequest,
    Finished,
    GenerateRequest,
    Notice,
    Progress,
    Started,
    TextDelta,
    Turn,
)
from janus_app.types import Request as JobRequest
from janus_app.workflows.commands import command
from janus_app.workflows.settings import chat_settings, edit_settings, generate_settings, usual_edit_method

TEXTS = frozenset({"text", "input_text"})  # types of the parts of a message
PICTURES = frozenset({"image_url", "input_image"})


@dataclass
class Answer:
    """An answer as it grows."""

    model: str = ""
    text: str = ""
    images: list[str] = field(default_factory=list)  # data URIs
    notices: list[str] = field(default_factory=list)
    finish: str = "stop"
    prompt_tokens: int = 0
    new_tokens: int = 0

    @property
    def usage(self) -> dict[str, int]:
        read, written = self.prompt_tokens, self.new_tokens
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


class StopFilter:
    """Ends a text before the first of the stop strings, also one that arrives in parts."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.stops, self.held, self.stopped = stops, "", False

    def feed(self, text: str) -> str:
        """What can be given out now. What might begin a stop string is held back."""
        self.held += text
        ends = [place for stop in self.stops if (place := self.held.find(stop)) >= 0]
        if ends:
            self.stopped = True
            given, self.held = self.held[: min(ends)], ""
            return given
        longest = len(self.held) + 1
        begun = (n for stop in self.stops for n in range(1, min(len(stop), longest)) if self.held.endswith(stop[:n]))
        keep = max(begun, default=0)
        given, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return given


@dataclass(frozen=True)
class Chat:
    context: ApiContext

    async def completions(self, request: Request) -> Response:
        body = await json_body(request, ChatBody)
        _refuse_unsupported(body)
        variant = await self.context.threaded(self.context.variant, body.model)
        make = await self.context.threaded(self._maker, body)
        make(self.context.expected(variant), None)  # refused before it waits in the line
        parts = self._parts(request, body, variant, lambda loaded: make(loaded.variant, loaded))
        identity = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time())}
        if body.stream:
            return EventStream(
                request, _stream(parts, identity, bool((body.stream_options or {}).get("include_usage")))
            )

        async def whole() -> Answer:
            last = Answer()
            async with aclosing(parts):
                async for _, answer in parts:
                    last = answer
            return last

        return JSONResponse(_completion(await until_gone(request.receive, whole()), identity))

    def _maker(self, body: ChatBody) -> Callable[[Variant, ModelFacts | None], JobRequest]:
        """What builds the job's request: an answer, or a picture if the last message asks for one. Raises AppError."""
        turns = _turns(body.messages, self.context.fetch_images)
        drawing = _drawing(body, turns)
        if drawing is None:
            given = {**body.model_dump(), "seed": body.seed_or_random(), "max_new_tokens": body.longest}
            return lambda variant, _: ChatRequest(turns, **chat_settings(given, variant))
        verb, prompt = drawing
        given = {"seed": body.seed_or_random()}
        pictures = [image for turn in turns for image in turn.images]
        if verb == "draw":
            return lambda variant, _: GenerateRequest(prompt, **generate_settings(given, variant))
        if not pictures:
            raise AppError("conversation_without_picture")

        def editing(variant: Variant, loaded: ModelFacts | None) -> EditRequest:
            methods = loaded.capabilities.edit_methods if loaded else ("variation",)
            method = usual_edit_method(methods, False, variant.title)
            return EditRequest(prompt, pictures[-1], method=method, **edit_settings(given, variant))

        return editing

    async def _parts(
        self, request: Request, body: ChatBody, variant: Variant | None, make: Callable[[ModelFacts], JobRequest]
    ) -> AsyncGenerator[tuple[str, Answer], None]:
        """(new text, the answer so far) for each event."""
        answer, stops = Answer(), StopFilter(body.stops)
        adapters = await self.context.threaded(self.context.adapters, body.adapters)
        async with aclosing(self.context.events(request, variant, make, adapters)) as events:
            async for event in events:
                new = ""
                if isinstance(event, Started):
                    answer.model = event.provenance.variant_id
                elif isinstance(event, Notice):
                    answer.notices.append(event.text)
                elif isinstance(event, Progress) and event.stage == "read" and event.unit == "tokens":
                    answer.prompt_tokens = event.total
                elif isinstance(event, TextDelta):
                    answer.new_tokens += len(event.token_ids)
                    new = stops.feed(event.text)
                elif isinstance(event, Finished):
                    new, stops.held = stops.held, ""
                    if event.pictures:
                        answer.images = await self.context.threaded(self._images, event)
                    if event.usage:
                        answer.prompt_tokens, answer.new_tokens = event.usage.prompt_tokens, event.usage.new_tokens
                        answer.finish = "length" if _was_cut(event) else "stop"
                answer.text += new
                yield new, answer
                if stops.stopped:
                    return

    def _images(self, finished: Finished) -> list[str]:
        saved = self.context.store.save(finished)
        return [f"data:image/png;base64,{base64_of(stored.file.read_bytes())}" for stored in saved]


def _was_cut(finished: Finished) -> bool:
    request, usage = finished.provenance and finished.provenance.request, finished.usage
    if usage is None or not isinstance(request, ChatRequest):
        return False
    return usage.new_tokens >= min(request.max_new_tokens, usage.context - usage.prompt_tokens)


def _refuse_unsupported(body: ChatBody) -> None:
    wanted = {
        "n": (body.n or 1) != 1,
        # A model may answer without calling any of them; several programs offer some in every request.
        "tool_choice": bool(body.tools) and body.tool_choice not in (None, "none", "auto"),
        "logprobs": bool(body.logprobs),
        "response_format": (body.response_format or {}).get("type", "text") != "text",
    }
    for name, unsupported in wanted.items():
        if unsupported:
            raise FieldError(Message("api_unsupported", field=name), name)


def _turns(messages: list[ChatMessage], fetch_images: bool) -> tuple[Turn, ...]:
    """The conversation as a model reads it. What a system says comes before the first question: the models know no
    such role.
    """
    texts, urls = [_checked_text(message) for message in messages], [_urls(message) for message in messages]
    check_count(sum(map(len, urls)))
    pictures = iter(each(open_text, list(chain(*urls)), fetch_images))
    system, turns = [], list[Turn]()
    for message, text, own in zip(messages, texts, urls, strict=True):
        images = tuple(islice(pictures, len(own)))
        if message.role in ("system", "developer"):
            system.append(text)
        elif message.role in ("user", "assistant"):
            turns.append(Turn("user" if message.role == "user" else "assistant", text, images))
        else:
            raise FieldError(Message("api_unsupported", field="tool messages"), "messages")
    first = next((place for place, turn in enumerate(turns) if turn.role == "user"), None)
    if system and first is not None:
        turn = turns[first]
        turns[first] = Turn("user", "\n\n".join(filter(None, [*system, turn.text])), turn.images)
    return tuple(turns)


def _text(message: ChatMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text or "" for part in message.content or () if part.type in TEXTS)


def _urls(message: ChatMessage) -> list[str]:
    parts = [] if isinstance(message.content, str) else message.content or []
    return [part.url for part in [*parts, *(message.images or ())] if part.type in PICTURES]


def _checked_text(message: ChatMessage) -> str:
    """The text of a message. Raises FieldError for a message of other things, such as sound."""
    parts = [] if isinstance(message.content, str) else message.content or []
    if other := {part.type for part in parts} - TEXTS - PICTURES:
        raise FieldError(Message("api_unsupported", field=", ".join(sorted(other))[:100]), "messages")
    return _text(message)


def _drawing(body: ChatBody, turns: tuple[Turn, ...]) -> tuple[str, str] | None:
    """("draw" or "edit", the prompt) if the last message asks for a picture. Raises AppError for an empty prompt."""
    last = turns[-1] if turns else None
    if last is None or last.role != "user":
        return None
    # Without what the system said, which can also be the very last message.
    text = _text(next(message for message in reversed(body.messages) if message.role == "user"))
    found = command(text)
    if found is None and "image" in (body.modalities or ()):
        found = ("edit" if last.images else "draw", text)
    if found and not found[1].strip():
        raise AppError("draw_command_empty" if found[0] == "draw" else "edit_command_empty")
    return found


def _image_parts(answer: Answer) -> list[dict[str, Any]]:
    """The form in which several clients show pictures of an answer; OpenAI's API has none."""
    return [{"type": "image_url", "index": n, "image_url": {"url": url}} for n, url in enumerate(answer.images)]


def _completion(answer: Answer, identity: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.images:
        message["images"] = _image_parts(answer)
    choice = {"index": 0, "message": message, "finish_reason": answer.finish, "logprobs": None}
    facts = {
        "model": answer.model,
        "choices": [choice],
        "usage": answer.usage,
        "janus_app": {"notices": answer.notices},
    }
    return {**identity, "object": "chat.completion", **facts}


async def _stream(
    parts: AsyncGenerator[tuple[str, Answer], None], identity: dict[str, Any], include_usage: bool
) -> AsyncGenerator[str, None]:
    answer, begun = Answer(), False

    def chunk(delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        facts = {"object": "chat.completion.chunk", "model": answer.model, "choices": [choice]}
        return sse({**identity, **facts, **({"usage": None} if include_usage else {})})

    async with aclosing(parts):
        async for new, answer in parts:
            if answer.model and not begun:
                begun = True
                yield chunk({"role": "assistant", "content": ""})
            yield chunk({"content": new}) if new else ""
    if answer.images:
        yield chunk({"images": _image_parts(answer)})
    yield chunk({}, answer.finish)
    if include_usage:
        facts = {"object": "chat.completion.chunk", "model": answer.model, "choices": [], "usage": answer.usage}
        yield sse({**identity, **facts})
    yield sse("[DONE]")
