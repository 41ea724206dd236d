"""The page as a program asks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gradio_client import Client

GALLERY = 3  # its place in what "draw" answers (states are not sent)


def draw(client: Client, prompt: str = "a red circle", count: float = 2, seed: float = 7, **more: Any) -> Any:
    settings = {"guidance": 5, "temperature": 1, "new_seed": False, "model": "tiny-a"} | more
    return client.submit(prompt=prompt, count=count, seed=seed, **settings, api_name="/draw")


def gallery_of(job: Any) -> list[Path]:
    """The pictures of the one answer that carries the gallery."""
    for answer in job.outputs():
        shown = answer[GALLERY]
        pictures = shown.get("value") if isinstance(shown, dict) else shown
        if pictures:
            return [Path(item["image"]) for item in pictures]
    raise AssertionError(f"no pictures came: {job.outputs()[-2:]}")


def everything_said(job: Any) -> str:
    return json.dumps(job.outputs(), ensure_ascii=False)
