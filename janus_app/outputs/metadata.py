"""The metadata in a drawn picture: how it was made, and all it takes to draw it again.

A PNG holds it in a text chunk, a JPEG or WebP in XMP.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from html import escape, unescape
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from janus_app.errors import AppError, Message
from janus_app.outputs.image_io import MAX_BYTES, Source, open_bytes, read_bounded
from janus_app.types import (
    EDIT_SETTINGS,
    MAX_SEED,
    ChatRequest,
    EditRequest,
    GenerateRequest,
    Picture,
    Precision,
    Provenance,
)
from janus_app.version import __version__

KEY = "janus_app"  # keyword of the text chunk, and the namespace in XMP
# The kinds of picture that this app writes, by the end of the name. Only PNG and WebP keep every pixel.
PICTURE_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
SCHEMA = 1
MAX_CHARACTERS = 500_000
MAX_PROMPT_CHARACTERS = 100_000
MAX_TOKENS = 65_536
MAX_VALUE = 200  # characters of a setting
MAX_TOKEN_ID = 2**20 - 1
WHOLE_INTERVAL = (0.0, 1.0)
INTERVAL_ENDS = (
    "guidance_start",
    "guidance_end",
)  # in `settings`, unless the interval is whole

Value = str | int | float | bool


@dataclass(frozen=True)
class ImageMetadata:
    """How a picture was made.

    model           id of the variant
    revision        commit of the weights on the Hub, "" where not known
    device          type without an index, as "cuda"
    seed            draws this picture alone
    size            (width, height) in pixels
    created         ISO time with its zone
    settings        those that were used for the picture (guidance, temperature, method ..., adapters)
    versions        package -> version
    image_tokens    empty for families that draw without tokens
    source_prompt   the description that FlowEdit started from
    plan            what it was drawn from beside the prompt
    judgement       what the model said of its first attempt
    """

    app: str
    model: str
    title: str
    repo: str
    revision: str
    family: str
    precision: str
    device: str
    verb: str
    prompt: str
    negative: str
    seed: int
    size: tuple[int, int]
    created: str
    settings: Mapping[str, Value] = field(default_factory=dict, hash=False)
    versions: Mapping[str, str] = field(default_factory=dict, hash=False)
    image_tokens: tuple[int, ...] = ()
    source_prompt: str = ""
    plan: str = ""
    judgement: str = ""


def metadata_of(picture: Picture, provenance: Provenance) -> ImageMetadata:
    """The metadata of a picture that a job drew. One in an answer has the question as its prompt."""
    request = provenance.request
    assert isinstance(request, GenerateRequest | EditRequest | ChatRequest)
    asked = request.turns[-1].text if isinstance(request, ChatRequest) else request.prompt
    return ImageMetadata(
        app=__version__,
        model=provenance.variant_id,
        title=provenance.title,
        repo=provenance.repo,
        revision=provenance.revision,
        family=provenance.family,
        precision=provenance.precision,
        device=provenance.device,
        verb="edit" if isinstance(request, EditRequest) else "generate",
        prompt=asked,
        negative="" if isinstance(request, ChatRequest) else request.negative,
        seed=picture.seed,
        size=picture.image.size,
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        settings=_settings(picture, request, provenance.settings) | _painted(picture) | _adapters(provenance),
        versions=provenance.versions,
        image_tokens=picture.image_tokens,
        source_prompt=picture.source_prompt,
        plan=picture.plan,
        judgement=picture.judgement,
    )


def _painted(picture: Picture) -> dict[str, Value]:
    """The hash of the vectors that a picture was painted from; the same one says that only the painting differs."""
    return {} if picture.vectors is None else {"vectors": picture.vectors.sha256}


def _settings(
    picture: Picture, request: GenerateRequest | EditRequest | ChatRequest, available: frozenset[str]
) -> dict[str, Value]:
    """The settings that had a part in the picture, and no others: a reader must not think that the rest mattered."""
    settings: dict[str, Value] = {}
    if isinstance(request, ChatRequest):
        return {"in_chat": True, **picture.painted_with}
    if isinstance(request, EditRequest):
        settings["method"] = request.method
        used = EDIT_SETTINGS.get(request.method, frozenset())
    else:
        used = frozenset({"temperature"} if picture.image_tokens else {"steps", "solver", "guidance_interval"})
    # A method reads the same settings with every model, but not every model has all of them.
    absent = {"temperature", "steps", "solver"} - available
    settings["guidance"] = request.guidance
    if isinstance(request, GenerateRequest) and request.keep is not None:
        settings["kept"] = request.keep  # so many of `image_tokens` were given, not drawn from the seed
    for name in ("image_guidance", "temperature", "strength", "steps", "solver"):
        if name in used and name not in absent:
            settings[name] = getattr(request, name)
    if isinstance(request, GenerateRequest) and {"width", "height"} <= available:
        settings |= zip(("width", "height"), picture.image.size, strict=True)
    if request.turbo and picture.image_tokens:
        settings["turbo"] = True
    if isinstance(request, GenerateRequest) and request.think:
        settings["think"] = True
    if "guidance_interval" in used and request.guidance_interval != WHOLE_INTERVAL:
        settings |= dict(zip(INTERVAL_ENDS, request.guidance_interval, strict=True))
    return settings


def _adapters(provenance: Provenance) -> dict[str, Value]:
    """The adapters in the weights, as a setting of its own where there are some."""
    text = ", ".join(provenance.adapters)
    return {"adapters": text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"} if text else {}


def record_of(metadata: ImageMetadata) -> dict[str, Any]:
    """The JSON object that files and programs get, which `read_metadata` reads."""
    return {"schema": SCHEMA} | asdict(metadata)


def as_xmp(metadata: ImageMetadata) -> bytes:
    """The same object as an XMP packet, for kinds of picture without text chunks."""
    record = escape(json.dumps(record_of(metadata)), quote=False)
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:{KEY}="urn:{KEY}"><{KEY}:record>{record}</{KEY}:record>'
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode("ascii")


def _from_xmp(packet: object) -> str | None:
    """The text of our record in an XMP packet. It is cut out, because an XML parser is too powerful for any file."""
    text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else ""
    _, begin, rest = text.partition(f"<{KEY}:record>")
    record, end, _ = rest.partition(f"</{KEY}:record>")
    return unescape(record) if begin and end else None


def drawn_size(metadata: ImageMetadata) -> tuple[int, int] | None:
    """(width, height) that was asked for, None where the model draws in one size. An upscaled copy is larger."""
    width, height = (metadata.settings.get(side) for side in ("width", "height"))
    return (int(width), int(height)) if isinstance(width, int) and isinstance(height, int) else None


def request_of(metadata: ImageMetadata) -> GenerateRequest:
    """The request that draws the picture again, from its image tokens where it has some.

    Raises AppError for settings out of range.
    """
    settings = metadata.settings
    known = {name: settings[name] for name in ("guidance", "temperature", "steps", "solver") if name in settings}
    low, high = (settings.get(name, whole) for name, whole in zip(INTERVAL_ENDS, WHOLE_INTERVAL, strict=True))
    return GenerateRequest(
        metadata.prompt,
        metadata.negative,
        seed=metadata.seed,
        image_tokens=metadata.image_tokens,
        turbo=settings.get("turbo") is True,
        think=settings.get("think") is True,
        plan=metadata.plan,
        size=drawn_size(metadata),
        guidance_interval=(low, high),  # type: ignore[arg-type]  # the request checks all of these
        **known,  # type: ignore[arg-type]
    )


def parameters(metadata: ImageMetadata) -> str:
    """The metadata as the text that many image programs show: prompt, negative prompt, then settings."""
    lines = [metadata.prompt]
    if metadata.negative:
        lines.append(f"Negative prompt: {metadata.negative}")
    if metadata.source_prompt:
        lines.append(f"Source prompt: {metadata.source_prompt}")
    lines += [f"{name}: {text}" for name, text in (("Plan", metadata.plan), ("Judgement", metadata.judgement)) if text]
    names = {"guidance": "CFG scale"}
    facts: dict[str, Value] = {
        "Seed": metadata.seed,
        "Size": f"{metadata.size[0]}x{metadata.size[1]}",
        "Model": metadata.title,
    }
    facts |= {names.get(k, k.replace("_", " ").capitalize()): v for k, v in metadata.settings.items()}
    facts |= {"Precision": metadata.precision, "Version": f"janus_app {metadata.app}"}
    lines.append(", ".join(f"{name}: {str(value).replace(',', ' ')}" for name, value in facts.items()))
    text = "".join(c if c.isprintable() or c == "\n" else " " for c in "\n".join(lines))
    return text.encode("utf-8", "replace").decode()


def read_metadata(source: Source) -> ImageMetadata:
    """The metadata in a picture at a path, in bytes or open. All of it is checked: the file may come from anybody.

    Raises AppError where the file is no picture, carries no metadata of this app, or some that is malformed.
    """
    picture = source
    if isinstance(picture, (str, Path)):
        picture = read_bounded(picture, MAX_BYTES)
    if isinstance(picture, bytes):
        picture = open_bytes(picture)
    text = picture.info.get(KEY) or _from_xmp(picture.info.get("xmp"))
    if not isinstance(text, str):
        raise AppError("record_missing")
    if len(text) > MAX_CHARACTERS:
        raise AppError("record_unusable", reason=Message("record_too_long"))
    try:
        fields = dict(_Record.model_validate(json.loads(text)))
    except ValidationError as error:
        raise AppError("record_unusable", reason=_reason(error)) from None
    except (ValueError, RecursionError):
        raise AppError("record_unusable", reason=Message("record_malformed")) from None
    del fields["version"]
    return ImageMetadata(**fields)


def _reason(error: ValidationError) -> Message:
    """What is wrong with the first field that does not fit."""
    problem = error.errors(include_url=False)[0]
    field = str(problem["loc"][0]) if problem["loc"] else ""
    if field == "schema":
        return Message("record_of_other_version")
    code = {
        "string_too_long": "record_text_too_long",
        "too_long": "record_text_too_long",
        "greater_than_equal": "record_number_out_of_range",
        "less_than_equal": "record_number_out_of_range",
        "literal_error": "record_value_unknown",
    }.get(problem["type"], "record_field_malformed")
    return Message(code, field=field) if field else Message("record_malformed")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("control characters")
    return text


def _typed(text: str) -> str:
    """What a person typed may hold any characters: a program that prints it on a terminal cleans it first."""
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise PydanticCustomError("string_too_long", "too long")
    return text


def _iso_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


def _bounded(value: Value) -> Value:
    if isinstance(value, str):
        if len(value) > MAX_VALUE:
            raise PydanticCustomError("string_too_long", "too long")
        return _printable(value)
    if not (math.isfinite(value) and abs(value) <= 2**40):
        raise PydanticCustomError("less_than_equal", "out of range")
    return value


Typed = Annotated[str, AfterValidator(_typed)]
Short = Annotated[str, Field(max_length=40), AfterValidator(_printable)]
Line = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
Name = Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9_-]{0,39}$")]
Token = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
Side = Annotated[int, Field(ge=1, le=2**16)]


class _Record(BaseModel):
    """The keys of the JSON object in a PNG, in its schema 1. Keys that later versions may add are ignored."""

    model_config = ConfigDict(strict=True)

    version: Literal[1] = Field(alias="schema")
    app: Short
    model: Annotated[str, Field(max_length=100, pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # never a path
    title: Annotated[
        str, AfterValidator(lambda text: "".join(c for c in text if c.isprintable())), Field(max_length=200)
    ]
    repo: Line
    revision: Line
    family: Short
    precision: Precision
    device: Short
    verb: Literal["generate", "edit"]
    prompt: Typed
    negative: Typed
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    size: Annotated[list[Side], Field(min_length=2, max_length=2), AfterValidator(tuple)]
    created: Annotated[str, Field(max_length=40), AfterValidator(_iso_time)]
    settings: Annotated[dict[Name, Annotated[Value, AfterValidator(_bounded)]], Field(max_length=40)]
    versions: Annotated[dict[Name, Line], Field(max_length=40)]
    image_tokens: Annotated[list[Token], Field(max_length=MAX_TOKENS), AfterValidator(tuple)]
    source_prompt: Typed = ""  # these are not in the first version's files
    plan: Typed = ""
    judgement: Typed = ""
