"""First contact with a model's weights on this machine: a few seconds that show whether they can be right.

A checkpoint can have the right names, shapes and hashes and still answer nonsense: a damaged file of one's own, a
conversion gone wrong, a precision or a device that does not suit it. So the first load of a model that does not ship
with the app asks it about an example picture and draws a little (`Family.check_drawing`). The outcome is kept in the
data folder and shown; it never stands in the way of using the model. JANUS_APP_WEIGHT_CHECK=off switches it off.

weight_checks.json   {"schema": 1, "checks": {key: {"problems": [{"code", "values"}], "complete": true}}}
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from janus_app.errors import AppError, Message, is_out_of_memory, message_table
from janus_app.files import file_lock, read_json, write_atomically
from janus_app.models.common.components import component_places
from janus_app.models.registry import get_family
from janus_app.paths import ASSETS, data_folder
from janus_app.registry.types import Variant
from janus_app.types import ChatRequest, Event, Finished, Model, Progress, Turn

if TYPE_CHECKING:
    from janus_app.runtime.fit import LoadPlan
    from janus_app.runtime.loader import LoadedModel

ENV_SWITCH = "JANUS_APP_WEIGHT_CHECK"
FILE, SCHEMA = "weight_checks.json", 1
SECONDS = 30.0  # a slow machine checks less, instead of taking longer
QUESTION, ANSWER_TOKENS = "What is in the picture?", 24
KNOWN_TOKENS = 3  # first tokens of an answer that are compared where they are recorded
_PUNCTUATION = ".,:;!?'\"()-*#/&%+–—…’“”，。、：；！？（）《》"  # of answers in words, Markdown included
_FEW = 8  # tokens; repetition in shorter answers says nothing
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightCheck:
    """What looked wrong; nothing in `problems` is good. Not `complete`: there was no time for some of it."""

    problems: tuple[Message, ...] = ()
    complete: bool = True

    def message(self, title: str) -> Message:
        """The outcome in a sentence."""
        if len(self.problems) > 1:
            first, second = self.problems[:2]
            return Message("weights_look_wrong_twice", title=title, first=first, second=second)
        if self.problems:
            return Message("weights_look_wrong", title=title, problem=self.problems[0])
        if self.complete:
            return Message("weights_checked", title=title)
        return Message("weights_checked_partly", title=title, seconds=SECONDS)


def wanted(variant: Variant) -> bool:
    """Whether a first load checks the weights: those that ship with the app need no check."""
    ships = variant.folder is not None and variant.folder.is_relative_to(ASSETS)
    return not ships and os.environ.get(ENV_SWITCH, "").lower() not in ("off", "0", "no")


Part = Callable[["LoadedModel"], Generator[Event, None, Message | None]]


def check(loaded: LoadedModel, stop: Callable[[], bool]) -> Generator[Progress, None, WeightCheck | None]:
    """Ask and draw, for at most SECONDS. Ends early, without an outcome, where `stop` says that somebody waits.

    A failure becomes a problem of the outcome; nothing is raised.
    """
    deadline, problems, complete = time.monotonic() + SECONDS, list[Message](), True
    parts: tuple[Part, ...] = (_answer, _drawing)
    for number, part in enumerate(parts):
        yield Progress("check", number, len(parts))
        with closing(part(loaded)) as steps:
            while True:
                if stop():
                    return None
                if time.monotonic() > deadline:
                    complete = False
                    break
                try:
                    next(steps)
                except StopIteration as end:
                    problems += [end.value] if end.value is not None else []
                    break
                except Exception as error:
                    if (problem := _problem(error)) is None:
                        complete = False
                    else:
                        problems.append(problem)
                    break
                yield Progress("check", number, len(parts))
    yield Progress("check", len(parts), len(parts))
    return WeightCheck(tuple(dict.fromkeys(problems)), complete)


def _problem(error: Exception) -> Message | None:
    """What a failure says of the weights; None where memory ran out, which says nothing of them."""
    if is_out_of_memory(error):
        return None
    if isinstance(error, AppError):
        return error.message
    logger.exception("a check of weights failed")
    return Message("weights_check_failed", kind=type(error).__name__)


def _answer(loaded: LoadedModel) -> Generator[Event, None, Message | None]:
    """A greedy answer about an example picture: is it language, and does it begin as recorded where that is known?"""
    from PIL import Image

    from janus_app.runtime.selftest.embedded import PICTURE, recorded

    model: Model = loaded.model
    if "chat" not in model.capabilities.verbs:
        return None
    turn = Turn("user", QUESTION, (Image.open(PICTURE).convert("RGB"),))
    for event in model.chat(ChatRequest((turn,), temperature=0, max_new_tokens=ANSWER_TOKENS)):
        if isinstance(event, Finished):
            known = recorded(loaded.plan.variant.id)
            if known and event.token_ids[:KNOWN_TOKENS] != known.answer[:KNOWN_TOKENS]:
                return Message("weights_answer_not_as_recorded", text=_excerpt(event.text))
            return answer_problem(event.text, event.token_ids)
        yield event
    raise AssertionError("the answer did not finish")


def answer_problem(text: str, tokens: Sequence[int]) -> Message | None:
    """Whether a greedy answer is none, one token again and again, or not made of words."""
    if not text.strip():
        return Message("weights_answer_empty")
    most = Counter(tokens).most_common(1)[0][1]
    if len(tokens) >= _FEW and (most > len(tokens) / 2 or len(set(tokens)) <= len(tokens) / 4):
        return Message("weights_answer_repeats", text=_excerpt(text))
    readable = sum(c.isalnum() or c.isspace() or c in _PUNCTUATION for c in text)
    alphanumeric = sum(c.isalnum() for c in text)
    words = [word.strip(_PUNCTUATION) for word in re.split(r"[\s/–—-]+", text)]
    odd = sum(not _is_word(word) for word in words)
    if readable < 0.9 * len(text) or alphanumeric < 0.4 * len(text) or odd > len(words) / 3:
        return Message("weights_answer_unreadable", text=_excerpt(text))
    return None


def _is_word(word: str) -> bool:
    """Whether a word is written as people do: "Dog", "dogs", "USA", "2nd", "it's", nothing; not "goldldYouust"."""
    if word.isascii():
        return re.fullmatch(r"[A-Za-z]?[a-z]{0,24}('[a-z]+)?|[A-Z]{2,12}|\d[\d.,:]*[a-z]{0,2}", word) is not None
    return all(c.isalnum() or c in _PUNCTUATION for c in word)  # Chinese has no spaces


def _excerpt(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text.strip())[:60]


def _drawing(loaded: LoadedModel) -> Generator[Event, None, Message | None]:
    if "generate" not in loaded.model.capabilities.verbs:
        return None
    return (yield from get_family(loaded.plan.variant.family).check_drawing(loaded.model))


class WeightChecks:
    """The kept outcomes, in `folder`, by files, device and precision. A file that cannot be read or written costs
    another check, no more."""

    def __init__(self, folder: Path | None = None) -> None:
        self.file = (folder or data_folder()) / FILE

    def find(self, plan: LoadPlan) -> WeightCheck | None:
        try:
            entry = self._all().get(key_of(plan))
            return WeightCheck(tuple(map(_decode, entry["problems"])), bool(entry["complete"])) if entry else None
        except (AttributeError, KeyError, TypeError, OSError):
            return None

    def keep(self, plan: LoadPlan, outcome: WeightCheck) -> None:
        with suppress(AppError, OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with file_lock(self.file.with_name(f".{FILE}.lock")):
                problems = [_encode(problem) for problem in outcome.problems]
                checks = self._all() | {key_of(plan): {"problems": problems, "complete": outcome.complete}}
                write_atomically(self.file, json.dumps({"schema": SCHEMA, "checks": checks}, indent=1).encode())

    def _all(self) -> dict[str, Any]:
        try:
            document = read_json(self.file)
        except AppError:
            return {}
        checks = document.get("checks")
        return checks if document.get("schema") == SCHEMA and isinstance(checks, dict) else {}


def key_of(plan: LoadPlan) -> str:
    """The files, the device and the precision of a load: what an outcome is valid for."""
    import torch

    variant, main = plan.variant, plan.placement.main
    if variant.repo:
        repos = [f"{variant.repo}@{variant.revision}", *(f"{p.repo}@{p.revision}" for p in variant.components.values())]
        files = " ".join(repos)
    else:
        assert plan.folder is not None
        parts = [plan.components[role] for role in sorted(plan.components)]
        facts = [_facts(place, place.rglob("*")) for place in (plan.folder, *parts)]
        beside = component_places(plan.folder)[1]  # may be any folder of that name, so it is not searched further
        facts.append(_facts(beside, (path for depth in ("*/*", "*/*/*") for path in beside.glob(depth))))
        files = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    device = torch.cuda.get_device_name(main) if main.type == "cuda" else main.type
    return f"{files} | {device}{f' {plan.placement.name}' if plan.placement.spread else ''} | {plan.precision}"


def _facts(folder: Path, paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Name, size and time of the files among `paths`, without hidden ones. Raises OSError."""
    names = {path.relative_to(folder): path for path in paths if path.is_file()}
    shown = sorted(name for name in names if not any(part.startswith(".") for part in name.parts))
    stats = [(name.as_posix(), names[name].stat()) for name in shown]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _encode(message: Message) -> dict[str, Any]:
    values = {
        name: _encode(value) if isinstance(value, Message) else value if isinstance(value, int | float) else str(value)
        for name, value in message.values.items()
    }
    return {"code": message.code, "values": values}


def _decode(entry: dict[str, Any]) -> Message:
    values = {name: _decode(value) if isinstance(value, dict) else value for name, value in entry["values"].items()}
    message = Message(str(entry["code"]), **values)
    message_table()[message.code]["en"].format(**values)  # raises KeyError where the sentence has changed since
    return message
