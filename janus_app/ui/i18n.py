"""The texts of the page in all its languages.

Labels are sent to the browser as translation keys, and the browser chooses the language. Texts that are made while a
job runs are chosen here, by the Accept-Language header or the language that was forced at the start. Errors and notices
are not here: they carry their texts themselves (janus_app/errors.py).
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import gradio as gr

from janus_app.errors import LANGUAGES, match_language
from janus_app.paths import ASSETS

FOLDER = ASSETS / "i18n"
# Tags that browsers send for a language; Gradio looks them up literally.
ALIASES = {"zh-CN": ("zh", "zh-Hans", "zh-SG", "zh-TW", "zh-HK")}
# Gradio's names of words that its components show and no argument changes; ours take their place.
GRADIO_WORDS = {
    "upload_text.drop_gallery": "drop_pictures",
    "upload_text.drop_file": "drop_file",
    "upload_text.click_to_upload": "choose_files",
}


@lru_cache
def _file(language: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return document


class Texts:
    """The texts. `forced` is the language for everyone, or None to follow each browser."""

    def __init__(self, language: str = "auto") -> None:
        self.forced = None if language == "auto" else match_language(language)

    def label(self, key: str) -> Any:
        """The label of a component: a translation key for the browser, or a string if a language is forced."""
        _file("en")[key]  # a misspelt key fails here, instead of being shown as it is
        return gr.I18n()(key) if self.forced is None else self.say(key, self.forced)

    def say(self, key: str, language: str, **values: object) -> str:
        """The text `key` in `language`, with its {placeholders} filled."""
        text: str = _file(language)[key]
        return text.format(**values) if values else text

    def variant_text(self, model: str, field: str, english: str, language: str) -> str:
        """The text that the manifest has in English in a field of the built-in model `model`."""
        translations: dict[str, dict[str, str]] = _file(language).get("variants", {})
        return translations.get(model, {}).get(field, english)

    def named(self, kind: str, name: str, language: str) -> str:
        """The name of a setting ("setting", "guidance"), a method or a solver; `name` itself if there is none."""
        text: str = _file(language).get(f"{kind}_{name}", name)
        return text

    def language(self, request: gr.Request | None) -> str:
        """The language of the sender of `request`."""
        if self.forced:
            return self.forced
        header = request.headers.get("accept-language", "") if request is not None else ""
        return match_language(header)

    def browser_table(self) -> gr.I18n:
        """The texts of all languages, for `launch(i18n=...)`."""
        tables: dict[str, dict[str, str]] = {}
        for language in LANGUAGES:
            strings = {key: text for key, text in _file(language).items() if isinstance(text, str)}
            spoken = _file(self.forced or language)
            strings |= {theirs: spoken[ours] for theirs, ours in GRADIO_WORDS.items()}
            for name in (language, *ALIASES.get(language, ())):
                tables[name] = strings
        return gr.I18n(**tables)
