"""A person's own presets: one YAML file of the data folder that can be read, edited and copied by hand.

presets.yaml   - {name: my portraits, family: janus, settings: {guidance: 6.0, temperature: 0.8}}
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from janus_app.errors import AppError
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


class Presets:
    """The file of one data folder; it does not have to exist yet. Safe for several threads and processes."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE

    def of(self, family: str) -> list[Preset]:
        """The presets of a family in the order they were made. Raises AppError for a file that cannot be read."""
        return [preset for preset in self._all() if preset.family == family]

    def save(self, preset: Preset) -> None:
        """Keep a preset in place of the one with its name. Raises AppError."""
        name = " ".join(preset.name.split())
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise AppError(f"A preset needs a name of 1 to {MAX_NAME} characters. Type one.")
        with self._writing() as presets:
            kept = [p for p in presets if (p.name, p.family) != (name, preset.family)]
            if len(kept) >= MAX_PRESETS:
                raise AppError(f"There are {MAX_PRESETS} presets already. Delete one first.")
            presets[:] = [*kept, Preset(name, preset.family, dict(preset.settings))]

    def delete(self, name: str, family: str) -> None:
        """Forget a preset; nothing happens where there is none of that name. Raises AppError."""
        with self._writing() as presets:
            presets[:] = [p for p in presets if (p.name, p.family) != (name, family)]

    @contextmanager
    def _writing(self) -> Iterator[list[Preset]]:
        """The list under the lock; written back where nothing was raised."""
        import yaml

        with os_errors_as_app_errors("The preset was not kept", self.file.parent):
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
                raise ValueError
            return [_preset(row) for row in yaml.safe_load(self.file.read_text(encoding="utf-8")) or []]
        except FileNotFoundError:
            return []
        except OSError as error:
            reason = error.strerror or "unknown reason"
            raise AppError(f"The presets in {self.file} cannot be read: {reason}.") from None
        except (ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError):
            raise AppError(
                f"The presets in {self.file} cannot be read: the file is damaged. It was left as it is; mend it, or "
                "move it away to begin anew."
            ) from None


def _preset(row: Any) -> Preset:
    name, family, settings = row["name"], row["family"], row["settings"]
    if not isinstance(name, str) or not isinstance(family, str) or not isinstance(settings, dict) or len(settings) > 40:
        raise ValueError
    for key, value in settings.items():
        whole = isinstance(value, (int, float)) and math.isfinite(value)
        if not isinstance(key, str) or not (whole or (isinstance(value, str) and len(value) <= 100)):
            raise ValueError
    return Preset(name[:MAX_NAME], family, settings)
