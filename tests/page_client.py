"""The page's API as a program uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gradio_client import Client

# Places of the outputs of /draw; states are not sent.
PREVIEW_GRID, STATUS, NOTES, GALLERY, DETAIL, SEED = range(6)


def draw(client: Client, prompt: str = "a red circle", count: float = 2, seed: float = 7, **more: Any) -> Any:
    settings = {"guidance": 5, "temperature": 1, "new_seed": False, "model": "tiny-a"} | more
    return client.submit(prompt=prompt, count=count, seed=seed, **settings, api_name="/draw")


def gallery_of(job: Any) -> list[Path]:
    """The pictures of the only answer that contains the gallery."""
    for answer in job.outputs():
        shown = answer[GALLERY]
        pictures = shown.get("value") if isinstance(shown, dict) else shown
        if pictures:
            return [Path(item["image"]) for item in pictures]
    raise AssertionError(f"no pictures were returned: {job.outputs()[-2:]}")


def outputs_text(job: Any) -> str:
    """All outputs of a job as one string."""
    return json.dumps(job.outputs(), ensure_ascii=False)
