"""What helps to fill in the draw tab: presets and styles (assets/presets.yaml), prompts (assets/prompts.yaml).

A preset is settings under a name; a style is words around a prompt.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from janus_app.errors import AppError
from janus_app.paths import ASSETS
from janus_app.registry.types import DEFAULT_LANGUAGE, Variant

NAMES = ("fast", "balanced", "careful")
KNOBS = ("count", "guidance", "temperature", "steps", "guidance_start", "guidance_end")
SMALL = 100_000_000  # parameters; a smaller model knows only the words of its picture world and writes no free text
LONGEST = 1_000  # characters of a written prompt; a model that writes more is rambling
MAX_SUBSTITUTIONS = 50  # in one random prompt
Value = str | float


@lru_cache
def _asset(name: str) -> dict[str, Any]:
    import yaml

    document: dict[str, Any] = yaml.safe_load((ASSETS / name).read_text(encoding="utf-8"))
    return document


def built_in(variant: Variant) -> dict[str, dict[str, Value]]:
    """The presets of a variant by name, each with a value for every drawing setting the variant has.

    A preset that changes nothing is left out: a model that always draws without guidance cannot be faster without it.
    """
    known = _asset("presets.yaml")["presets"]
    own = known["families"].get(variant.family, {}) | known["variants"].get(variant.id, {})
    found = {name: complete(variant, own[name]) for name in NAMES if name in own}
    usual = complete(variant, {})
    return {name: values for name, values in found.items() if values != usual or name == "balanced"}


def complete(variant: Variant, chosen: Mapping[str, Any]) -> dict[str, Value]:
    """The settings of `chosen` that the variant has, clamped to its ranges; its defaults for the others."""
    values: dict[str, Value] = {}
    for name in KNOBS:
        if (setting := variant.settings.get(name)) is None:
            continue
        value = chosen.get(name, setting.default)
        value = value if isinstance(value, (int, float)) and not isinstance(value, bool) else setting.default
        values[name] = min(max(float(value), setting.low), setting.high)
    if variant.solvers:
        solver = chosen.get("solver")
        values["solver"] = solver if solver in variant.solvers else variant.solvers[0]
    return values


def styles(language: str) -> dict[str, str]:
    """Style ids and their names in `language`."""
    return {name: _words(words, language)[0] for name, words in _asset("presets.yaml")["styles"].items()}


def styled(prompt: str, style: str, language: str) -> str:
    """The prompt in the style, without the words of any other; the style "" only removes such words."""
    bare = prompt.strip()
    for words in _asset("presets.yaml")["styles"].values():
        for _, pattern in words.values():
            before, _, after = pattern.partition("{prompt}")
            if bare.startswith(before) and bare.endswith(after) and len(bare) > len(before) + len(after):
                bare = bare[len(before) : len(bare) - len(after)].strip()
    if not bare or style not in _asset("presets.yaml")["styles"]:
        return bare
    return _words(_asset("presets.yaml")["styles"][style], language)[1].replace("{prompt}", bare)


def _words(words: Mapping[str, list[str]], language: str) -> list[str]:
    return words.get(language) or words[DEFAULT_LANGUAGE]


def random_prompt(variant: Variant, language: str = DEFAULT_LANGUAGE, chance: random.Random | None = None) -> str:
    """A prompt in words the variant was trained on; equal states of `chance` give equal prompts."""
    chance = chance or random.Random()
    worlds = _asset("prompts.yaml")
    world = next((world for world in worlds.values() if variant.id in world["variants"]), worlds["large"])
    lists = world.get(language) or world[DEFAULT_LANGUAGE]
    text = "{pattern}"
    for _ in range(MAX_SUBSTITUTIONS):
        if (place := re.search(r"\{(\w+)\}", text)) is None:
            break
        text = text[: place.start()] + chance.choice(lists[place[1]]) + text[place.end() :]
    return text


def writes_prompts(variant: Variant) -> bool:
    """Whether the model can write a detailed prompt: it chats and is not one of the small embedded ones."""
    return "chat" in variant.verbs and not 0 < variant.parameters < SMALL


def written_prompt(answer: str, prompt: str) -> str:
    """The prompt in a model's answer, in one line, without the quotes, headings and remarks around it.

    Raises AppError where the answer adds nothing to what was asked.
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
    if not text or text.casefold() == prompt.strip().casefold():
        raise AppError("written_prompt_empty")
    return text
