"""How to draw a picture again: as a command line, a Python script, or curl calls to a page."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any, Literal

from janus_app.errors import AppError
from janus_app.outputs.metadata import INTERVAL_ENDS, WHOLE_INTERVAL, ImageMetadata, drawn_size
from janus_app.types import EDIT_SETTINGS

Kind = Literal["cli", "python", "curl"]
KINDS: tuple[Kind, ...] = ("cli", "python", "curl")
SETTINGS = ("guidance", "image_guidance", "temperature", "strength", "steps", "solver")  # names of fields and options
ADAPTER = r"(?<![^ ])[\w.-]+=-?[\d.]+(?![^,])"  # a name, never a path: the record may come from anybody
PICTURE, MASK = "PICTURE.png", "MASK.png"  # placeholders: metadata do not contain the picture that was edited

SCRIPT = '''\
"""Draws a picture again. Run this script in the app's folder."""

import janus_app

session = janus_app.session({model!r}, precision={precision!r})
request = janus_app.{kind}Request(
{arguments}
)
for saved in janus_app.OutputStore("outputs").save(session.result(request)):
    print(saved.file)
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
    if "size" in fields:
        fields["size"] = "{}x{}".format(*fields["size"])
    for name, value in fields.items():
        words.append(f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}"))
    words += [f"--adapter={name}" for name in re.findall(ADAPTER, str(record.settings.get("adapters", "")))]
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
    if record.verb == "edit":
        opened = [f"    image=janus_app.open_picture({PICTURE!r}),"]
        if _masked(record):
            opened.append(f"    mask=janus_app.open_mask({MASK!r}, janus_app.open_picture({PICTURE!r}).size),")
        lines = opened + lines
    return SCRIPT.format(
        kind="Edit" if record.verb == "edit" else "Generate",
        model=record.model,
        precision=record.precision,
        arguments="\n".join(lines),
    )


def curl(record: ImageMetadata, url: str) -> str:
    """Two curl calls against the page at `url`: one starts the drawing, the other follows it to its end.

    The page draws with its loaded model; the one named here is loaded only if none is and nothing has to be downloaded.
    """
    fields: dict[str, Any] = _fields(record)
    if "size" in fields:
        fields["width"], fields["height"] = fields.pop("size")
    fields |= {"count": 1, "new_seed": False, "model": record.model}
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
    if record.plan:
        fields["plan"] = record.plan
    elif record.settings.get("think") is True:
        fields["think"] = True
    fields["seed"] = record.seed
    if isinstance(method := record.settings.get("method"), str):
        fields["method"] = method
    fields |= {name: record.settings[name] for name in SETTINGS if name in record.settings}
    if (size := drawn_size(record)) is not None:
        fields["size"] = size
    return fields


def _interval(record: ImageMetadata) -> tuple[float, float]:
    low, high = (record.settings.get(name, whole) for name, whole in zip(INTERVAL_ENDS, WHOLE_INTERVAL, strict=True))
    return float(low), float(high)


def _masked(record: ImageMetadata) -> bool:
    return "mask" in EDIT_SETTINGS.get(str(record.settings.get("method")), ())
