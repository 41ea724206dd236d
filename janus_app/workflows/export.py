"""How to draw a picture again: as a command line, a Python script, or curl calls to a page."""

from __future__ import annotations

import json
import shlex
from typing import Any, Literal

from janus_app.errors import AppError
from janus_app.outputs.metadata import INTERVAL_ENDS, WHOLE_INTERVAL, ImageMetadata

Kind = Literal["cli", "python", "curl"]
KINDS: tuple[Kind, ...] = ("cli", "python", "curl")
SETTINGS = ("guidance", "image_guidance", "temperature", "strength", "steps", "solver")  # names of fields and options
PICTURE, MASK = "PICTURE.png", "MASK.png"  # placeholders: metadata do not contain the picture that was edited

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
    """Text that draws the picture of `record` again. `url` is the page's address, for curl.

    The same model, precision and kind of device give the same picture. Raises AppError for curl with an edit, which the
    page's API does not offer.
    """
    if kind == "cli":
        return command_line(record)
    if kind == "python":
        return python_script(record)
    if record.verb == "edit":
        raise AppError("export_edit_as_curl")
    return curl(record, url)


def command_line(record: ImageMetadata) -> str:
    """One line for a POSIX shell, in the app's folder."""
    words = ["python", "-m", "janus_app", record.verb, f"--model={record.model}", f"--precision={record.precision}"]
    fields = _fields(record)
    if record.verb == "edit":
        words.append(f"--image={PICTURE}")
        words += [f"--mask={MASK}"] if _masked(record) else []
    words += [f"--{name.replace('_', '-')}={value}" for name, value in fields.items()]
    interval = _interval(record)
    if interval != WHOLE_INTERVAL:
        words += ["--guidance-interval", *(f"{end:g}" for end in interval)]
    return shlex.join(words)


def python_script(record: ImageMetadata) -> str:
    """A script that uses the package."""
    arguments: dict[str, Any] = dict(_fields(record))
    if _interval(record) != WHOLE_INTERVAL:
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
    fields: dict[str, Any] = _fields(record) | {"count": 1, "new_seed": False, "model": record.model}
    if _interval(record) != WHOLE_INTERVAL:
        fields |= zip(INTERVAL_ENDS, _interval(record), strict=True)
    endpoint = shlex.quote(f"{url.rstrip('/')}/gradio_api/call/v2/draw")
    body = shlex.quote(json.dumps(fields, ensure_ascii=False))
    return (
        f"endpoint={endpoint}\n"
        f"id=$(curl -s -X POST \"$endpoint\" -H 'Content-Type: application/json' -d {body} | cut -d '\"' -f 4)\n"
        'curl -sN "$endpoint/$id"\n'
    )


def _fields(record: ImageMetadata) -> dict[str, Any]:
    """The fields of the request by the names that options and requests have in common."""
    fields: dict[str, Any] = {"prompt": record.prompt}
    if record.negative:
        fields["negative"] = record.negative
    if record.source_prompt:
        fields["source_prompt"] = record.source_prompt
    fields["seed"] = record.seed
    if isinstance(method := record.settings.get("method"), str):
        fields["method"] = method
    fields |= {name: record.settings[name] for name in SETTINGS if name in record.settings}
    return fields


def _interval(record: ImageMetadata) -> tuple[float, float]:
    low, high = (record.settings.get(name, whole) for name, whole in zip(INTERVAL_ENDS, WHOLE_INTERVAL, strict=True))
    return float(low), float(high)


def _masked(record: ImageMetadata) -> bool:
    return record.settings.get("method") in ("region", "masked")
