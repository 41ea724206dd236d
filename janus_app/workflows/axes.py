"""The two settings of a grid: which there are, and how their values are written."""

from __future__ import annotations

import re
from dataclasses import dataclass

from janus_app.errors import AppError
from janus_app.registry.types import Variant
from janus_app.types import SOLVERS

Value = str | int | float

# What a grid may run over, in the order people are shown it.
AXES = ("guidance", "temperature", "seed", "prompt", "negative", "steps", "solver")
WORDS = ("prompt", "negative")  # a | b | c, because prompts hold commas
WHOLE = ("seed", "steps")
MAX_VALUES = 8  # along one axis: more columns are too small to be told apart on a screen


@dataclass(frozen=True)
class Axis:
    """A setting of `GenerateRequest` and the values it takes in turn."""

    name: str
    values: tuple[Value, ...]


def axes_of(variant: Variant) -> tuple[str, ...]:
    """The settings a grid of this variant may run over: those that change its pictures."""
    told = {"prompt", "negative", "seed", "guidance", *variant.settings}
    told |= {"solver"} if variant.solvers else set()
    return tuple(name for name in AXES if name in told)


def parse_axis(text: str) -> Axis:
    """ "guidance=1,3,5", "seed=1..4", "solver=euler,ab2" or "prompt=a red cat | a blue dog" as an axis.

    Raises AppError for a setting that is none, for values that are no numbers, and for none or too many of them.
    """
    name, sign, values = text.partition("=")
    name = name.strip().lower()
    if not sign or name not in AXES:
        raise AppError(
            f"{text[:80]!r} is no axis. Write a setting and its values, as in guidance=1,3,5; the settings are "
            f"{', '.join(AXES)}."
        )
    return axis_of(name, values)


def axis_of(name: str, text: str) -> Axis:
    """The values of `text` along the setting `name`. Raises AppError as `parse_axis` does."""
    spaced = re.fullmatch(r"\s*(-?\d+)\s*\.\.\s*(-?\d+)\s*", text) if name in WHOLE else None
    if spaced:
        low, high = int(spaced[1]), int(spaced[2])
        values: list[Value] = list(range(low, min(high, low + MAX_VALUES) + 1))  # one too many is refused below
    else:
        parts = re.split(r"\|" if name in WORDS else r"[,;，；]|\s+", text)
        # An empty negative prompt is a value of its own; elsewhere an empty part is a slip of the comma.
        values = [_value(name, part.strip()) for part in parts if part.strip() or (name == "negative" and text)]
    values = list(dict.fromkeys(values))
    if not values:
        raise AppError(f"The axis {name} has no values. Write some, as in {_example(name)}.")
    if len(values) > MAX_VALUES:
        raise AppError(f"The axis {name} has more than {MAX_VALUES} values, too many to see at once. Take some away.")
    return Axis(name, tuple(values))


def _value(name: str, text: str) -> Value:
    if name in WORDS:
        return text
    if name == "solver":
        if text not in SOLVERS:
            raise AppError(f"There is no solver called {text!r}. Choose one of {', '.join(SOLVERS)}.")
        return text
    try:
        return int(text) if name in WHOLE else float(text)
    except ValueError:
        kind = "whole number" if name in WHOLE else "number"
        raise AppError(f"{text[:40]!r} is no {kind}, as the axis {name} needs. Write {_example(name)}.") from None


def _example(name: str) -> str:
    if name in WORDS:
        return "a red cat | a blue dog"
    return {"solver": "euler, ab2", "seed": "1..4", "steps": "5, 10, 20", "temperature": "0.5, 1"}.get(name, "1, 3, 5")


def value_text(value: Value) -> str:
    """A value as it is written on a sheet: 5, not 5.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)
