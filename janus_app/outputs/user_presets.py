"""The presets that a person made: one YAML file in the data folder that can be read, edited and copied by hand.

presets.yaml   - {name: my portraits, family: janus, settings: {guidance: 6.0, temperature: 0.8}}
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from janus_app.errors import AppError, Message
from janus_app.files import file_lock, os_errors_as_app_errors, write_atomically

FILE = "presets.yaml"
MAX_NAME = 60
MAX_PRESETS = 200
MAX_BYTES = 1_000_000
Value = str | int | float


@dataclass(frozen=True)
class Preset:
    """Draw settings under a name, for the models of one family."""

    name: str
    family: str
    settings: Mapping[str, Value] = field(hash=False)


def _finite(value: Value) -> Value:
    if not isinstance(value, str) and not math.isfinite(value):
        raise ValueError("not finite")
    return value


Text = Annotated[str, Field(max_length=100)]


class _Row(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str
    family: str
    settings: Annotated[dict[str, Annotated[bool | int | float | Text, AfterValidator(_finite)]], Field(max_length=40)]


_ROWS = TypeAdapter(list[_Row])


class Presets:
    """The presets in one data folder, whose file does not have to exist yet. Safe for several threads and processes."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE

    def of(self, family: str) -> list[Preset]:
        """The presets of a family, oldest first. Raises AppError for a file that cannot be read."""
        return [preset for preset in self._all() if preset.family == family]

    def save(self, preset: Preset) -> None:
        """Store a preset, in place of the one with its name and family. Raises AppError."""
        name = " ".join(preset.name.split())
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise AppError("preset_name_length", most=MAX_NAME)
        with self._writing() as presets:
            others = [p for p in presets if (p.name, p.family) != (name, preset.family)]
            if len(others) >= MAX_PRESETS:
                raise AppError("presets_too_many", most=MAX_PRESETS)
            presets[:] = [*others, Preset(name, preset.family, dict(preset.settings))]

    def delete(self, name: str, family: str) -> None:
        """Remove a preset, if there is one of that name and family. Raises AppError."""
        with self._writing() as presets:
            presets[:] = [p for p in presets if (p.name, p.family) != (name, family)]

    @contextmanager
    def _writing(self) -> Iterator[list[Preset]]:
        """The list, locked, and written back unless the block raises."""
        import yaml

        with os_errors_as_app_errors(Message("preset_not_kept"), self.file.parent):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with file_lock(self.file.with_name(f".{FILE}.lock")):
                presets = self._all()
                yield presets
                rows = [{"name": p.name, "family": p.family, "settings": dict(p.settings)} for p in presets]
                write_atomically(self.file, yaml.safe_dump(rows, sort_keys=False, allow_unicode=True).encode("utf-8"))

    def _all(self) -> list[Preset]:
        import yaml

        try:
            if self.file.stat().st_size > MAX_BYTES:
                raise AppError("presets_damaged", file=self.file)
            rows = _ROWS.validate_python(yaml.safe_load(self.file.read_text(encoding="utf-8")) or [])
        except FileNotFoundError:
            return []
        except OSError as error:
            raise AppError("presets_unreadable", file=self.file, reason=error.strerror or str(error)) from None
        except (ValueError, RecursionError, yaml.YAMLError):  # ValidationError and UnicodeDecodeError are ValueErrors
            raise AppError("presets_damaged", file=self.file) from None
        return [Preset(row.name[:MAX_NAME], row.family, row.settings) for row in rows]
