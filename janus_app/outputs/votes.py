"""Votes of blind comparisons, tallied pair by pair in one JSON file of the data folder.

votes.json   {"schema": 1, "pairs": [{"one": "...", "other": "...", "one_better": 3, "other_better": 1, "equal": 0}]}
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from janus_app.errors import AppError
from janus_app.files import file_lock, os_errors_as_app_errors, write_atomically

SCHEMA = 1
FILE = "votes.json"
MAX_PAIRS = 10_000
MAX_NAME = 300

Choice = Literal["one", "other", "equal"]


@dataclass(frozen=True)
class Tally:
    """How often `one` and `other` were thought better, and how often neither."""

    one: str
    other: str
    one_better: int = 0
    other_better: int = 0
    equal: int = 0

    @property
    def count(self) -> int:
        return self.one_better + self.other_better + self.equal

    def with_vote(self, choice: Choice) -> Tally:
        name = "equal" if choice == "equal" else f"{choice}_better"
        return replace(self, **{name: getattr(self, name) + 1})

    def turned(self) -> Tally:
        """The same votes, told from the other side."""
        return Tally(self.other, self.one, self.other_better, self.one_better, self.equal)


class Votes:
    """The file of one data folder; it does not have to exist yet. Safe for several threads and processes."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE

    def all(self) -> list[Tally]:
        """Every pair voted on, oldest first. Raises AppError for a damaged file, which is left alone."""
        try:
            data = json.loads(self.file.read_text(encoding="utf-8"))
            if data["schema"] != SCHEMA or len(data["pairs"]) > MAX_PAIRS:
                raise ValueError
            return [_checked(Tally(**pair)) for pair in data["pairs"]]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise AppError(f"The votes in {self.file} cannot be read: {error.strerror or 'unknown reason'}.") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise AppError(
                f"The votes in {self.file} cannot be read: the file is damaged. It was left as it is; mend it, or move "
                "it away to begin anew."
            ) from None

    def vote(self, one: str, other: str, choice: Choice) -> Tally:
        """Add a vote and return the pair's tally, told from the side of `one`. Raises AppError."""
        one, other = one[:MAX_NAME], other[:MAX_NAME]
        with os_errors_as_app_errors("The vote was not kept", self.file.parent):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with file_lock(self.file.with_name(f".{FILE}.lock")):
                pairs = self.all()
                same = [number for number, t in enumerate(pairs) if {t.one, t.other} == {one, other}]
                old = pairs[same[0]] if same else Tally(one, other)
                now = (old if old.one == one else old.turned()).with_vote(choice)
                if same:
                    pairs[same[0]] = now
                else:
                    pairs.append(now)
                text = json.dumps({"schema": SCHEMA, "pairs": [asdict(t) for t in pairs]}, ensure_ascii=False, indent=1)
                write_atomically(self.file, text.encode("utf-8", "replace"))
        return now


def _checked(tally: Tally) -> Tally:
    names, counts = (tally.one, tally.other), (tally.one_better, tally.other_better, tally.equal)
    if not all(type(name) is str for name in names) or not all(type(n) is int and n >= 0 for n in counts):
        raise ValueError
    return tally
