"""What a prompt in the words of the picture world asks for, so that the judge can say whether a picture shows it.

The reverse of training/captions.py, for prompts that people write: the examples of the manifest and of the docs.
"""

from __future__ import annotations

import re

from training.captions import _RELATIONS, _RELATIONS_ZH
from training.objects import BACKGROUNDS, COLOURS, NUMBERS, NUMBERS_ZH, PLACES, PLACES_ZH, THINGS
from training.scenes import Group, Plan

_NOUNS = {word: i for i, t in enumerate(THINGS) for word in (t.name, t.plural, *t.aliases, t.zh)}
_NOUNS |= {f"{w}s": i for w, i in _NOUNS.items() if w.isascii()} | {
    "puppies": _NOUNS["puppy"],
    "bunnies": _NOUNS["bunny"],
}
_HUES = {word: i for i, c in enumerate(COLOURS) if i for word in (c.name, f"{c.zh}色的", f"{c.zh}色", c.zh)}
_COUNTS = {"a": 1, "an": 1} | {w: i for names in (NUMBERS, NUMBERS_ZH) for i, w in enumerate(names)}


def _any(words: object) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))  # type: ignore[call-overload]


_COUNTED = rf"\b(?P<count>{_any(w for w in _COUNTS if w.isascii())}|\d) (?P<size>small |little |tiny |big |large )?"
_GROUP = re.compile(
    rf"{_COUNTED}(?:(?P<hue>{_any(w for w in _HUES if w.isascii())}) )?"
    rf"(?P<noun>{_any(w for w in _NOUNS if w.isascii())})\b"
)
_GROUP_ZH = re.compile(
    rf"(?P<count>[{''.join(NUMBERS_ZH)}\d])?(?:{_any({t.measure for t in THINGS})})?(?P<size>小的|大的)?"
    rf"(?P<hue>{_any(w for w in _HUES if not w.isascii())})?(?P<noun>{_any(w for w in _NOUNS if not w.isascii())})"
)


def asked(prompt: str) -> Plan:
    """The plan of a prompt in English or Chinese. Raises ValueError where it names no object of the world."""
    text, zh = prompt.lower(), not prompt.isascii()
    grounds = {
        p: i for i, b in enumerate(BACKGROUNDS) for p in (b.zh_phrases + b.zh_scenes if zh else b.phrases + b.scenes)
    }
    ground = next((p for p in sorted(grounds, key=len, reverse=True) if p in text), "")
    text = text.replace(ground, "") if ground else text
    found = list((_GROUP_ZH if zh else _GROUP).finditer(text))
    if not found:
        raise ValueError(prompt)
    places = {p: i for i, names in enumerate(PLACES_ZH if zh else PLACES) for p in names}
    relation = _relation(text, found, zh)
    slots: list[tuple[int, ...]] = []
    for number, group in enumerate(found):
        end = found[number + 1].start() if number + 1 < len(found) else len(text)
        near = text[found[number - 1].end() if number else 0 : group.start()] if zh else text[group.end() : end]
        if zh and len(found) == 1:
            near = text
        here = [] if relation else [p for p in places if p in near]
        slots.append((places[max(here, key=len)],) if here else ())
    groups = [
        Group(
            _COUNTS.get(m["count"] or "a") or int(m["count"]),
            _NOUNS[m["noun"]],
            _HUES[m["hue"]] if m["hue"] else 0,
            (m["size"] or "").strip() in ("small", "little", "tiny", "小的"),
            where,
        )
        for m, where in zip(found, slots, strict=True)
    ]
    if zh and relation and re.search(rf"({_any(sum(_RELATIONS_ZH.values(), ()))})有", text):
        groups.reverse()  # "beside B stands A"
    form = "relation" if relation else "placed" if any(slots) else "list" if len(groups) > 1 else "one"
    return Plan(form, tuple(groups), grounds.get(ground, 0), relation)


def _relation(text: str, found: list[re.Match[str]], zh: bool) -> str:
    """The relation of the first two objects, "" where the prompt names none."""
    if len(found) != 2:
        return ""
    if zh:
        sides = {side: rf"[^,，、](?:{_any(phrases)})" for side, phrases in _RELATIONS_ZH.items()}
    else:
        sides = {side: _any(phrases) for side, phrases in _RELATIONS.items()}
    between = text[found[0].end() - 1 : None if zh else found[1].start()]
    return next((side for side, phrase in sides.items() if re.search(phrase, between)), "")
