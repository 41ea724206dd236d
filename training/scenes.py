"""Scenes to be drawn, with the way their captions are put together, and scenes to be asked about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from training.objects import HELD_OUT_PAIRS, N_BACKGROUNDS, N_COLOURS, N_THINGS, held_out_order
from training.world import Item, Scene

RNG = np.random.Generator


@dataclass(frozen=True)
class Group:
    """Some objects of one kind, as a caption names them; `slots` in raster order."""

    count: int
    thing: int
    colour: int
    small: bool
    slots: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A scene to draw.

    form: "one", "placed", "many", "relation", "list" or "two places"; relation: left, right, above or below.
    """

    form: str
    groups: tuple[Group, ...]
    background: int
    relation: str = ""

    @property
    def scene(self) -> Scene:
        return Scene.of(
            self.background,
            [Item(g.thing, g.colour, slot, g.small) for g in self.groups for slot in g.slots],
        )


PLACES_MORE = 0.15  # share of the plans to learn from that are made to say two places
SMALL_MORE = 0.2  # share of the others whose first things are made small

# Positions of objects when only their number is given; the first is the usual one.
LAYOUTS: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((4,),),
    2: ((3, 5), (3, 5), (3, 4), (4, 5), (1, 7), (0, 8), (0, 2), (6, 8)),
    3: ((3, 4, 5), (3, 4, 5), (0, 1, 2), (6, 7, 8), (1, 4, 7), (0, 4, 8), (1, 6, 8)),
    4: ((0, 2, 6, 8), (0, 2, 6, 8), (0, 1, 3, 4), (3, 4, 6, 7), (1, 3, 5, 7), (4, 5, 7, 8)),
    5: ((0, 2, 4, 6, 8), (0, 1, 2, 3, 5), (1, 3, 4, 5, 7)),
}
LINES: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((1,), (1,), (0,), (2,)),
    2: ((0, 1), (0, 2), (1, 2)),
    3: ((0, 1, 2),),
}


def kind(rng: RNG, held_out: bool = False) -> tuple[int, int]:
    """A (thing, colour) pair: a third in natural colours; the held-out ones only when asked for."""
    if held_out:
        pairs = sorted(HELD_OUT_PAIRS)
        return pairs[int(rng.integers(len(pairs)))]
    while True:
        pair = (int(rng.integers(N_THINGS)), 0 if rng.random() < 0.35 else int(rng.integers(1, N_COLOURS)))
        if pair not in HELD_OUT_PAIRS:
            return pair


def two_kinds(rng: RNG, held_out: bool = False) -> list[tuple[int, int]]:
    while True:
        first, second = kind(rng), kind(rng)
        if first != second and held_out_order(first[0], second[0]) == held_out:
            return [first, second]


def background(rng: RNG) -> int:
    return 0 if rng.random() < 0.5 else int(rng.integers(1, N_BACKGROUNDS))


def _pick(rng: RNG, options: tuple) -> tuple:  # type: ignore[type-arg]
    return options[int(rng.integers(len(options)))]


def plan(rng: RNG, form: str = "", held_out: bool = False) -> Plan:
    """A random plan. held_out: one of its objects is a never-seen (thing, colour) pair, or, in a relation of two
    objects, the pair of objects was never seen in this order."""
    form = form or str(
        rng.choice(["one", "placed", "many", "relation", "list", "two places"], p=[0.2, 0.12, 0.2, 0.28, 0.15, 0.05])
    )
    ground = background(rng)
    small = bool(rng.random() < 0.12)
    if form in ("one", "placed"):
        slot = 4 if form == "one" else int(rng.integers(9))
        return Plan(form, (Group(1, *kind(rng, held_out), small, (slot,)),), ground)
    if form == "many":
        count = int(rng.integers(2, 5))
        return Plan(form, (Group(count, *kind(rng, held_out), small, _pick(rng, LAYOUTS[count])),), ground)
    if form == "two places":
        slots = sorted(rng.choice(9, 2, replace=False).tolist())
        first, second = two_kinds(rng, held_out)
        return Plan(form, (Group(1, *first, False, (slots[0],)), Group(1, *second, False, (slots[1],))), ground)
    if form == "relation":
        first, second = two_kinds(rng, held_out)
        counts = [(1, 1)] * 5 + [(2, 1), (3, 1), (1, 2), (2, 2), (1, 3)]
        a, b = counts[int(rng.integers(len(counts)))]
        along_a, along_b = _pick(rng, LINES[a]), _pick(rng, LINES[b])
        if a == b == 1:
            along_b = along_a  # single objects stand on one line
        near, far = (0, 2) if rng.random() < 0.7 else ((0, 1) if rng.random() < 0.5 else (1, 2))
        relation = str(rng.choice(["left", "right", "above", "below"]))
        line_a, line_b = (near, far) if relation in ("left", "above") else (far, near)
        across = relation in ("left", "right")
        slots_a = tuple(3 * i + line_a if across else 3 * line_a + i for i in along_a)
        slots_b = tuple(3 * i + line_b if across else 3 * line_b + i for i in along_b)
        return Plan(
            form, (Group(a, *first, small, slots_a), Group(b, *second, small and a > 1, slots_b)), ground, relation
        )
    kinds, counts = _list_of_kinds(rng, held_out)
    slots = list(_pick(rng, LAYOUTS[sum(counts)]))
    groups = []
    for (thing, colour), count in zip(kinds, counts, strict=True):
        groups.append(Group(count, thing, colour, False, tuple(slots[:count])))
        slots = slots[count:]
    return Plan("list", tuple(groups), ground)


def practised(rng: RNG) -> Plan:
    """A random plan to learn to draw: what is hard, or asked for when a picture is changed, is more frequent than in
    `plan`. Things whose places are said are named in any order."""
    if rng.random() < PLACES_MORE:
        p = plan(rng, "two places")
        first, second = p.groups
        turned = rng.random() < 0.5 and not held_out_order(second.thing, first.thing)
        return replace(p, groups=(second, first)) if turned else p
    p = plan(rng)
    if p.form not in ("many", "placed", "one", "relation") or rng.random() > SMALL_MORE:
        return p
    return replace(p, groups=(replace(p.groups[0], small=True), *p.groups[1:]))


def _list_of_kinds(rng: RNG, held_out: bool) -> tuple[list[tuple[int, int]], list[int]]:
    """Different things in reading order, at most five objects in all."""
    number = int(rng.choice([2, 3, 4], p=[0.5, 0.3, 0.2]))
    while True:
        kinds = [kind(rng, held_out and i == 0) for i in range(number)]
        orders = [held_out_order(a[0], b[0]) for i, a in enumerate(kinds) for b in kinds[i + 1 :]]
        if len({k[0] for k in kinds}) == number and not any(orders):
            break
    counts = [1] * number
    if number == 2 and rng.random() < 0.5:
        counts = [[2, 1], [1, 2], [2, 2], [3, 1], [3, 2]][int(rng.integers(5))]
    return kinds, counts


def seen_scene(rng: RNG) -> Scene:
    """A scene to talk about: half drawn after a plan, half free, with one to six objects anywhere."""
    if rng.random() < 0.5:
        return plan(rng).scene
    while True:
        number = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.2, 0.28, 0.22, 0.16, 0.08, 0.06]))
        kinds = [kind(rng) for _ in range(int(rng.integers(1, min(number, 3) + 1)))]
        slots = sorted(rng.choice(9, number, replace=False).tolist())
        items = [Item(*kinds[int(rng.integers(len(kinds)))], slot, bool(rng.random() < 0.15)) for slot in slots]
        order = [held_out_order(a.thing, b.thing) for a, b in pairwise(items)]
        if not any(order):
            return Scene.of(background(rng), items)


def settled(p: Plan) -> Plan:
    """The plan with everything decided that its caption leaves open."""
    counts = [group.count for group in p.groups]
    if p.form == "many":
        return replace(p, groups=(replace(p.groups[0], slots=LAYOUTS[counts[0]][0]),))
    if p.form == "list":
        slots, groups = list(LAYOUTS[sum(counts)][0]), list[Group]()
        for group in p.groups:
            groups.append(replace(group, slots=tuple(slots[: group.count])))
            slots = slots[group.count :]
        return replace(p, groups=tuple(groups))
    if p.form == "relation":
        first, second = p.groups
        lines = (0, 2) if p.relation in ("left", "above") else (2, 0)
        across = p.relation in ("left", "right")
        made = (
            replace(g, slots=tuple(3 * i + line if across else 3 * line + i for i in LINES[g.count][0]))
            for g, line in zip((first, second), lines, strict=True)
        )
        return replace(p, groups=tuple(made))
    return p
