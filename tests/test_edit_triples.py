"""The edit triples of the training: each names one change, the pictures differ by it alone, and the judge is right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.editing import judged, mask_of, unmasked_kept
from benchmarks.judge import look
from training.edits import KINDS, edit
from training.objects import BACKGROUNDS, COLOURS, N_BACKGROUNDS, THINGS
from training.pictures import render
from training.world import Scene


@pytest.mark.parametrize("kind", KINDS)
def test_edit_changes_only_the_named_slots(kind: str) -> None:
    rng = np.random.default_rng(5)
    for i in range(60):
        made = edit(rng, kind, zh=bool(i % 2))
        before, after = ({x.slot: x for x in p.scene.items} for p in (made.before, made.after))
        assert {s for s in range(9) if before.get(s) != after.get(s)} == set(made.slots)
        assert (made.before.background != made.after.background) == (kind == "background")


def test_instruction_names_the_change() -> None:
    rng = np.random.default_rng(6)
    for i in range(40):
        zh = bool(i % 2)
        made = edit(rng, "recolour", zh)
        (group,) = [g for g in made.after.groups if g not in made.before.groups]
        thing, hue = THINGS[group.thing], COLOURS[group.colour]
        assert (thing.zh if zh else thing.name) in made.instruction
        assert (hue.zh if zh else hue.name) in made.instruction
        ground = edit(rng, "background", zh)
        to = BACKGROUNDS[ground.after.background]
        names = (to.zh, *to.zh_scenes) if zh else (to.name, *to.phrases, *to.scenes)
        others = [b for b in BACKGROUNDS if b is not to]
        assert any(name in ground.instruction for name in names), ground.instruction
        assert not any(name in ground.instruction for b in others for name in (b.zh_scenes if zh else b.scenes))


def test_judge_tells_right_edits_from_wrong_ones() -> None:
    rng = np.random.default_rng(7)
    for i in range(100):
        made = edit(rng, zh=bool(i % 2))
        assert judged(made, look(render(made.after.scene))) == (True, True)
        there, _ = judged(made, look(render(made.before.scene)))
        assert not there, made
        # The change is made but something else changed too.
        other = (made.after.background + 1) % N_BACKGROUNDS
        if made.kind != "background":
            spoilt = look(render(Scene.of(other, list(made.after.scene.items))))
            assert judged(made, spoilt) == (True, False)
        else:
            moved = [replace(x, slot=(x.slot + 1) % 9) for x in made.after.scene.items]
            assert judged(made, look(render(Scene.of(made.after.background, moved)))) == (True, False)


def test_kept_pixels_are_compared_only_outside_the_mask() -> None:
    rng = np.random.default_rng(8)
    made = edit(rng, "replace")
    assert np.asarray(mask_of(made.slots)).sum() == 255 * 64 * 64
    assert unmasked_kept(made.before.scene, render(made.after.scene), made.slots)
    assert not unmasked_kept(made.before.scene, render(edit(rng, "background").after.scene), made.slots)
