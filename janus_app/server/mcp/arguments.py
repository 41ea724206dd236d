"""What the tools are given: fields of /v1, with a description of each for the model that calls a tool."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from janus_app.server.api.schemas import Body, EditBody
from janus_app.types import DESCRIBE, EDIT_SETTINGS, MAX_COUNT, SOLVERS

_PICTURE = "as a data URI or in base64; paths and file names are not opened"
DESCRIPTIONS = {
    "prompt": "What the picture shows, after an edit too; for the method instruct, what to change. Most models know "
    "English best.",
    "negative_prompt": "What to steer away from.",
    "n": f"How many pictures, 1 to {MAX_COUNT}. Picture i is drawn with seed + i.",
    "seed": "A whole number from 0; the same seed draws the same picture again. Left out: a random one.",
    "guidance": "How closely to follow the prompt, 1 to 20. Left out: the model's usual value.",
    "guidance_interval": "The part of the drawing in which guidance acts, [start, end], each 0 to 1; for models that "
    "draw in steps. Left out: the model's usual one.",
    "temperature": "0 to 2; 0 always takes the most likely token. Left out: the model's usual value.",
    "steps": "For models that draw in steps, 1 to 250. Left out: the model's usual number.",
    "solver": f"For models that draw in steps, one of {', '.join(SOLVERS)}. Left out: the model's usual one.",
    "turbo": "true: the same picture in fewer, larger passes, for models that draw in rows.",
    "size": "Width and height such as 1024x768, for the models that draw in several sizes.",
    "thinking": "Whether a model that was taught to does plan or judge its picture in words. Left out: it does.",
    "plan": "A plan to draw from beside the prompt, for models that were taught to plan; none is written then.",
    "model": "A name from the tool models. Left out: the loaded model.",
    "adapters": "LoRA adapters to merge into the model, by names from the tool models, with a strength as in name=0.8; "
    "an empty list: none. Left out: those of the loaded model.",
    "image": f"The picture, {_PICTURE}.",
    "more_images": f"Further pictures for models that combine several, {_PICTURE}.",
    "mask": "What to redraw: a picture of the same size, transparent there or, without transparency, white; "
    f"{_PICTURE}.",
    "method": f"One of {', '.join(EDIT_SETTINGS)}; the tool models lists those of the loaded model. Left out: the "
    "first of them that fits.",
    "strength": "How much may change, 0.01 to 1, for the methods variation, image to image and flowedit.",
    "image_guidance": "How closely to follow the given picture, 1 to 20, for the methods instruct and flowedit.",
    "source_prompt": "What the given picture shows, for the method flowedit.",
    "max_tokens": "How long the answer may be. Left out: the model's usual limit.",
    "question": "What to ask about the picture.",
    "images": f"Pictures, each {_PICTURE}.",
}


class EditCall(EditBody):
    """`edit`: the fields of images/edits as JSON, with pictures under names of their own."""

    image: str
    more_images: list[str] | None = None
    mask: str | None = None


class DescribeCall(Body):
    """`describe`."""

    image: str
    question: str = DESCRIBE
    max_tokens: Annotated[int | None, Field(ge=1)] = None


class RankCall(Body):
    """`rank`."""

    prompt: str
    images: list[str]


class ModelsCall(BaseModel):
    """`models`: nothing."""


def schema_of(body: type[BaseModel], fields: tuple[str, ...]) -> dict[str, Any]:
    """The JSON schema of a tool that takes these fields of `body`."""
    whole = body.model_json_schema()
    properties = {name: _described(name, whole["properties"][name]) for name in fields}
    required = [name for name in fields if name in whole.get("required", ())]
    return {"type": "object", "properties": properties, "required": required}


def _described(name: str, field: dict[str, Any]) -> dict[str, Any]:
    """A field without null, which a caller says by leaving it out, and with its description."""
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    plain = {key: value for key, value in field.items() if key not in ("anyOf", "title") and value is not None}
    found = {**plain, **(kinds[0] if kinds else {}), "description": DESCRIPTIONS[name]}
    if pair := found.pop("prefixItems", None):  # hosts know arrays of one kind better
        found["items"] = pair[0]
    return found
