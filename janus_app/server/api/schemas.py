"""What clients send. A field that this API does not know is ignored, as OpenAI's clients send many."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request

from janus_app.errors import AppError
from janus_app.workflows.settings import random_seed

B = TypeVar("B", bound=BaseModel)
_SIZE = re.compile(r"auto|[1-9]\d{0,4}x[1-9]\d{0,4}")


def _size(text: Any) -> Any:
    if text is not None and not (isinstance(text, str) and _SIZE.fullmatch(text)):
        raise ValueError(AppError("api_size_malformed", given=repr(text)[:100]))
    return text


def _own_names(*names: str) -> Any:
    return Field(None, validation_alias=AliasChoices(*names))


class Body(BaseModel):
    """Fields that all routes of /v1 read."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    model: str | None = None
    seed: int | None = None
    temperature: float | None = None
    stream: bool | None = None

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

    def given(self) -> dict[str, Any]:
        """The settings as `janus_app.workflows.settings` names them."""
        return {**self.model_dump(), "count": self.n, "seed": self.seed_or_random()}

    @property
    def media(self) -> str:
        return {"jpg": "jpeg"}.get(self.output_format or "png", self.output_format or "png")


async def json_body(request: Request, model: type[B]) -> B:
    """The JSON object of a request. Raises AppError, and ValidationError for a field that does not fit."""
    raw = await request.body()
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise AppError("api_body_malformed") from None
    if not isinstance(found, dict):
        raise AppError("api_body_malformed")
    return model.model_validate(found)
