"""Sentences for the user, by code and in every language, and the one exception that carries them.

    raise AppError("precision_unknown", given="int3", known="fp32, bf16")
    error.code            "precision_unknown"      what a program compares
    error.status          400                      the HTTP status an API answers with
    error.text("zh-CN")   the sentence in Chinese; str(error) is the English one

The sentences are in assets/i18n/errors_and_notices.json: code -> {status, en, zh-CN}. A sentence says what happened and
what to do next. Its places are filled by `str.format`, so "{limit:,}" works; a value may be a Message itself.
"""

from __future__ import annotations

import errno
import json
import os
from functools import lru_cache
from typing import Any

from janus_app.paths import ASSETS

LANGUAGES = ("en", "zh-CN")
DEFAULT_STATUS = 400

# How libraries without an exception type for it say that memory ran out.
_OUT_OF_MEMORY_TEXTS = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "could not create a memory",
    "could not create a primitive",  # oneDNN
    "alloc_failed",
    "unable to find an engine",  # PyTorch, where no algorithm of cuDNN got its workspace
    "unable to mmap",
)


@lru_cache
def message_table() -> dict[str, dict[str, Any]]:
    """Code -> {"status": HTTP status (errors only), language: sentence}."""
    table: dict[str, dict[str, Any]] = json.loads(
        (ASSETS / "i18n" / "errors_and_notices.json").read_text(encoding="utf-8")
    )
    return table


def system_language() -> str:
    """The language of the terminal: zh-CN if the first of LC_ALL, LC_MESSAGES and LANG that is set begins with zh."""
    locale = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    return "zh-CN" if locale.lower().startswith("zh") else "en"


def match_language(accepted: str) -> str:
    """The first supported language of an Accept-Language header or a language tag, else English."""
    for part in accepted.split(","):
        tag = part.split(";")[0].strip().lower()
        for language in LANGUAGES:
            if tag and tag.split("-")[0] == language.split("-")[0].lower():
                return language
    return "en"


class Message:
    """A sentence by its code, with the values for its places. Immutable; equal where code and values are."""

    __slots__ = ("code", "values")
    code: str
    values: dict[str, Any]

    def __init__(self, code: str, /, **values: Any) -> None:
        object.__setattr__(self, "code", code)
        object.__setattr__(self, "values", values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Message cannot be changed")

    def __reduce__(self) -> tuple[Any, ...]:  # copy and pickle would set the attributes
        return _message, (self.code, self.values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and (self.code, self.values) == (other.code, other.values)

    def __hash__(self) -> int:
        return hash(self.code)

    def __repr__(self) -> str:
        values = "".join(f", {name}={value!r}" for name, value in self.values.items())
        return f"Message({self.code!r}{values})"

    def __str__(self) -> str:
        return self.text()

    def text(self, language: str = "en") -> str:
        """The sentence in `language`, in English where the language has none."""
        entry = message_table().get(self.code)
        if entry is None:
            return self.code
        values = {
            name: value.text(language) if isinstance(value, Message) else value for name, value in self.values.items()
        }
        sentence: str = entry.get(language) or entry["en"]
        return sentence.format(**values)


def _message(code: str, values: dict[str, Any]) -> Message:
    return Message(code, **values)


class AppError(Exception):
    """A failure explained in a sentence or two, safe to show on the page and on the command line.

    Any other exception that reaches the top is a bug; it is logged with its traceback and shown without.
    """

    def __init__(self, code: str | Message, /, **values: Any) -> None:
        self.message = code if isinstance(code, Message) else Message(code, **values)
        super().__init__(self.message)

    @property
    def code(self) -> str:
        return self.message.code

    @property
    def status(self) -> int:
        """The HTTP status of an API's answer."""
        return int(message_table().get(self.code, {}).get("status", DEFAULT_STATUS))

    def text(self, language: str = "en") -> str:
        return self.message.text(language)

    def __str__(self) -> str:
        return self.message.text()


class LoadOutOfMemory(AppError):
    """A load ran out of memory. `smaller_precision` is the precision to try next, "" where none is smaller."""

    def __init__(self, code: str, /, smaller_precision: str = "", **values: Any) -> None:
        super().__init__(code, **values)
        self.smaller_precision = smaller_precision


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, PyTorch or a library below says that memory ran out, on whatever device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY_TEXTS)
