"""Sequences for Transfusion, LMFusion and LLaVAFusion: captions, instructions and conversations, with pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.batches import ASSISTANT, CELLS, EOS, USER, Batch, Words, as_typed, padded, talk
from training.captions import caption
from training.edits import KINDS as EDITS
from training.edits import edit
from training.metaquery_data import ASKED, among_others
from training.scenes import practised, settled
from training.talk import Exchange
from training.world import Scene, grid

RNG = np.random.Generator
NEXT = "\n"  # behind a picture of a conversation
NO_WORD = -1  # where nothing is to be predicted


@dataclass
class Sequences(Batch):
    """Pictures [n, P, 36] as tiles, words behind them, and pictures to draw behind these.

    ids [n, L]: words, padded on the right; ends [n]: how many there are. wanted [n, L]: the word that each is to be
    followed by, or NO_WORD. tiles [n or 0, 36]: of the picture to draw, which begin-of-picture comes before; usual: the
    same if what a caption leaves open is decided as always.
    """

    read: Tensor
    ids: Tensor
    ends: Tensor
    wanted: Tensor
    tiles: Tensor
    usual: Tensor


def _sequences(
    words: Words,
    read: list[list[Scene]],
    rows: list[list[int]],
    wanted: list[list[int]],
    drawn: list[Scene],
    usual: list[Scene],
) -> Sequences:
    shown = [np.stack([grid(scene) for scene in scenes]) if scenes else np.zeros((0, CELLS), int) for scenes in read]
    tiles = [[grid(scene) for scene in scenes] or np.zeros((0, CELLS), int) for scenes in (drawn, usual)]
    return Sequences(
        torch.from_numpy(np.stack(shown)),
        padded(rows, words.pad),
        torch.tensor([len(row) for row in rows]),
        padded(wanted, NO_WORD),
        *(torch.from_numpy(np.asarray(one)) for one in tiles),
    )


def drawings(rng: RNG, words: Words, count: int, dropout: float = 0.1) -> Sequences:
    """Captions, a share `dropout` of them empty, and their pictures."""
    rows, scenes, usual = [], [], []
    for _ in range(count):
        p = practised(rng)
        text = as_typed(caption(p, rng), rng) if rng.random() >= dropout else ""
        rows.append([*words.encode(text), words.boi])
        scenes.append(p.scene)
        usual.append(settled(p).scene)
    return _sequences(words, [[] for _ in rows], rows, [[NO_WORD] * len(row) for row in rows], scenes, usual)


def changes(rng: RNG, words: Words, count: int, dropout: float = 0.1) -> Sequences:
    """Pictures with instructions, a share `dropout` of them empty, and changed pictures."""
    rows, before, after = [], [], []
    for _ in range(count):
        made = edit(rng, str(rng.choice(EDITS, p=ASKED)), zh=bool(rng.random() < 0.34))
        one, other = among_others(made, rng)
        text = as_typed(made.instruction, rng) if rng.random() >= dropout else ""
        rows.append([*words.encode(text), words.boi])
        before.append([one])
        after.append(other)
    return _sequences(words, before, rows, [[NO_WORD] * len(row) for row in rows], after, after)


def talks(rng: RNG, words: Words, count: int) -> list[Sequences]:
    """Conversations about no, one and two pictures; those about as many are in one batch.

    They are written as the app's plain format has them: a line for each text.
    """

    def write(one: Exchange, first: bool) -> tuple[list[int], list[int]]:
        return words.encode(("" if first else "\n") + as_typed(one.question, rng)), words.encode(f"\n{one.answer}")

    return _conversations(rng, words, count, write)


def chats(rng: RNG, words: Words, count: int) -> list[Sequences]:
    """As `talks`, written as the embedded Janus has them. Without pictures they would teach a frozen half nothing."""

    def write(one: Exchange, first: bool) -> tuple[list[int], list[int]]:
        asked = f"{NEXT if first else f'{EOS}{USER}: '}{as_typed(one.question, rng)}\n\n{ASSISTANT}:"
        return words.encode(asked), words.encode(f" {one.answer}")

    return [batch for batch in _conversations(rng, words, count, write) if batch.read.shape[1]]


def _conversations(
    rng: RNG, words: Words, count: int, write: Callable[[Exchange, bool], tuple[list[int], list[int]]]
) -> list[Sequences]:
    """write: the ids of a question, the first or a later one, and those of its answer without its end."""
    found: dict[int, tuple[list[list[Scene]], list[list[int]], list[list[int]]]] = {}
    for _ in range(count):
        exchanges, scenes = talk(rng, int(rng.integers(1, 4)))
        ids, wanted = list[int](), list[int]()
        for one in exchanges:
            assert isinstance(one, Exchange)
            asked, answer = write(one, not ids)
            wanted += [*[NO_WORD] * (len(asked) - 1), *answer, words.eos]
            ids += asked + answer
        read, rows, targets = found.setdefault(len(scenes), ([], [], []))
        read.append(scenes)
        rows.append(ids)
        targets.append(wanted)
    return [_sequences(words, read, rows, targets, [], []) for read, rows, targets in found.values()]
