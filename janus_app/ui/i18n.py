"""Every string of the page, in every language the page speaks.

Two kinds: labels that never change are handed to the browser as translation keys (it picks the language itself), and
sentences made while a job runs are picked here, from the Accept-Language header or the language the user forced.
Sentences of the lower rooms (errors, notices) are English; `Texts.sentence` translates those the language file knows.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

import gradio as gr

from janus_app.errors import AppError, Message
from janus_app.paths import ASSETS

FOLDER = ASSETS / "i18n"
LANGUAGES = ("en", "zh-CN")
# What browsers send for the same written language; Gradio looks names up literally.
ALIASES = {"zh-CN": ("zh", "zh-Hans", "zh-SG", "zh-TW", "zh-HK")}


@lru_cache
def _file(language: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return document


@lru_cache
def _patterns(language: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    """The language's known sentences as patterns: a {name} in the English one matches anything.

    Those that fix the most words come first, so that none is taken for a shorter one with a long value in it.
    """
    found = []
    known: dict[str, str] = _file(language).get("sentences", {})
    for english, own in sorted(known.items(), key=lambda pair: -len(re.sub(r"\{\w+\}", "", pair[0]))):
        pieces = re.split(r"\{(\w+)\}", english)
        # pieces alternates text, name, text, name, ...
        pattern = "".join(re.escape(piece) if i % 2 == 0 else f"(?P<{piece}>.+?)" for i, piece in enumerate(pieces))
        found.append((re.compile(pattern, re.DOTALL), own))
    return tuple(found)


class Texts:
    """The strings, with `forced` = a language for everyone, or None to follow each browser."""

    def __init__(self, language: str = "auto") -> None:
        self.forced = None if language == "auto" else match_language(language)

    def label(self, key: str) -> Any:
        """A label for a widget: a translation key for the browser, or the string where a language is forced."""
        _file("en")[key]  # a misspelt key must fail when the page is built, not show up as its own name
        return gr.I18n()(key) if self.forced is None else self.say(key, self.forced)

    def say(self, key: str, language: str, **values: object) -> str:
        """The string `key` in `language`, its {places} filled."""
        text: str = _file(language)[key]
        return text.format(**values) if values else text

    def text(self, message: Message | AppError, language: str) -> str:
        """A message or an error of the layers below, in `language`."""
        return self.sentence(message.text(language), language)  # errors without a code yet are matched by their words

    def sentence(self, english: str, language: str) -> str:
        """A sentence of another room in `language`, or as it is where the language has no words for it.

        What stands in a sentence's places may be a sentence too (the reason of a failure) and is translated likewise.
        """
        if language == "en":
            return english
        for pattern, own in _patterns(language):
            if found := pattern.fullmatch(english):
                return own.format(**{name: self.sentence(text, language) for name, text in found.groupdict().items()})
        return english

    def variant_text(self, model: str, field: str, english: str, language: str) -> str:
        """The text that the manifest has in English in a field of the built-in model `model`."""
        translations: dict[str, dict[str, str]] = _file(language).get("variants", {})
        return translations.get(model, {}).get(field, english)

    def named(self, kind: str, name: str, language: str) -> str:
        """The word for a setting ("setting", "guidance") or a method; `name` itself where there is none."""
        text: str = _file(language).get(f"{kind}_{name}", name)
        return text

    def language(self, request: gr.Request | None) -> str:
        """The language of whoever sent `request`."""
        if self.forced:
            return self.forced
        header = request.headers.get("accept-language", "") if request is not None else ""
        return match_language(header)

    def browser_table(self) -> gr.I18n:
        """The labels of all languages, for `launch(i18n=...)`."""
        tables: dict[str, dict[str, str]] = {}
        for language in LANGUAGES:
            strings = {key: text for key, text in _file(language).items() if isinstance(text, str)}
            for name in (language, *ALIASES.get(language, ())):
                tables[name] = strings
        return gr.I18n(**tables)


def match_language(wanted: str) -> str:
    """The nearest language we speak to an Accept-Language header or a language tag; English for anything unknown."""
    for part in wanted.split(","):
        tag = part.split(";")[0].strip().lower()
        for language in LANGUAGES:
            if tag and tag.split("-")[0] == language.split("-")[0].lower():
                return language
    return "en"
