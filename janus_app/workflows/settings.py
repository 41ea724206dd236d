"""Settings that somebody gave, by name, and the variant's own where none was given: one table for every entrance."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from janus_app.errors import AppError
from janus_app.outputs.metadata import INTERVAL_ENDS, WHOLE_INTERVAL
from janus_app.registry.types import Variant
from janus_app.types import EDIT_SETTINGS, MAX_SEED, SOLVERS


def setting(given: Mapping[str, Any], variant: Variant, option: str, fallback: Any, name: str = "") -> Any:
    """The given value, else the variant's default for the setting `name`, else `fallback`.

    `name` is left out where the setting is called like the option.
    """
    if given.get(option) is not None:
        return given[option]
    row = variant.settings.get(name or option)
    return type(fallback)(row.default) if row is not None else fallback


def drawing_settings(given: Mapping[str, Any], variant: Variant) -> dict[str, Any]:
    """The fields that GenerateRequest and EditRequest have in common, but for the prompt."""
    interval = given.get("guidance_interval")
    if interval is None:
        rows = (variant.settings.get(name) for name in INTERVAL_ENDS)
        interval = tuple(row.default if row else end for row, end in zip(rows, WHOLE_INTERVAL, strict=True))
    return {
        "negative": given.get("negative") or "",
        "count": 1 if given.get("count") is None else given["count"],
        "guidance": setting(given, variant, "guidance", 5.0),
        "temperature": setting(given, variant, "temperature", 1.0),
        "seed": given.get("seed") or 0,
        "steps": setting(given, variant, "steps", 30),
        "solver": given.get("solver") or next(iter(variant.solvers), SOLVERS[0]),
        "guidance_interval": interval,
        "turbo": bool(given.get("turbo")),
        "size": _size(given.get("size"), variant),
    }


def generate_settings(given: Mapping[str, Any], variant: Variant) -> dict[str, Any]:
    """The fields of GenerateRequest, but for the prompt. A model that was taught to think does, if nothing was said."""
    think = given.get("think")
    return {
        **drawing_settings(given, variant),
        "think": variant.thinking is not None if think is None else bool(think),
        "plan": (given.get("plan") or "").strip(),
    }


def _size(given: tuple[int, int] | str | None, variant: Variant) -> tuple[int, int] | None:
    """(width, height) as it was given. A text, "512x768", counts only where the variant draws in several sizes: the
    programs that send one send it to every model."""
    if not isinstance(given, str):
        return given
    width, _, height = given.partition("x")
    if "width" not in variant.settings or not (width.isdecimal() and height.isdecimal()):
        return None
    return int(width), int(height)


def edit_settings(given: Mapping[str, Any], variant: Variant) -> dict[str, Any]:
    """The fields of EditRequest, but for the prompt, the pictures and the method."""
    return {
        "image_guidance": setting(given, variant, "image_guidance", 1.5),
        "strength": setting(given, variant, "strength", 0.6),
        "source_prompt": given.get("source_prompt") or "",
        **drawing_settings(given, variant),
    }


def chat_settings(given: Mapping[str, Any], variant: Variant) -> dict[str, Any]:
    """The fields of ChatRequest, but for the turns."""
    return {
        "temperature": setting(given, variant, "temperature", 0.1, "chat_temperature"),
        "top_p": setting(given, variant, "top_p", 0.95),
        "seed": given.get("seed") or 0,
        "max_new_tokens": setting(given, variant, "max_new_tokens", 512),
    }


def check_takes_mask(method: str) -> None:
    """Raises AppError for a method that would ignore a mask."""
    if "mask" not in EDIT_SETTINGS.get(method, ()):
        raise AppError("edit_method_ignores_mask", method=method)


def usual_edit_method(methods: Iterable[str], masked: bool, title: str) -> str:
    """The first of a loaded model's edit methods that fits what was given. Raises AppError where none does."""
    if not (methods := tuple(methods)):
        raise AppError("edit_unsupported", title=title)
    fitting = [name for name in methods if ("mask" in EDIT_SETTINGS.get(name, ())) == masked]
    if not fitting:
        raise AppError("edit_mask_unsupported" if masked else "edit_needs_mask", title=title)
    return fitting[0]


def random_seed() -> int:
    """A random seed short enough to read out."""
    return secrets.randbelow(min(MAX_SEED, 999_999_999)) + 1
