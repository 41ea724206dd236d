"""Checked reading of a checkpoint's config.json. Imports neither torch nor any family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from janus_app.errors import AppError

_LARGEST = 1 << 20  # no size in a config comes near this; a larger one would allocate before it failed


class Fields:
    """A section of config.json whose numbers are checked when they are read.

    Raises AppError where the section is missing.
    """

    def __init__(self, section: str, values: Any) -> None:
        if not isinstance(values, Mapping):
            raise AppError("config_section_missing", section=section)
        self.section, self.values = section, values

    def whole(self, name: str, default: int | None = None, *, low: int = 1, high: int = _LARGEST) -> int:
        """A whole number from `low` to `high`. Raises AppError for anything else."""
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            field = f"{self.section}.{name}".removeprefix("config.")
            raise AppError("config_number_out_of_range", field=field, value=repr(value)[:60], low=low, high=high)
        return value

    def number(self, name: str, default: float) -> float:
        """A number above 0. Raises AppError for anything else."""
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
            raise AppError("config_number_unusable", field=f"{self.section}.{name}", value=repr(value)[:60])
        return float(value)


def fields_at(raw: Mapping[str, Any], *path: str) -> Fields:
    """The section at `path` of config.json, empty where the path ends early."""
    values: Any = raw
    for name in path:
        values = values.get(name, {}) if isinstance(values, Mapping) else {}
    return Fields(".".join(path), values)
