"""What a browser sends when somebody uses the page: events of its components, which programs do not see."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from gradio_client import Client

# Where a picture of a run is.
FULL = re.compile(r'class="tile" data-picture="\d+" data-full="[^"]*/gradio_api/file=([^"]*)"')


def act(client: Client, trigger: str, event: str = "click", **values: Any) -> Any:
    """Start what an event of the component with this element id starts, best a job; returns it.

    `values` are those of components, by element id with "_" for "-"; the others have their first values.
    """
    parts = {part["id"]: part for part in client.config["components"]}
    named = {part["props"].get("elem_id"): number for number, part in parts.items()}
    endpoint = max(
        (e for e in client.endpoints.values() if [named[trigger], event] in map(list, e.dependency["targets"])),
        key=lambda e: e.dependency["types"]["generator"],
    )
    endpoint.is_valid = True  # the client refuses events that are private to the page
    inputs = [parts[number] for number in endpoint.dependency["inputs"] if parts[number]["type"] != "state"]
    known = [(part["props"].get("elem_id") or "").replace("-", "_") for part in inputs]
    assert set(values) <= set(known), known
    given = [values.get(name, part["props"].get("value")) for name, part in zip(known, inputs, strict=True)]
    return client.submit(*given, fn_index=endpoint.fn_index)


def draw(client: Client, prompt: str = "a red circle", count: float = 2, seed: float = 7, **more: Any) -> Any:
    """Draw on the draw tab; `more` are settings of it."""
    settings = {"prompt": prompt, "count": count, "seed": seed, "guidance": 5, "temperature": 1, "fresh": False} | more
    drawn = {f"draw_{name}": value for name, value in settings.items()}
    return act(client, "draw-run", model_variant="tiny-a", **drawn)


def ask(client: Client, text: str, files: list[Any] | None = None) -> Any:
    """Send a message on the chat tab, to be answered briefly."""
    box = {"text": text, "files": files or []}
    return act(client, "chat-box", "submit", chat_box=box, chat_temperature=0, chat_length=24, model_variant="tiny-a")


def gallery_of(job: Any) -> list[Path]:
    """The pictures of the only answer that contains the runs."""
    for answer in job.outputs():
        texts = [value.get("value") if isinstance(value, dict) else value for value in answer]
        found = [FULL.findall(text) for text in texts if isinstance(text, str)]
        if pictures := max(found, key=len, default=[]):
            return [Path(unquote(html.unescape(picture))) for picture in pictures]
    raise AssertionError(f"no pictures were returned: {job.outputs()[-2:]}")


def outputs_text(job: Any) -> str:
    """All outputs of a job as one string."""
    return json.dumps(job.outputs(), ensure_ascii=False)
