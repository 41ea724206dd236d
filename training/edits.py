"""Edit triples: a picture, what to do with it in words, and the picture that should come out.

Six kinds: recolour, replace, remove, add, move and background. Methods that follow an instruction are given
`instruction`; methods that need a description of the finished picture are given captions of `before` and `after`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from training.captions import pick, words, words_zh
from training.objects import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_PAIRS,
    N_BACKGROUNDS,
    N_COLOURS,
    PLACES,
    PLACES_ZH,
    THINGS,
    held_out_order,
)
from training.scenes import Group, Plan, kind, plan

RNG = np.random.Generator
KINDS = ("recolour", "replace", "remove", "add", "move", "background")


@dataclass(frozen=True)
class Edit:
    """`slots` are the places of the 3 x 3 grid that change; none for "background", where everything does."""

    kind: str
    instruction: str
    before: Plan
    after: Plan
    slots: tuple[int, ...]


def edit(rng: RNG, name: str = "", zh: bool = False) -> Edit:
    """A random edit of the kind `name` (or any), its instruction in English or Chinese."""
    name = name or pick(rng, KINDS)
    maker = {
        "recolour": _recolour,
        "replace": _replace,
        "remove": _remove,
        "add": _add,
        "move": _move,
        "background": _background,
    }[name]
    while True:
        made = maker(_two_objects(rng), rng, zh)
        if not _held_out(made.before) and not _held_out(made.after):
            return made


def _held_out(p: Plan) -> bool:
    """Whether two of its objects stand in an order that training never shows."""
    items = p.scene.items
    return any(held_out_order(a.thing, b.thing) for a, b in pairwise(items))


def _two_objects(rng: RNG) -> Plan:
    """Two different things, one of each, side by side, one over the other or anywhere."""
    while True:
        p = plan(rng, pick(rng, ("relation", "relation", "two places")))
        things = {g.thing for g in p.groups}
        if len(things) == 2 and all(g.count == 1 and not g.small for g in p.groups):
            return p


def _noun(group: Group, zh: bool) -> str:
    return THINGS[group.thing].zh if zh else THINGS[group.thing].name


def _one(group: Group, zh: bool) -> str:
    return (words_zh if zh else words)(1, group.thing, group.colour, group.small)


def _changed(p: Plan, index: int, new: Group) -> Plan:
    return replace(p, groups=tuple(new if i == index else g for i, g in enumerate(p.groups)))


def _alone(p: Plan, index: int) -> Plan:
    return Plan("placed", (p.groups[index],), p.background)


def _recolour(p: Plan, rng: RNG, zh: bool) -> Edit:
    index = int(rng.integers(2))
    group = p.groups[index]
    while True:
        colour = int(rng.integers(1, N_COLOURS))
        if colour != group.colour and (group.thing, colour) not in HELD_OUT_PAIRS:
            break
    hue = COLOURS[colour].zh if zh else COLOURS[colour].name
    texts = (
        ("把{n}变成{c}色", "把{n}涂成{c}色的", "让{n}变成{c}色。")
        if zh
        else ("make the {n} {c}", "Paint the {n} {c}.", "change the colour of the {n} to {c}", "turn the {n} {c}")
    )
    text = pick(rng, texts).format(n=_noun(group, zh), c=hue)
    return Edit("recolour", text, p, _changed(p, index, replace(group, colour=colour)), group.slots)


def _replace(p: Plan, rng: RNG, zh: bool) -> Edit:
    index = int(rng.integers(2))
    group = p.groups[index]
    new = replace(group, **_other(p, rng))
    texts = (
        ("把{a}换成{b}", "用{b}代替{a}。", "把{a}替换成{b}")
        if zh
        else ("replace the {a} with {b}", "Turn the {a} into {b}.", "swap the {a} for {b}")
    )
    text = pick(rng, texts).format(a=_noun(group, zh), b=_one(new, zh))
    return Edit("replace", text, p, _changed(p, index, new), group.slots)


def _remove(p: Plan, rng: RNG, zh: bool) -> Edit:
    index = int(rng.integers(2))
    group = p.groups[index]
    texts = ("去掉{n}", "删除{n}。", "把{n}去掉") if zh else ("remove the {n}", "Delete the {n}.", "take away the {n}")
    return Edit("remove", pick(rng, texts).format(n=_noun(group, zh)), p, _alone(p, 1 - index), group.slots)


def _add(p: Plan, rng: RNG, zh: bool) -> Edit:
    index = int(rng.integers(2))
    group = p.groups[index]
    place = (PLACES_ZH if zh else PLACES)[group.slots[0]][0]
    texts = ("在{p}加{n}", "{p}加上{n}。", "在{p}画{n}") if zh else ("add {n} {p}", "Put {n} {p}.", "draw {n} {p}")
    text = pick(rng, texts).format(n=_one(group, zh), p=place)
    return Edit("add", text, _alone(p, 1 - index), p, group.slots)


def _move(p: Plan, rng: RNG, zh: bool) -> Edit:
    index = int(rng.integers(2))
    group = p.groups[index]
    taken = {g.slots[0] for g in p.groups}
    slot = int(rng.choice([s for s in range(9) if s not in taken]))
    place = (PLACES_ZH if zh else PLACES)[slot][0]
    texts = (
        ("把{n}移到{p}", "让{n}去{p}。")
        if zh
        else ("put the {n} {p}", "Move the {n} so that it is {p}.", "place the {n} {p}")
    )
    text = pick(rng, texts).format(n=_noun(group, zh), p=place)
    groups = tuple(replace(g, slots=(slot,)) if i == index else g for i, g in enumerate(p.groups))
    after = Plan("two places", groups, p.background)
    return Edit("move", text, p, after, (group.slots[0], slot))


def _background(p: Plan, rng: RNG, zh: bool) -> Edit:
    ground = int(rng.choice([b for b in range(N_BACKGROUNDS) if b != p.background]))
    to = BACKGROUNDS[ground]
    texts = (
        ("把背景换成{c}", "背景变成{c}的。", "换成{c}背景", "让它在{s}")
        if zh
        else ("make the background {c}", "Change the background to {c}.", "put it on a {c} background", "put it {s}")
    )
    words = {"c": to.zh, "s": pick(rng, to.zh_scenes)} if zh else {"c": to.name, "s": pick(rng, to.phrases + to.scenes)}
    return Edit("background", pick(rng, texts).format(**words), p, replace(p, background=ground), ())


def _other(p: Plan, rng: RNG) -> dict[str, int]:
    """Another thing than the plan's, in some colour."""
    here = {g.thing for g in p.groups}
    while True:
        thing, colour = kind(rng)
        if thing not in here:
            return {"thing": thing, "colour": colour}
