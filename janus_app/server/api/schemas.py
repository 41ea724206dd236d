"""What clients send. A field that this API does not know is ignored, as OpenAI's clients send many."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request

from janus_app.errors import AppError
from janus_app.types import EDIT_SETTINGS, MAX_NEW_TOKENS, MAX_STEPS, SOLVERS
from janus_app.workflows.settings import random_seed

B = TypeVar("B", bound=BaseModel)
MAX_STOPS = 4
MAX_ADAPTERS = 8
MAX_STOP_LENGTH = 500  # characters
_SIZE = re.compile(r"auto|[1-9]\d{0,4}x[1-9]\d{0,4}")


def _size(text: Any) -> Any:
    if text is not None and not (isinstance(text, str) and _SIZE.fullmatch(text)):
        raise ValueError(AppError("api_size_malformed", given=repr(text)[:100]))
    return text


def _method(text: Any) -> Any:
    if text is not None and text not in EDIT_SETTINGS:
        raise ValueError(AppError("edit_method_unknown", given=repr(text)[:100], known=", ".join(EDIT_SETTINGS)))
    return text


def _stops(given: Any) -> Any:
    stops = [given] if isinstance(given, str) else given or []
    if len(stops) > MAX_STOPS or any(len(stop) > MAX_STOP_LENGTH for stop in stops):
        raise ValueError(AppError("api_stops_too_many", most=MAX_STOPS, length=MAX_STOP_LENGTH))
    return given


def _adapters(given: Any) -> Any:
    """A form sends its names as one text, with commas."""
    return [name.strip() for name in given.split(",") if name.strip()] if isinstance(given, str) else given


def _own_names(*names: str) -> Any:
    return Field(None, validation_alias=AliasChoices(*names))


class Body(BaseModel):
    """Fields that all routes of /v1 read."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True, allow_inf_nan=False)

    model: str | None = None
    seed: int | None = None
    temperature: float | None = None
    stream: bool | None = None
    adapters: Annotated[list[str] | None, Field(max_length=MAX_ADAPTERS), BeforeValidator(_adapters)] = None

    def seed_or_random(self) -> int:
        """The given seed. A request without one, or with the -1 of some clients, gets a random one that it keeps."""
        if self.seed is None or self.seed == -1:
            self.seed = random_seed()
        return self.seed


class ImageBody(Body):
    """images/generations; the fields of OpenAI's API first, then this app's own.

    Any `size` is taken: a model draws its own size, and the answer says it.
    """

    prompt: str
    n: int | None = None
    size: Annotated[str | None, BeforeValidator(_size)] = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "jpg", "webp"] | None = None
    output_compression: Annotated[int | None, Field(ge=0, le=100)] = None
    partial_images: Annotated[int | None, Field(ge=0, le=100)] = None
    negative: str | None = _own_names("negative_prompt", "negative")
    guidance: float | None = _own_names("guidance", "guidance_scale", "cfg_scale")
    steps: int | None = _own_names("steps", "num_inference_steps")
    solver: str | None = None
    turbo: bool | None = None
    guidance_interval: tuple[float, float] | None = None
    thinking: bool | None = None
    plan: str | None = None

    def given(self) -> dict[str, Any]:
        """The settings as `janus_app.workflows.settings` names them."""
        return {**self.model_dump(), "count": self.n, "seed": self.seed_or_random(), "think": self.thinking}

    @property
    def media(self) -> str:
        return {"jpg": "jpeg"}.get(self.output_format or "png", self.output_format or "png")


class EditBody(ImageBody):
    """images/edits without its pictures."""

    method: Annotated[str | None, BeforeValidator(_method)] = None
    strength: float | None = None
    image_guidance: float | None = None
    source_prompt: str | None = None


class Part(BaseModel):
    """A part of a message: text, or a picture as a data URI or a web address."""

    type: str
    text: str | None = None
    image_url: str | dict[str, Any] | None = None

    @property
    def url(self) -> str:
        given = self.image_url.get("url") if isinstance(self.image_url, dict) else self.image_url
        return given if isinstance(given, str) else ""


class ChatMessage(BaseModel):
    """A message of a conversation. `images` are pictures of an answer, in the form in which this API gives them."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    images: list[Part] | None = None


class ChatBody(Body):
    """chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    top_p: Annotated[float | None, BeforeValidator(lambda p: 0.01 if p in (0, 0.0) else p)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    stop: Annotated[str | list[str] | None, AfterValidator(_stops)] = None
    stream_options: dict[str, Any] | None = None
    modalities: list[str] | None = None
    n: int | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    logprobs: bool | None = None
    response_format: dict[str, Any] | None = None

    @property
    def longest(self) -> int | None:
        """The most tokens to write, None for the model's usual limit."""
        asked = self.max_completion_tokens or self.max_tokens
        return min(asked, MAX_NEW_TOKENS) if asked else None

    @property
    def stops(self) -> tuple[str, ...]:
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in given if stop)


class WebuiBody(BaseModel):
    """sdapi/v1/txt2img. What this app has no use for is ignored, as its clients send many fields at their defaults."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    prompt: str
    negative_prompt: str | None = ""
    seed: int = -1
    batch_size: int = 1
    n_iter: int = 1
    width: int | None = None
    height: int | None = None
    cfg_scale: float | None = None
    steps: int | None = None
    sampler_name: str | None = None
    sampler_index: str | None = None
    override_settings: dict[str, Any] = {}

    def given(self) -> dict[str, Any]:
        """The settings as `janus_app.workflows.settings` names them; numbers that only other models know are cut."""
        solver = (self.sampler_name or self.sampler_index or "").lower()
        return {
            "negative": (self.negative_prompt or "").strip(),
            "count": self.batch_size * self.n_iter,
            "guidance": None if self.cfg_scale is None else min(max(self.cfg_scale, 1.0), 20.0),
            "steps": None if self.steps is None else min(max(self.steps, 1), MAX_STEPS),
            "seed": random_seed() if self.seed == -1 else self.seed,
            "solver": solver if solver in SOLVERS else None,
            "size": f"{self.width}x{self.height}" if self.width and self.height else None,
        }


class WebuiEditBody(WebuiBody):
    """sdapi/v1/img2img. A mask is white where the picture is redrawn."""

    init_images: list[str] = []
    mask: str | None = None
    denoising_strength: float | None = None
    inpainting_mask_invert: int = 0

    def given(self) -> dict[str, Any]:
        strength = self.denoising_strength
        return super().given() | {"strength": None if strength is None else min(max(strength, 0.01), 1.0)}


async def json_body(request: Request, model: type[B]) -> B:
    """The fields of a request. Raises AppError, and ValidationError for a field that does not fit."""
    return model.model_validate(await json_object(request))


async def json_object(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises AppError."""
    raw = await request.body()
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise AppError("api_body_malformed")
    return found
