"""A picture's run as something to run again elsewhere: a command line, a Python script, or curl against a page."""

from __future__ import annotations

import json
import shlex
from typing import Any, Literal

from janus_app.errors import AppError
from janus_app.outputs.metadata import INTERVAL, WHOLE_WAY, ImageMetadata

Kind = Literal["cli", "python", "curl"]
KINDS: tuple[Kind, ...] = ("cli", "python", "curl")
NUMBERS = (
    "guidance",
    "image_guidance",
    "temperature",
    "strength",
    "steps",
    "solver",
)  # as requests and flags call them
PICTURE, MASK = "PICTURE.png", "MASK.png"  # a record does not hold the picture an edit began with

SCRIPT = '''\
"""Draws a picture of Janus Studio again. Run it in the app's folder."""

from pathlib import Path

from janus_app.catalog import load_catalog
from janus_app.hub import Hub
from janus_app.models.base import {kind}Request{imports}
from janus_app.records import output_path, record_of, save_png
from janus_app.studio import Studio, drain

studio = Studio(load_catalog(), Hub())
drain(studio.load({model!r}, precision={precision!r}))
request = {kind}Request(
{arguments}
)
finished = drain(studio.run(request))
for picture in finished.pictures:
    record = record_of(picture, request, studio.variant, studio.state)
    print(save_png(output_path(Path("outputs"), record), picture.image, record))
'''


def export(record: ImageMetadata, kind: Kind, url: str = "") -> str:
    """The run of `record` as text. `url` is the page's address, for curl.

    The same model, precision and kind of device give the same picture. Raises AppError for curl and an edit: the page
    has no door for those.
    """
    if kind == "cli":
        return command_line(record)
    if kind == "python":
        return python_script(record)
    if record.verb == "edit":
        raise AppError("The page takes drawings from programs, not edits. Take the command line or the Python script.")
    return curl(record, url)


def command_line(record: ImageMetadata) -> str:
    """One line for a POSIX shell, in the app's folder."""
    words = ["python", "-m", "janus_app", record.verb, f"--model={record.model}", f"--precision={record.precision}"]
    told = _told(record)
    if record.verb == "edit":
        words.append(f"--image={PICTURE}")
        words += [f"--mask={MASK}"] if _masked(record) else []
    words += [f"--{name.replace('_', '-')}={value}" for name, value in told.items()]
    interval = _interval(record)
    if interval != WHOLE_WAY:
        words += ["--guidance-interval", *(f"{end:g}" for end in interval)]
    return shlex.join(words)


def python_script(record: ImageMetadata) -> str:
    """A script for the app's own packages."""
    arguments: dict[str, Any] = dict(_told(record))
    if _interval(record) != WHOLE_WAY:
        arguments["guidance_interval"] = _interval(record)
    lines = [f"    {name}={value!r}," for name, value in arguments.items()]
    imports = ""
    if record.verb == "edit":
        imports = "\nfrom janus_app.pictures import open_mask, open_picture"
        opened = [f"    image=open_picture({PICTURE!r}),"]
        if _masked(record):
            opened.append(f"    mask=open_mask({MASK!r}, open_picture({PICTURE!r}).size),")
        else:
            imports = imports.replace("open_mask, ", "")
        lines = opened + lines
    return SCRIPT.format(
        kind="Edit" if record.verb == "edit" else "Generate",
        imports=imports,
        model=record.model,
        precision=record.precision,
        arguments="\n".join(lines),
    )


def curl(record: ImageMetadata, url: str) -> str:
    """Two curl calls against the page at `url`: one starts the drawing, the other follows it to its end.

    The page draws with the model it holds; the one named here is loaded only where none is and it needs no download.
    """
    told: dict[str, Any] = _told(record) | {"count": 1, "new_seed": False, "model": record.model}
    if _interval(record) != WHOLE_WAY:
        told |= zip(INTERVAL, _interval(record), strict=True)
    door = shlex.quote(f"{url.rstrip('/')}/gradio_api/call/v2/draw")
    body = shlex.quote(json.dumps(told, ensure_ascii=False))
    return (
        f"door={door}\n"
        f"id=$(curl -s -X POST \"$door\" -H 'Content-Type: application/json' -d {body} | cut -d '\"' -f 4)\n"
        'curl -sN "$door/$id"\n'
    )


def _told(record: ImageMetadata) -> dict[str, Any]:
    """What the request was told, by the names that flags and requests have in common."""
    told: dict[str, Any] = {"prompt": record.prompt}
    if record.negative:
        told["negative"] = record.negative
    if record.source_prompt:
        told["source_prompt"] = record.source_prompt
    told["seed"] = record.seed
    if isinstance(method := record.settings.get("method"), str):
        told["method"] = method
    told |= {name: record.settings[name] for name in NUMBERS if name in record.settings}
    return told


def _interval(record: ImageMetadata) -> tuple[float, float]:
    low, high = (record.settings.get(name, whole) for name, whole in zip(INTERVAL, WHOLE_WAY, strict=True))
    return float(low), float(high)


def _masked(record: ImageMetadata) -> bool:
    return record.settings.get("method") in ("region", "masked")
