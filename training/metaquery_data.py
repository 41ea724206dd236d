"""Requests for the embedded MetaQuery: captions, instructions about a picture, and pictures to reproduce."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from training.batches import ASSISTANT, BOI, EOI, IMAGE, USER, Batch, Words, as_typed, padded
from training.captions import caption
from training.edits import KINDS, Edit, edit
from training.metaquery_model import SEEN
from training.objects import held_out_order
from training.scenes import kind, plan, practised, seen_scene, settled
from training.world import Item, Scene, grid

RNG = np.random.Generator
BLACK = -1  # the tile number of a black picture, which replaces the picture in the unconditional rows of guidance
_AS_IS = (
    "keep the picture as it is",
    "Draw the same picture.",
    "the same picture again",
    "不要改变图片",
    "画一张同样的图。",
)
# Probabilities of KINDS, in their order; the kinds that depend on a position are learned last and get the highest.
ASKED = np.array([0.2, 0.28, 0.15, 0.1, 0.19, 0.08])


@dataclass
class Asked(Batch):
    """ids [n, L]: right-padded prompts; ends [n]: their lengths; picture [n, L]: where pictures stand in them; seen
    [pictures, 36]: tiles of the pictures shown; tiles [n, 36]: tiles of the pictures to be drawn."""

    ids: Tensor
    ends: Tensor
    picture: Tensor
    seen: Tensor
    tiles: Tensor


def prompt(words: Words, text: str, pictures: int) -> list[int]:
    """Ids of a prompt up to the queries, as the checkpoint's chat template writes it."""
    shown = f"{BOI}{IMAGE * SEEN}{EOI}\n" * pictures
    return [*words.prefix, *words.encode(f"{USER}: {shown}{text}\n\n{ASSISTANT}:\n")]


def captions(rng: RNG, words: Words, count: int, dropout: float) -> Asked:
    """Captions with their pictures; the caption is empty for a share `dropout` of them, for guidance."""
    rows, tiles = [], []
    for _ in range(count):
        p = settled(practised(rng))
        text = as_typed(caption(p, rng), rng)
        rows.append(prompt(words, "" if rng.random() < dropout else text, 0))
        tiles.append(grid(p.scene))
    return _asked(words, rows, [], tiles)


def instructions(rng: RNG, words: Words, count: int, dropout: float) -> Asked:
    """Pictures with instructions; one in six is to be reproduced unchanged.

    dropout: the share with a black picture and no instruction. A picture without an instruction is reproduced, so that
    guidance points from the unchanged picture towards the change.
    """
    rows, seen, tiles = [], [], []
    for _ in range(count):
        roll = rng.random()
        if roll < dropout:
            before, after, text = np.full(36, BLACK), grid(plan(rng).scene), ""
        elif roll < dropout + 0.16:
            scene = grid(seen_scene(rng))
            before, after = scene, scene
            text = "" if rng.random() < 0.7 else _AS_IS[int(rng.integers(len(_AS_IS)))]
        else:
            made = edit(rng, str(rng.choice(KINDS, p=ASKED)), zh=bool(rng.random() < 0.34))
            before, after = (grid(scene) for scene in among_others(made, rng))
            text = as_typed(made.instruction, rng)
        rows.append(prompt(words, text, 1))
        seen.append(before)
        tiles.append(after)
    return _asked(words, rows, seen, tiles)


def among_others(made: Edit, rng: RNG) -> tuple[Scene, Scene]:
    """The scenes before and after an edit, in half of the cases with one to three other, unchanged objects."""
    before, after = made.before.scene, made.after.scene
    items = [*before.items, *after.items]
    free = sorted(set(range(9)) - {item.slot for item in items})
    kinds = [kind(rng) for _ in range(2)]
    slots = rng.choice(free, int(rng.choice([0, 0, 0, 1, 2, 3])), replace=False).tolist()
    more = [Item(*kinds[int(rng.integers(2))], slot, bool(rng.random() < 0.1)) for slot in slots]
    both = [Scene.of(scene.background, [*scene.items, *more]) for scene in (before, after)]
    orders = [held_out_order(a.thing, b.thing) for scene in both for a, b in pairwise(scene.items)]
    if {thing for thing, _ in kinds} & {item.thing for item in items} or any(orders):
        return before, after
    return both[0], both[1]


def _asked(words: Words, rows: list[list[int]], seen: list[np.ndarray], tiles: list[np.ndarray]) -> Asked:
    ids = padded(rows, words.pad)
    shown = torch.from_numpy(np.stack(seen)) if seen else torch.zeros(0, 36, dtype=torch.long)
    ends = torch.tensor([len(row) for row in rows])
    return Asked(ids, ends, ids == words.image, shown, torch.from_numpy(np.stack(tiles)))
