"""The record a drawn PNG carries in its text chunk: how it was made, and all it takes to draw it again."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
from janus_app.outputs.image_io import MAX_BYTES, Source, open_bytes, read_bounded
from janus_app.types import EDIT_SETTINGS, MAX_SEED, PRECISIONS, EditRequest, GenerateRequest, Picture, Provenance
from janus_app.version import __version__

KEY = "janus_app"  # the chunk's keyword
SCHEMA = 1
MAX_CHARACTERS = 500_000
MAX_TOKENS = 65_536
MAX_TOKEN_ID = 2**20 - 1
WHOLE_WAY = (0.0, 1.0)
INTERVAL = ("guidance_start", "guidance_end")  # its names in a record, which writes it where it is not the whole way

Value = str | int | float | bool


@dataclass(frozen=True)
class ImageMetadata:
    """How a picture was made. `settings` are the knobs that had a part in it (guidance, temperature, method ...).

    `model` is a catalog id, `revision` empty where it is not known, `device` a type without an index ("cuda"),
    `size` (width, height) in pixels, `seed` the one that draws this picture alone, `versions` maps package to
    version, `image_tokens` is empty for families without tokens, `created` an ISO time with its zone, `source_prompt`
    the description FlowEdit started from.
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


def metadata_of(picture: Picture, provenance: Provenance) -> ImageMetadata:
    """The metadata of a picture that a generate or edit job drew."""
    request = provenance.request
    assert isinstance(request, GenerateRequest | EditRequest)
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
        prompt=request.prompt,
        negative=request.negative,
        seed=picture.seed,
        size=picture.image.size,
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        settings=_settings(picture, request, provenance.settings),
        versions=provenance.versions,
        image_tokens=picture.image_tokens,
        source_prompt=picture.source_prompt,
    )


def _settings(picture: Picture, request: GenerateRequest | EditRequest, available: frozenset[str]) -> dict[str, Value]:
    """The settings that had a part in the picture, and no others: a reader must not think that the rest mattered."""
    settings: dict[str, Value] = {}
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
    if request.turbo and picture.image_tokens:
        settings["turbo"] = True
    if "guidance_interval" in used and request.guidance_interval != WHOLE_WAY:
        settings |= dict(zip(INTERVAL, request.guidance_interval, strict=True))
    return settings


def request_of(record: ImageMetadata) -> GenerateRequest:
    """The request that draws the picture of `record` again, from its tokens where it has them.

    Raises AppError for settings out of range.
    """
    settings = record.settings
    known = {name: settings[name] for name in ("guidance", "temperature", "steps", "solver") if name in settings}
    low, high = (settings.get(name, whole) for name, whole in zip(INTERVAL, WHOLE_WAY, strict=True))
    return GenerateRequest(
        record.prompt,
        record.negative,
        seed=record.seed,
        image_tokens=record.image_tokens,
        turbo=settings.get("turbo") is True,
        guidance_interval=(low, high),  # type: ignore[arg-type]  # the request checks all of these
        **known,  # type: ignore[arg-type]
    )


def parameters(record: ImageMetadata) -> str:
    """The record as the plain text many picture programs show: prompt, negative prompt, then settings."""
    lines = [record.prompt]
    if record.negative:
        lines.append(f"Negative prompt: {record.negative}")
    if record.source_prompt:
        lines.append(f"Source prompt: {record.source_prompt}")
    names = {"guidance": "CFG scale"}
    facts: dict[str, Value] = {"Seed": record.seed, "Size": f"{record.size[0]}x{record.size[1]}", "Model": record.title}
    facts |= {names.get(k, k.replace("_", " ").capitalize()): v for k, v in record.settings.items()}
    facts |= {"Precision": record.precision, "Version": f"janus_app {record.app}"}
    lines.append(", ".join(f"{name}: {str(value).replace(',', ' ')}" for name, value in facts.items()))
    text = "".join(c if c.isprintable() or c == "\n" else " " for c in "\n".join(lines))
    return text.encode("utf-8", "replace").decode()


def read_metadata(source: Source) -> ImageMetadata:
    """The record of a PNG at a path, in bytes or open. All of it is checked: the file may be anybody's.

    Raises AppError where the file is no picture, carries no record of this app, or one that is malformed.
    """
    picture = source
    if isinstance(picture, (str, Path)):
        picture = read_bounded(picture, MAX_BYTES)
    if isinstance(picture, bytes):
        picture = open_bytes(picture)
    text = picture.info.get(KEY)
    if not isinstance(text, str):
        raise AppError(
            "The picture carries no record of this app, so its settings are not known. Give a PNG this app "
            "drew, not a copy that was edited, converted or sent through a messenger."
        )
    try:
        if len(text) > MAX_CHARACTERS:
            raise _UnfitError("it is too long")
        return _checked(json.loads(text, parse_constant=_no_constant))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = str(error) if isinstance(error, _UnfitError) else "it is malformed"
        raise AppError(f"The record in the picture cannot be used: {reason}. Type the settings yourself.") from None


class _UnfitError(ValueError):
    """What is wrong with a record, in words for its reader."""


def _no_constant(name: str) -> None:
    raise _UnfitError("a number in it is not finite")


def _checked(data: Any) -> ImageMetadata:
    if not isinstance(data, dict):
        raise _UnfitError("it is malformed")
    if data.get("schema") != SCHEMA:
        raise _UnfitError("it was written by another version of this app")
    verb, precision = _text(data, "verb", 20), _text(data, "precision", 10)
    if verb not in ("generate", "edit") or precision not in PRECISIONS:
        raise _UnfitError("its verb or precision is not one this app knows")
    model = _text(data, "model", 100)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", model):  # never a path
        raise _UnfitError("its model is not a model's id")
    created = _text(data, "created", 40)
    datetime.fromisoformat(created)
    size = _numbers(data, "size", 2, 1, 2**16)
    if len(size) != 2:
        raise _UnfitError("its size is malformed")
    return ImageMetadata(
        app=_text(data, "app", 40),
        model=model,
        title="".join(c for c in _text(data, "title", 200, free=True) if c.isprintable()),
        repo=_text(data, "repo", 200),
        revision=_text(data, "revision", 200),
        family=_text(data, "family", 40),
        precision=precision,
        device=_text(data, "device", 20),
        verb=verb,
        prompt=_text(data, "prompt", 100_000, free=True),
        negative=_text(data, "negative", 100_000, free=True),
        seed=_whole("seed", data["seed"], 0, MAX_SEED),
        size=(size[0], size[1]),
        created=created,
        settings=_mapping(data, "settings", (str, int, float, bool)),
        versions=_mapping(data, "versions", (str,)),
        image_tokens=_numbers(data, "image_tokens", MAX_TOKENS, 0, MAX_TOKEN_ID),
        source_prompt=_text({"source_prompt": "", **data}, "source_prompt", 100_000, free=True),  # later than the rest
    )


def _text(data: dict[str, Any], name: str, limit: int, free: bool = False) -> str:
    """`free` text is what a person typed, of any characters: who prints it on a terminal cleans it first."""
    value = data[name]
    if not isinstance(value, str) or len(value) > limit:
        raise _UnfitError(f"its {name} is not a text of at most {limit:,} characters")
    if not free and not value.isprintable():
        raise _UnfitError(f"its {name} holds control characters")
    return value


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise _UnfitError(f"its {name} holds a number that is not from {low} to {high}")
    return value


def _numbers(data: dict[str, Any], name: str, most: int, low: int, high: int) -> tuple[int, ...]:
    values = data[name]
    if not isinstance(values, list) or len(values) > most:
        raise _UnfitError(f"its {name} is malformed")
    # A record has hundreds of tokens and a history thousands of records: no call for each number.
    if set(map(type, values)) - {int} or (values and not low <= min(values) <= max(values) <= high):
        raise _UnfitError(f"its {name} holds a number that is not from {low} to {high}")
    return tuple(values)


def _mapping(data: dict[str, Any], name: str, kinds: Any) -> dict[str, Any]:
    values = data[name]
    if not isinstance(values, dict) or len(values) > 40:
        raise _UnfitError(f"its {name} are malformed")
    for key in values:
        value: Any = values[key]
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,39}", key) or not isinstance(value, kinds):
            raise _UnfitError(f"its {name} are malformed")
        if isinstance(value, str):
            _text(values, key, 200)
        elif not (math.isfinite(value) and abs(value) <= 2**40):
            raise _UnfitError(f"its {name} hold an absurd number")
    return values
