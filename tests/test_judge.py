"""The judge recognises rendered and disturbed pictures and rejects wrong ones."""

from __future__ import annotations

import numpy as np
from PIL import Image

from benchmarks.faithful import checks
from benchmarks.judge import look
from training.picture_tokenizer import random_scene
from training.pictures import SIDE, render
from training.scenes import Group, Plan, plan, seen_scene
from training.world import Item, Scene


def test_judge_names_everything_in_drawn_pictures() -> None:
    rng = np.random.default_rng(1)
    scenes = [seen_scene(rng) if i % 2 else random_scene(rng) for i in range(200)]
    assert all(look(render(s)).scene == s and look(render(s)).clear for s in scenes)


def test_judge_tolerates_noise_and_blur() -> None:
    rng = np.random.default_rng(2)
    right = 0
    for _ in range(100):
        scene = seen_scene(rng)
        pixels = np.asarray(render(scene).resize((90, 90)).resize((SIDE, SIDE)), dtype=float)
        pixels += rng.normal(0, 10, pixels.shape)
        right += look(np.clip(pixels, 0, 255).astype(np.uint8)).scene == scene
    assert right >= 98


def test_judge_reports_other_pictures_as_unclear() -> None:
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    assert len(look(noise).unclear) == 9
    shifted = np.roll(np.asarray(render(Scene.of(0, [Item(4, 0, 4)]))), 16, axis=1)
    assert not look(shifted).clear
    assert not look(Image.new("RGB", (SIDE, SIDE), (255, 0, 255))).clear


def test_wrong_picture_fails_exactly_the_matching_check() -> None:
    asked = Plan("relation", (Group(2, 4, 4, False, (0, 3)), Group(1, 14, 1, False, (5,))), 0, "left")

    def verdict(background: int, *items: Item) -> dict[str, bool]:
        return checks(asked, look(render(Scene.of(background, list(items)))))

    right = verdict(0, Item(4, 4, 0), Item(4, 4, 6), Item(14, 1, 5))
    assert all(right.values())
    wrong_side = verdict(0, Item(4, 4, 2), Item(4, 4, 8), Item(14, 1, 3))
    assert not wrong_side["place"] and wrong_side["colour"] and wrong_side["count"] and not wrong_side["all"]
    wrong_colour = verdict(0, Item(4, 5, 0), Item(4, 5, 6), Item(14, 1, 5))
    assert wrong_colour["object"] and wrong_colour["count"] and not wrong_colour["colour"]
    one_short = verdict(0, Item(4, 4, 0), Item(14, 1, 5))
    assert one_short["colour"] and not one_short["count"]
    other_thing = verdict(0, Item(5, 4, 0), Item(5, 4, 6), Item(14, 1, 5))
    assert not other_thing["object"]
    dark = verdict(3, Item(4, 4, 0), Item(4, 4, 6), Item(14, 1, 5))
    assert not dark["background"] and not dark["all"] and dark["object"]


def test_rendered_plans_pass_every_check() -> None:
    rng = np.random.default_rng(4)
    for i in range(200):
        p = plan(rng, held_out=bool(i % 2))
        assert all(checks(p, look(render(p.scene))).values()), p
