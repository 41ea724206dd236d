"""Captions of plans: the many ways people ask for a picture, in English and Chinese."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.objects import BACKGROUNDS, COLOURS, NUMBERS, NUMBERS_ZH, PLACES, PLACES_ZH, THINGS
from training.scenes import Group, Plan

RNG = np.random.Generator


def pick(rng: RNG, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def words(count: int, thing: int, colour: int, small: bool, rng: RNG | None = None) -> str:
    """ "a small red cat", "two green frogs"; with rng sometimes with digits, synonyms and redundant adjectives."""
    it = THINGS[thing]
    noun = it.name if count == 1 else it.plural
    size = "small" if small else ""
    hue = COLOURS[colour].name
    if rng is not None:
        alias = [a for a in it.aliases if a.isascii()]
        if alias and rng.random() < 0.15:
            noun = pick(rng, alias) + ("" if count == 1 else "s")
            noun = "puppies" if noun == "puppys" else "bunnies" if noun == "bunnys" else noun
        if small:
            size = pick(rng, ("small", "small", "little", "tiny"))
        elif rng.random() < 0.06:
            size = pick(rng, ("big", "large"))
    phrase = " ".join(w for w in (size, hue, noun) if w)
    if count == 1:
        return article(phrase) if rng is None or rng.random() < 0.85 else f"one {phrase}"
    number = NUMBERS[count] if rng is None or rng.random() < 0.8 else str(count)
    return f"{number} {phrase}"


def words_zh(count: int, thing: int, colour: int, small: bool, rng: RNG | None = None) -> str:
    """ "一只红色的猫", "两只绿色的青蛙"."""
    it = THINGS[thing]
    noun = it.zh
    hue = f"{COLOURS[colour].zh}色的" if colour else ""
    size = "小的" if small else ""
    number = NUMBERS_ZH[count]
    if rng is not None:
        alias = [a for a in it.aliases if not a.isascii()]
        if alias and rng.random() < 0.15:
            noun = pick(rng, alias)
        if not small and rng.random() < 0.05:
            size = "大的"
        if hue and rng.random() < 0.15:
            hue = hue[:-1]
        if rng.random() < 0.15:
            number = str(count)
        if count == 1 and rng.random() < 0.12:
            return f"{size}{hue}{noun}"
    return f"{number}{it.measure}{size}{hue}{noun}"


_RELATIONS = {
    "left": ("to the left of", "to the left of", "left of", "on the left of"),
    "right": ("to the right of", "to the right of", "right of", "on the right of"),
    "above": ("above", "above", "over", "on top of"),
    "below": ("below", "below", "under", "beneath"),
}
_RELATIONS_ZH = {
    "left": ("左边", "左侧"),
    "right": ("右边", "右侧"),
    "above": ("上面", "上方"),
    "below": ("下面", "下方"),
}
_OPENINGS = (
    *[""] * 9,
    "draw ",
    "please draw ",
    "a picture of ",
    "an image of ",
    "show me ",
    "paint ",
    "i want ",
    "generate ",
)
_OPENINGS_ZH = (*[""] * 7, "画", "请画", "画一张图:", "请画出", "我想要")


def caption(plan: Plan, rng: RNG) -> str:
    """A caption of the plan, two thirds of them in English; a white background is mostly not mentioned."""
    return _english(plan, rng) if rng.random() < 0.66 else _chinese(plan, rng)


def _join(parts: list[str], rng: RNG) -> str:
    if len(parts) == 2:
        return f"{parts[0]}{pick(rng, (' and ', ' and ', ' with ', ' next to '))}{parts[1]}"
    return ", ".join(parts[:-1]) + pick(rng, (" and ", ", and ")) + parts[-1]


def _group(g: Group, rng: RNG) -> str:
    return words(g.count, g.thing, g.colour, g.small, rng)


def _english(plan: Plan, rng: RNG) -> str:
    names = [_group(g, rng) for g in plan.groups]
    if plan.form in ("one", "many"):
        text = names[0]
    elif plan.form == "placed":
        text = f"{names[0]} {pick(rng, PLACES[plan.groups[0].slots[0]])}"
    elif plan.form == "two places":
        where = [pick(rng, PLACES[g.slots[0]]) for g in plan.groups]
        text = f"{names[0]} {where[0]} and {names[1]} {where[1]}"
    elif plan.form == "relation":
        text = f"{names[0]} {pick(rng, _RELATIONS[plan.relation])} {names[1]}"
    else:
        text = _join(names, rng)
    if plan.background or rng.random() < 0.25:
        ground = BACKGROUNDS[plan.background]
        text += ("," if rng.random() < 0.15 else "") + " " + pick(rng, ground.phrases + ground.scenes)
    text = pick(rng, _OPENINGS) + text
    if rng.random() < 0.4:
        text = text[0].upper() + text[1:]
    return text + ("." if rng.random() < 0.25 else "")


def _set_in(plan: Plan, text: str, rng: RNG) -> str:
    """The Chinese caption `text` with the words for the plan's background."""
    ground = BACKGROUNDS[plan.background]
    roll = rng.random()
    if rng.random() < 0.5:
        phrase = pick(rng, ground.zh_phrases)
        return f"{text},{phrase}" if roll < 0.7 else f"{phrase}上{',' if plan.form == 'two places' else '有'}{text}"
    scene = pick(rng, ground.zh_scenes)
    if plan.form in ("placed", "two places", "relation"):
        return f"{text},{scene}" if roll < 0.4 else f"{scene},{text}"
    if roll < 0.75:
        return scene + pick(rng, ("有", "的")) + text
    return f"{text}在{scene}" if roll < 0.9 else f"{text},{scene}"


def _chinese(plan: Plan, rng: RNG) -> str:
    names = [words_zh(g.count, g.thing, g.colour, g.small, rng) for g in plan.groups]
    if plan.form in ("one", "many"):
        text = names[0]
    elif plan.form == "placed":
        place = pick(rng, PLACES_ZH[plan.groups[0].slots[0]])
        text = pick(rng, (f"{place}有{names[0]}", f"{names[0]}在{place}", f"{place}的{names[0]}"))
    elif plan.form == "two places":
        where = [pick(rng, PLACES_ZH[g.slots[0]]) for g in plan.groups]
        text = f"{where[0]}有{names[0]},{where[1]}有{names[1]}"
    elif plan.form == "relation":
        side = pick(rng, _RELATIONS_ZH[plan.relation])
        other = names[1][2:] if plan.groups[1].count == 1 and names[1][0] == "一" and rng.random() < 0.6 else names[1]
        text = (
            f"{names[0]}在{names[1]}的{side}"
            if rng.random() < 0.6
            else f"{other}{pick(rng, ('', '的'))}{side}有{names[0]}"
        )
    else:
        text = "、".join(names[:-1]) + pick(rng, ("和", "和", "还有")) + names[-1]
    if plan.background or rng.random() < 0.25:
        text = _set_in(plan, text, rng)
    text = pick(rng, _OPENINGS_ZH) + text
    if rng.random() < 0.5:
        text = text.replace(",", ",")
    return text + ("。" if rng.random() < 0.25 else "")
