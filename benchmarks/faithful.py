"""Whether a picture, as the judge sees it, fits the plan it was drawn from."""

from __future__ import annotations

from collections import Counter

from benchmarks.judge import Verdict
from training.scenes import Plan
from training.world import Item


def checks(plan: Plan, verdict: Verdict) -> dict[str, bool]:
    """object, colour, count, place, background and all for one drawn picture.

    object: the right things and no others; colour: the right (thing, colour) pairs; count: the right number of each
    thing; place: the place or relation in the prompt, if any, is right. An unclear slot fails all but background.
    """
    seen = verdict.scene.items
    things = Counter(i.thing for i in seen)
    asked: Counter[int] = Counter()
    for g in plan.groups:
        asked[g.thing] += g.count
    clear = verdict.clear
    result = {
        "object": clear and set(things) == set(asked),
        "colour": clear and {(i.thing, i.colour) for i in seen} == {(g.thing, g.colour) for g in plan.groups},
        "count": clear and things == asked,
        "place": clear and _placed(plan, seen),
        "background": verdict.scene.background == plan.background,
    }
    kinds = Counter((i.thing, i.colour, i.small) for i in seen)
    wanted: Counter[tuple[int, int, bool]] = Counter()
    for g in plan.groups:
        wanted[g.thing, g.colour, g.small] += g.count
    return result | {"all": all(result.values()) and kinds == wanted}


def _placed(plan: Plan, seen: tuple[Item, ...]) -> bool:
    members = [[i for i in seen if (i.thing, i.colour) == (g.thing, g.colour)] for g in plan.groups]
    if not all(members):
        return False
    if plan.form in ("placed", "two places"):
        return all({i.slot for i in m} == set(g.slots) for m, g in zip(members, plan.groups, strict=True))
    if plan.form != "relation":
        return True
    first, second = members
    pairs = [(a, b) for a in first for b in second]
    return {
        "left": all(a.column < b.column for a, b in pairs),
        "right": all(a.column > b.column for a, b in pairs),
        "above": all(a.row < b.row for a, b in pairs),
        "below": all(a.row > b.row for a, b in pairs),
    }[plan.relation]


def names_place(plan: Plan) -> bool:
    return plan.form in ("placed", "two places", "relation")
