"""Prompts a person did not have to write: one at random that fits the model, or a short one the model wrote out."""

from __future__ import annotations

import random
import re
from functools import lru_cache
from typing import Any

from janus_app.errors import AppError
from janus_app.registry.types import DEFAULT_LANGUAGE, Variant
from janus_app.workflows.presets import ASSETS

SMALL = 100_000_000  # parameters; below it a model speaks a few words of its picture world, not free text
LONGEST = 1_000  # characters of a written prompt; what comes after is rambling
DEEP = 50  # replacements in one pattern


@lru_cache
def _file() -> dict[str, Any]:
    import yaml

    document: dict[str, Any] = yaml.safe_load((ASSETS / "prompts.yaml").read_text(encoding="utf-8"))
    return document


def random_prompt(variant: Variant, language: str = DEFAULT_LANGUAGE, chance: random.Random | None = None) -> str:
    """A prompt in words this variant was trained on; the same again for the same state of `chance`."""
    chance = chance or random.Random()
    worlds = _file()
    world = next((world for world in worlds.values() if variant.id in world["variants"]), worlds["large"])
    lists = world.get(language) or world[DEFAULT_LANGUAGE]
    text = "{pattern}"
    for _ in range(DEEP):
        if (place := re.search(r"\{(\w+)\}", text)) is None:
            break
        text = text[: place.start()] + chance.choice(lists[place[1]]) + text[place.end() :]
    return text


def writes_prompts(variant: Variant) -> bool:
    """Whether the model may be asked to write a prompt out: it talks, and is not one of the small embedded ones."""
    return "chat" in variant.verbs and not 0 < variant.parameters < SMALL


def written_prompt(answer: str, asked: str) -> str:
    """The prompt in a model's answer: without quotes, headings and talk around it, in one line.

    Raises AppError where there is nothing in it that was not asked.
    """
    text = answer.strip()
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    if len(paragraphs) > 1 and re.fullmatch(r"[^\n]{0,80}[:：]", paragraphs[0]):
        paragraphs = paragraphs[1:]  # "Here is your prompt:"
    text = " ".join(paragraphs[0].split()) if paragraphs else ""
    text = re.sub(
        r"^(?:\*{0,2}(?:expanded |detailed )?prompt\*{0,2}|提示词)\s*[:：]\s*\**\s*", "", text, flags=re.IGNORECASE
    )
    text = text.strip("\"'“”‘’`* ")[:LONGEST].strip()
    if not text or text.casefold() == asked.strip().casefold():
        raise AppError("The model wrote nothing new. Your words stay as they are; try again, or add some yourself.")
    return text
