"""Votes of blind comparisons, counted for each pair in one JSON file of the data folder.

votes.json   {"schema": 1, "pairs": [{"one": "...", "other": "...", "one_better": 3, "other_better": 1, "equal": 0}]}
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from janus_app.errors import AppError, Message
from janus_app.files import file_lock, os_errors_as_app_errors, write_atomically

SCHEMA = 1
FILE = "votes.json"
MAX_PAIRS = 10_000
MAX_NAME = 300

Choice = Literal["one", "other", "equal"]


@dataclass(frozen=True)
class Tally:
    """How often `one` and `other` were voted better, and how often neither."""

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

    def swapped(self) -> Tally:
        """The same votes with `one` and `other` exchanged."""
        return Tally(self.other, self.one, self.other_better, self.one_better, self.equal)


Count = Annotated[int, Field(ge=0)]


class _Pair(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    one: str
    other: str
    one_better: Count = 0
    other_better: Count = 0
    equal: Count = 0


class _File(BaseModel):
    version: Literal[1] = Field(alias="schema")
    pairs: Annotated[list[_Pair], Field(max_length=MAX_PAIRS)]


class Votes:
    """The votes in one data folder, whose file does not have to exist yet. Safe for several threads and processes."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE

    def all(self) -> list[Tally]:
        """Every pair that was voted on, oldest first. Raises AppError for a damaged file, which stays as it is."""
        try:
            return [Tally(**dict(pair)) for pair in _File.model_validate_json(self.file.read_bytes()).pairs]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise AppError("votes_unreadable", file=self.file, reason=error.strerror or str(error)) from None
        except ValidationError:
            raise AppError("votes_damaged", file=self.file) from None

    def vote(self, one: str, other: str, choice: Choice) -> Tally:
        """Add a vote and return the pair's votes, in the order `one`, `other`. Raises AppError."""
        one, other = one[:MAX_NAME], other[:MAX_NAME]
        with os_errors_as_app_errors(Message("vote_not_kept"), self.file.parent):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with file_lock(self.file.with_name(f".{FILE}.lock")):
                pairs = self.all()
                known = next((number for number, t in enumerate(pairs) if {t.one, t.other} == {one, other}), None)
                old = Tally(one, other) if known is None else pairs[known]
                new = (old if old.one == one else old.swapped()).with_vote(choice)
                if known is None:
                    pairs.append(new)
                else:
                    pairs[known] = new
                text = json.dumps({"schema": SCHEMA, "pairs": [asdict(t) for t in pairs]}, ensure_ascii=False, indent=1)
                write_atomically(self.file, text.encode("utf-8", "replace"))
        return new
