"""Questions about pictures and their true answers, in English and Chinese.

A question's wording decides the answer's wording, so that an answer's only uncertainty is what is in the picture.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from training.captions import article, pick, words, words_zh
from training.objects import BACKGROUNDS, COLOURS, N_THINGS, NUMBERS, NUMBERS_ZH, PLACES, PLACES_ZH, THINGS
from training.world import Item, Scene

RNG = np.random.Generator


@dataclass(frozen=True)
class Exchange:
    """A question and its answer; `type` is what quality is reported by, `key` the words a right answer must hold,
    `slots` the places of the picture that the answer is about, None where that says nothing; `parts` the phrases of
    an answer that name what is seen, in order, with the slots each is about."""

    type: str
    question: str
    answer: str
    key: str
    slots: tuple[int, ...] | None = None
    parts: tuple[tuple[str, tuple[int, ...]], ...] = ()


TYPES = ("what", "colour", "count", "where", "yes or no", "relation", "background", "size")
_WEIGHTS = np.array([0.2, 0.15, 0.19, 0.12, 0.16, 0.1, 0.05, 0.03])


def kinds_of(scene: Scene) -> list[tuple[int, tuple[int, int, bool]]]:
    """(count, (thing, colour, small)) of the scene's kinds, in the order their first object is read."""
    return [(n, k) for k, n in Counter((i.thing, i.colour, i.small) for i in scene.items).items()]


def listing(scene: Scene, zh: bool) -> str:
    names = [(words_zh if zh else words)(n, *k) for n, k in kinds_of(scene)]
    if zh:
        return "、".join(names[:-1]) + ("和" if len(names) > 1 else "") + names[-1]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _parts(scene: Scene, zh: bool) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The phrases of `listing` and where each one's objects stand."""
    return tuple(
        (
            (words_zh if zh else words)(n, *k),
            tuple(i.slot for i in scene.items if (i.thing, i.colour, i.small) == k),
        )
        for n, k in kinds_of(scene)
    )


def _hue(item: Item, zh: bool) -> str:
    shape = not THINGS[item.thing].icon
    if zh:
        return f"{COLOURS[item.colour].zh}色" if item.colour else ("灰色" if shape else "原色")
    return COLOURS[item.colour].name or ("grey" if shape else "in its natural colours")


def ask(scene: Scene, rng: RNG, zh: bool, kind: str = "") -> Exchange:
    """A random question of `kind` (or any) about the scene; falls back to "what" where the scene cannot be asked so."""
    kind = kind or str(rng.choice(TYPES, p=_WEIGHTS))
    maker = {
        "what": _what,
        "colour": _colour,
        "count": _count,
        "where": _where,
        "yes or no": _yes_no,
        "relation": _relation,
        "background": _background,
        "size": _size,
    }[kind]
    return maker(scene, rng, zh) or _what(scene, rng, zh)


def _what(scene: Scene, rng: RNG, zh: bool) -> Exchange:
    ground, parts = BACKGROUNDS[scene.background], _parts(scene, zh)
    if zh:
        key = listing(scene, True)
        if rng.random() < 0.5:
            question = pick(rng, ("这是什么?", "图里有什么?", "你看到了什么?", "图片里有什么"))
            return Exchange("what", question, f"{key}。", key, parts=parts)
        question = pick(rng, ("描述这张图片。", "描述一下这张图", "请描述图片"))
        return Exchange("what", question, f"{ground.zh}背景上有{key}。", f"{ground.zh}背景上有{key}", parts=parts)
    key = listing(scene, False)
    if rng.random() < 0.5:
        question = pick(
            rng,
            (
                "What is this?",
                "What is in the picture?",
                "What do you see?",
                "what's this?",
                "What can you see in this picture?",
                "What is in this image?",
                "what is this",
            ),
        )
        return Exchange("what", question, f"I see {key}.", key, parts=parts)
    question = pick(
        rng,
        (
            "Describe the picture.",
            "Describe this image.",
            "describe the picture",
            "describe it",
            "Please describe the picture.",
            "Describe the image in detail.",
        ),
    )
    text = f"The picture shows {key} on a {ground.name} background."
    return Exchange("what", question, text, f"{key} on a {ground.name}", parts=parts)


def _unique(scene: Scene) -> list[Item]:
    """Objects whose thing stands in the scene once."""
    counts = Counter(i.thing for i in scene.items)
    return [i for i in scene.items if counts[i.thing] == 1]


def _slots(scene: Scene, thing: int) -> tuple[int, ...]:
    return tuple(i.slot for i in scene.items if i.thing == thing)


def _some(rng: RNG, items: list[Item]) -> Item:
    return items[int(rng.integers(len(items)))]


def _absent(scene: Scene, rng: RNG) -> int:
    here = {i.thing for i in scene.items}
    while True:
        thing = int(rng.integers(N_THINGS))
        if thing not in here:
            return thing


def _no_such(rng: RNG, scene: Scene, kind: str, question: str, question_zh: str, zh: bool) -> Exchange:
    it = THINGS[_absent(scene, rng)]
    if zh:
        return Exchange(kind, question_zh.format(it.zh), f"图里没有{it.zh}。", f"没有{it.zh}", ())
    return Exchange(kind, question.format(it.name), f"There is no {it.name} in the picture.", f"no {it.name}", ())


def _colour(scene: Scene, rng: RNG, zh: bool) -> Exchange | None:
    if rng.random() < 0.25:
        return _their_colour(scene, rng, zh)
    question = pick(
        rng, ("What colour is the {}?", "What color is the {}?", "what color is the {}", "Which colour is the {}?")
    )
    question_zh = pick(rng, ("{}是什么颜色?", "{}是什么颜色的?", "{}什么颜色"))
    if rng.random() < 0.08:
        return _no_such(rng, scene, "colour", question, question_zh, zh)
    items = _unique(scene) or ([scene.items[0]] if len({(i.thing, i.colour) for i in scene.items}) == 1 else [])
    if not items:
        return None
    item = _some(rng, items)
    it, hue = THINGS[item.thing], _hue(item, zh)
    slots = _slots(scene, item.thing)
    if zh:
        return Exchange("colour", question_zh.format(it.zh), f"{it.zh}是{hue}的。", hue, slots)
    if sum(i.thing == item.thing for i in scene.items) > 1:
        hue = hue.replace("its", "their")
        return Exchange("colour", f"What colour are the {it.plural}?", f"The {it.plural} are {hue}.", hue, slots)
    return Exchange("colour", question.format(it.name), f"The {it.name} is {hue}.", hue, slots)


def _their_colour(scene: Scene, rng: RNG, zh: bool) -> Exchange:
    """The colour of all objects, which the question does not name; a list of them if they differ in colour."""
    alone, slots = len(scene.items) == 1, tuple(i.slot for i in scene.items)
    if zh:
        they = "它" if alone else "它们"
        question = pick(rng, ("{}是什么颜色?", "{}是什么颜色的?", "{}什么颜色")).format(they)
    else:
        question = pick(rng, ("What colour {}?", "What color {}?", "what color {}", "Which colour {}?"))
        question = question.format("is it" if alone else "are they")
    hues = {_hue(i, zh) for i in scene.items}
    if len(hues) > 1:
        key, parts = listing(scene, zh), _parts(scene, zh)
        return Exchange("colour", question, f"{key}。" if zh else f"I see {key}.", key, slots, parts)
    hue = hues.pop()
    if zh:
        return Exchange("colour", question, f"{they}是{hue}的。", hue, slots)
    if not alone:
        hue = hue.replace("its", "their")
    return Exchange("colour", question, f"{'It is' if alone else 'They are'} {hue}.", hue, slots)


def _count(scene: Scene, rng: RNG, zh: bool) -> Exchange:
    if rng.random() < 0.2:
        n = len(scene.items)
        if zh:
            question = pick(rng, ("图里一共有几个东西?", "一共有多少个物体?", "有几个东西?"))
            return Exchange("count", question, f"一共有{NUMBERS_ZH[n]}个。", f"有{NUMBERS_ZH[n]}个")
        question = pick(
            rng, ("How many objects are there?", "How many things are in the picture?", "how many objects?")
        )
        text = "There is one object." if n == 1 else f"There are {NUMBERS[n]} objects."
        return Exchange("count", question, text, NUMBERS[n])
    if rng.random() < 0.15:
        thing, n = _absent(scene, rng), 0
    else:
        thing = _some(rng, list(scene.items)).thing
        n = sum(i.thing == thing for i in scene.items)
    it, slots = THINGS[thing], _slots(scene, thing)
    if zh:
        question = pick(rng, ("有几{m}{n}?", "图里有几{m}{n}?", "有多少{m}{n}?", "几{m}{n}")).format(
            m=it.measure, n=it.zh
        )
        text = f"有{NUMBERS_ZH[n]}{it.measure}{it.zh}。" if n else f"图里没有{it.zh}。"
        return Exchange("count", question, text, text[1:-1] if n else "没有", slots)
    question = pick(
        rng,
        (
            "How many {} are there?",
            "How many {} are in the picture?",
            "how many {}?",
            "How many {} do you see?",
            "How many {}?",
        ),
    )
    text = (
        f"There are no {it.plural}."
        if n == 0
        else f"There is one {it.name}."
        if n == 1
        else f"There are {NUMBERS[n]} {it.plural}."
    )
    return Exchange("count", question.format(it.plural), text, "no" if n == 0 else NUMBERS[n], slots)


def _where(scene: Scene, rng: RNG, zh: bool) -> Exchange | None:
    question, question_zh = (
        pick(rng, ("Where is the {}?", "where is the {}", "In which place is the {}?")),
        pick(rng, ("{}在哪里?", "{}在哪?", "{}在什么位置?")),
    )
    if rng.random() < 0.08:
        return _no_such(rng, scene, "where", question, question_zh, zh)
    if not _unique(scene):
        return None
    item = _some(rng, _unique(scene))
    it, slots = THINGS[item.thing], (item.slot,)
    if zh:
        place = PLACES_ZH[item.slot][0]
        return Exchange("where", question_zh.format(it.zh), f"{it.zh}在{place}。", place, slots)
    place = PLACES[item.slot][0]
    return Exchange("where", question.format(it.name), f"The {it.name} is {place}.", place, slots)


def _yes_no(scene: Scene, rng: RNG, zh: bool) -> Exchange:
    item = _some(rng, list(scene.items))
    thing, colour, yes = item.thing, item.colour, bool(rng.random() < 0.5)
    with_colour = bool(colour) and rng.random() < 0.5
    if not yes:
        if with_colour and rng.random() < 0.7:
            here = {i.colour for i in scene.items if i.thing == thing}
            colour = int(rng.choice([c for c in range(1, 8) if c not in here]))
        else:
            thing = _absent(scene, rng)
    slots = tuple(i.slot for i in scene.items if i.thing == thing and (not with_colour or i.colour == colour))
    if zh:
        name = (f"{COLOURS[colour].zh}色的" if with_colour else "") + THINGS[thing].zh
        question = pick(rng, ("图里有{}吗?", "有{}吗?", "有没有{}?")).format(name)
        text = f"有,图里有{name}。" if yes else f"没有,图里没有{name}。"
        return Exchange("yes or no", question, text, "有," if yes else "没有,", slots)
    name = article((f"{COLOURS[colour].name} " if with_colour else "") + THINGS[thing].name)
    question = pick(rng, ("Is there {}?", "Is there {} in the picture?", "Do you see {}?", "is there {}")).format(name)
    return Exchange(
        "yes or no",
        question,
        f"Yes, there is {name}." if yes else f"No, there is no {name.split(' ', 1)[1]}.",
        "Yes" if yes else "No",
        slots,
    )


def _relation(scene: Scene, rng: RNG, zh: bool) -> Exchange | None:
    anchors = _unique(scene)
    if not anchors or len(scene.items) < 2:
        return None
    anchor = _some(rng, anchors)
    side = str(rng.choice(["left", "right", "above", "below"]))
    if rng.random() < 0.6:  # mostly a side on which there is something, as people ask
        other = _some(rng, [i for i in scene.items if i is not anchor])
        dx, dy = other.column - anchor.column, other.row - anchor.row
        sides = [s for s, on in (("left", dx < 0), ("right", dx > 0), ("above", dy < 0), ("below", dy > 0)) if on]
        side = pick(rng, sides)
    found = [i for i in scene.items if _on_side(i, anchor, side)]
    if len({(i.thing, i.colour, i.small) for i in found}) > 1:
        return None
    # The whole side: it is known from the anchor alone, and what stands there is then found in one more layer.
    slots = tuple(s for s in range(9) if _on_side(replace(anchor, slot=s), anchor, side))
    name, name_zh = THINGS[anchor.thing].name, THINGS[anchor.thing].zh
    if zh:
        place = {"left": "左边", "right": "右边", "above": "上面", "below": "下面"}[side]
        question = pick(rng, ("{}的{}有什么?", "{}{}是什么?", "{}的{}是什么?")).format(name_zh, place)
        if not found:
            return Exchange("relation", question, f"{name_zh}的{place}什么都没有。", "什么都没有", slots)
        key = words_zh(len(found), found[0].thing, found[0].colour, found[0].small)
        return Exchange("relation", question, f"{name_zh}的{place}有{key}。", key, slots, ((key, slots),))
    place = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}[side]
    question = pick(rng, ("What is {} the {}?", "what is {} the {}", "What do you see {} the {}?")).format(place, name)
    if not found:
        return Exchange("relation", question, f"There is nothing {place} the {name}.", "nothing", slots)
    key = words(len(found), found[0].thing, found[0].colour, found[0].small)
    answer = f"There {'is' if len(found) == 1 else 'are'} {key}."
    return Exchange("relation", question, answer, key, slots, ((key, slots),))


def _on_side(item: Item, anchor: Item, side: str) -> bool:
    return {
        "left": item.column < anchor.column,
        "right": item.column > anchor.column,
        "above": item.row < anchor.row,
        "below": item.row > anchor.row,
    }[side]


def _background(scene: Scene, rng: RNG, zh: bool) -> Exchange:
    ground = BACKGROUNDS[scene.background]
    if zh:
        return Exchange(
            "background",
            pick(rng, ("背景是什么颜色?", "背景是什么颜色的?", "背景什么颜色")),
            f"背景是{ground.zh}的。",
            ground.zh,
        )
    question = pick(rng, ("What colour is the background?", "What color is the background?", "what is the background?"))
    return Exchange("background", question, f"The background is {ground.name}.", ground.name)


def _size(scene: Scene, rng: RNG, zh: bool) -> Exchange | None:
    items = _unique(scene)
    if not items:
        return None
    small = [i for i in items if i.small]
    item = _some(rng, small if small and rng.random() < 0.5 else items)
    it = THINGS[item.thing]
    if zh:
        return Exchange(
            "size",
            f"{it.zh}是大的还是小的?",
            f"{it.zh}是{'小' if item.small else '大'}的。",
            "小的。" if item.small else "大的。",
            (item.slot,),
        )
    word = "small" if item.small else "big"
    return Exchange(
        "size",
        pick(rng, ("Is the {} big or small?", "How big is the {}?")).format(it.name),
        f"The {it.name} is {word}.",
        f"is {word}",
        (item.slot,),
    )


def compare(first: Scene, second: Scene, rng: RNG, zh: bool) -> Exchange:
    """A question about two pictures, the first and the second."""
    if rng.random() < 0.35:
        same = first == second
        if zh:
            return Exchange(
                "compare",
                pick(rng, ("两张图一样吗?", "这两张图片相同吗?")),
                "一样。" if same else "不一样。",
                "不一样" if not same else "一样",
            )
        question = pick(rng, ("Are the two pictures the same?", "Are these pictures the same?"))
        return Exchange(
            "compare",
            question,
            "Yes, they are the same." if same else "No, they are different.",
            "Yes" if same else "No",
        )
    thing = _some(rng, [*first.items, *second.items]).thing
    a, b = (sum(i.thing == thing for i in s.items) for s in (first, second))
    it = THINGS[thing]
    if zh:
        text = "第一张图。" if a > b else "第二张图。" if b > a else "一样多。"
        return Exchange("compare", f"哪张图里的{it.zh}更多?", text, text[:-1])
    text = "The first picture." if a > b else "The second picture." if b > a else "Both have the same number."
    return Exchange(
        "compare",
        pick(rng, ("Which picture has more {}?", "which one has more {}?")).format(it.plural),
        text,
        text.split()[1] if a != b else "same",
    )
