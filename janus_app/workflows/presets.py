"""Presets and styles that come with the app (assets/presets.yaml): settings under a name, words around a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from janus_app.paths import ASSETS
from janus_app.registry.types import DEFAULT_LANGUAGE, Variant

NAMES = ("fast", "balanced", "careful")
KNOBS = ("count", "guidance", "temperature", "steps", "guidance_start", "guidance_end")
Value = str | float


@lru_cache
def _file() -> dict[str, Any]:
    import yaml

    document: dict[str, Any] = yaml.safe_load((ASSETS / "presets.yaml").read_text(encoding="utf-8"))
    return document


def built_in(variant: Variant) -> dict[str, dict[str, Value]]:
    """The presets of a variant by name, each with a value for every drawing setting the variant has.

    One that would change nothing is left out: a model that draws without guidance anyway has no faster way.
    """
    known = _file()["presets"]
    own = known["families"].get(variant.family, {}) | known["variants"].get(variant.id, {})
    found = {name: complete(variant, own[name]) for name in NAMES if name in own}
    usual = complete(variant, {})
    return {name: values for name, values in found.items() if values != usual or name == "balanced"}


def complete(variant: Variant, chosen: Mapping[str, Any]) -> dict[str, Value]:
    """`chosen` as the variant can take it: into its ranges, its own first values for the rest, nothing it has not."""
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
    """Id and name of every style."""
    return {name: _words(words, language)[0] for name, words in _file()["styles"].items()}


def styled(prompt: str, style: str, language: str) -> str:
    """The prompt in a style; another style's words around it are taken away first, "" only takes them away."""
    bare = prompt.strip()
    for words in _file()["styles"].values():
        for spoken in words.values():
            before, _, after = spoken[1].partition("{prompt}")
            if bare.startswith(before) and bare.endswith(after) and len(bare) > len(before) + len(after):
                bare = bare[len(before) : len(bare) - len(after)].strip()
    if not bare or style not in _file()["styles"]:
        return bare
    return _words(_file()["styles"][style], language)[1].replace("{prompt}", bare)


def _words(words: Mapping[str, list[str]], language: str) -> list[str]:
    return words.get(language) or words[DEFAULT_LANGUAGE]
