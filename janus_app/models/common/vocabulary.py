"""The words that a small model knows, where a file `vocabulary.json` in its folder lists them.

    {"phrases": ["on white"], "words": ["a", "frog", "frogs"], "terms": ["一只", "青蛙"],
     "things": {"en": ["frog"], "zh-CN": ["青蛙"]},
     "scenes": {"en": ["at night"], "zh-CN": ["夜里"]},
     "questions": {"en": ["Describe it.", "Where is the {}?", "How many {s} are there?"]}}

`words` are those of languages that separate them, in lower case; `phrases` are known even where their words are not.
Chinese does not separate words: `terms` are taken out of a sentence, the longest first, and what is left is unknown.
`things` and `scenes` are proposed in place of unknown words. `questions` are those about a picture that the model was
trained on; {} stands for a thing, {a} for one with its article, {s} for several.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from janus_app.errors import AppError, Message
from janus_app.files import read_json

FILE = "vocabulary.json"
MAX_UNKNOWN = 6  # words that a sentence names
ALTERNATIVES = 4
SCENES = 2
_HAN = re.compile("[㐀-鿿]+")
# The last word of a text; of Chinese, which does not separate words, each end of the text that may be one.
_LAST = re.compile(r"(?=(?:(?<![^\W\d_])|(?<=[㐀-鿿]))([^\W\d_]+)$)")
_WORD = re.compile(r"\d+|[^\W\d_]+(?:['’][^\W\d_]+)?")
_SLOT = re.compile(r"\\\{[as]?\\\}")  # {}, {a} or {s} in an escaped question


@dataclass(frozen=True)
class Vocabulary:
    phrases: frozenset[str]
    words: frozenset[str]
    terms: frozenset[str]
    things: Mapping[str, tuple[str, ...]]
    scenes: Mapping[str, tuple[str, ...]]
    questions: Mapping[str, tuple[str, ...]]

    def unknown(self, text: str) -> tuple[str, ...]:
        """The words of a text that are not in it, each once, in the order they come."""
        text = text.lower()
        for phrase in self.phrases:
            text = re.sub(rf"\b{re.escape(phrase)}\b", " ", text)
        latin = (w for w in _WORD.findall(_HAN.sub(" ", text)) if not any(f in self.words for f in _forms(w)))
        return tuple(dict.fromkeys((*latin, *self._unknown_han(text))))

    def _unknown_han(self, text: str) -> Iterator[str]:
        known = re.compile("|".join(map(re.escape, sorted(self.terms, key=len, reverse=True))) or "$")
        for run in _HAN.findall(text):
            yield from filter(None, known.split(run))

    def finished(self, text: str) -> str:
        """A text that is being typed, without a last word that may still become one of these."""
        known = self.words | self.terms
        for last in _LAST.finditer(text):
            if any(word.startswith(last[1].lower()) for word in known):
                return text[: last.start()]
        return text

    def notice(self, text: str, title: str) -> Message | None:
        """What to say about a text for the model `title`: which words it does not know, and what to try instead."""
        unknown, language = self.unknown(text), self._language(text)
        if not unknown:
            return None
        things = self.things.get(language, ())
        close = [match for word in unknown for match in get_close_matches(word, things, 1, 0.75)]
        spread = things[:: max(1, len(things) // ALTERNATIVES)]
        known = [*dict.fromkeys((*close, *spread))][:ALTERNATIVES] + [*self.scenes.get(language, ())][-SCENES:]
        return Message("words_unknown", title=title, words=_listed(unknown, language), known=_listed(known, language))

    def question_notice(self, text: str, title: str, said: str = "") -> Message | None:
        """What to say about a question about a picture: that the model `title` was not trained on such questions, or
        which of its words it does not know; and what to ask instead, about a thing that `said` names, if it does."""
        language = self._language(text)
        if not (known := self.questions.get(language)):
            return None
        asked, unknown = _plain(text), list[tuple[str, ...]]()
        for form in known:
            if found := re.fullmatch(_SLOT.sub("(.{1,30}?)", re.escape(_plain(form))), asked):
                unknown.append(self.unknown(" ".join(found.groups())))
        if () in unknown:
            return None
        things = self.things.get(language, ("",))
        thing = next((t for t in things if t in said.lower()), things[0])
        simple = {_plain(form): form.replace("{}", thing) for form in known if "{a}" not in form and "{s}" not in form}
        (close,) = get_close_matches(asked, simple, 1, 0)
        if unknown:
            words = _listed(min(unknown, key=len), language)
            return Message("question_words_unknown", title=title, words=words, known=simple[close])
        between = "" if language == "zh-CN" else " "
        return Message("question_unknown", title=title, known=between.join(dict.fromkeys((simple[close], known[0]))))

    def _language(self, text: str) -> str:
        return "zh-CN" if _HAN.search(text) and "zh-CN" in self.things else "en"


def _listed(words: Sequence[str], language: str) -> str:
    return ("、" if language == "zh-CN" else ", ").join(words[:MAX_UNKNOWN])


def _plain(question: str) -> str:
    """A question without what does not change it: case, spaces and marks at its end, and spelling variants."""
    question = re.sub(r"\s+", " ", question.strip().lower()).rstrip(" ?？!！.。")
    return question.replace("color", "colour")


def _forms(word: str) -> Iterator[str]:
    """A word as written, and without the endings of English plurals and of the possessive."""
    yield word
    word = re.sub("['’]s$", "", word)
    yield word
    yield re.sub("ies$", "y", word)
    yield word.removesuffix("s")
    yield word.removesuffix("es")


def vocabulary_of(folder: Path | None) -> Vocabulary | None:
    """The vocabulary in a model's folder; None where there is none, or none that can be read."""
    file = folder / FILE if folder else None
    return _read(file, file.stat().st_mtime_ns) if file and file.is_file() else None


@lru_cache(maxsize=8)
def _read(file: Path, changed: int) -> Vocabulary | None:
    try:
        found = read_json(file)
        listed = {key: frozenset(map(str, found.get(key, ()))) for key in ("phrases", "words", "terms")}
        things, scenes, questions = (
            {str(language): tuple(map(str, texts)) for language, texts in found.get(key, {}).items()}
            for key in ("things", "scenes", "questions")
        )
    except (AppError, OSError, ValueError, AttributeError, TypeError):
        return None
    return Vocabulary(**listed, things=things, scenes=scenes, questions=questions)
