"""Batches for training: captions with the tiles of their pictures, and conversations about pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from janus_app.models.common.prompts import SYSTEM
from training.captions import caption
from training.objects import COLOURS, N_THINGS, THINGS
from training.scenes import practised, seen_scene, settled
from training.small_talk import small_talk, unknown
from training.talk import TYPES, Exchange, ask, compare
from training.text_tokenizer import SPECIALS
from training.world import GRID, Item, Scene, grid

CELLS = GRID * GRID
BOS, EOS, PAD, BOI, IMAGE, _, USER, ASSISTANT, EOI = SPECIALS
RNG = np.random.Generator


class Words:
    """The text tokenizer and the ids of its special tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.bos, self.eos, self.pad, self.boi, self.image, _, self.user, self.assistant, self.eoi = (
            int(tokenizer.token_to_id(s))
            for s in SPECIALS  # type: ignore[arg-type]
        )
        self.prefix = [self.bos, *self.encode(f"{SYSTEM}\n\n")]

    @property
    def vocabulary(self) -> int:
        """The size of the embedding table: larger than the tokenizer's vocabulary, as in the real checkpoints."""
        return -(-self.tokenizer.get_vocab_size() // 64) * 64

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def parts(self, one: Exchange) -> list[tuple[int, tuple[int, ...]]]:
        """For every phrase of an answer that names objects: the index of its first token, and its slots."""
        text, found, at = f" {one.answer}", [], 0
        starts = [a for a, _ in self.tokenizer.encode(text, add_special_tokens=False).offsets] if one.parts else []
        for phrase, slots in one.parts:
            at = text.index(phrase, at)
            # An English word's token begins with the space before it.
            token = next(i for i, start in enumerate(starts) if start in (at, at - 1) or start > at)
            found.append((token, slots))
            at += len(phrase)
        return found

    def names(self) -> Tensor:
        """See `names_of`."""
        return names_of(self.tokenizer)


def names_of(tokenizer: Tokenizer) -> Tensor:
    """[N_THINGS + N_COLOURS, 3]: first tokens of the noun, plural and Chinese noun of every thing and colour."""
    names = [(f" {t.name}", f" {t.plural}", t.zh.lstrip("三")) for t in THINGS]  # mostly the number three
    names += [(f" {c.name}", f" {c.name}", c.zh) if c.name else (" natural", " grey", "原") for c in COLOURS]
    return torch.tensor([[tokenizer.encode(one, add_special_tokens=False).ids[0] for one in row] for row in names])


def things_of(names: Tensor, vocabulary: int) -> Tensor:
    """[vocabulary]: the thing that each token names, or -1; `names` from `names_of`."""
    things = torch.full((vocabulary,), -1)
    for thing, ids in enumerate(names[:N_THINGS].tolist()):
        things[ids] = thing
    return things


class Batch:
    """Tensors that are computed together; a dataclass of nothing but tensors."""

    def to(self, device: str) -> Self:
        return type(self)(*(tensor.to(device) for tensor in vars(self).values()))


@dataclass
class Drawings(Batch):
    """ids [n, L]: right-padded prompts that end with begin-of-image; ends [n]: its position; tiles [n, 36].

    usual [n, 36]: the tiles if what the prompt leaves open is decided as always (`scenes.settled`).
    """

    ids: Tensor
    ends: Tensor
    tiles: Tensor
    usual: Tensor


@dataclass
class Talks(Batch):
    """Conversations behind the shared prefix.

    ids [n, L]; picture [n, L] marks picture cells, answer [n, L] the positions t that learn to predict ids[t + 1];
    tiles [pictures, 36] in the order of the marked cells. about [n, L, 9]: from the last position of a question to the
    end of its answer, 1 for each slot that the answer, or the next word's phrase in a list, is about and 0 for the
    others; -1 elsewhere.
    """

    ids: Tensor
    picture: Tensor
    answer: Tensor
    tiles: Tensor
    about: Tensor


_WIDE = str.maketrans({"?": "\uff1f", ",": "\uff0c", "!": "\uff01", ":": "\uff1a"})


def as_typed(text: str, rng: RNG) -> str:
    """The text as different people type it: with full-width Chinese punctuation, in lower case, without a full stop."""
    text = text.strip()
    if any("\u4e00" <= c <= "\u9fff" for c in text) and rng.random() < 0.6:
        text = text.translate(_WIDE)
    roll = rng.random()
    if roll < 0.1 and text[-1] in "?.\uff1f。":
        return text[:-1] or text
    return text.lower() if roll > 0.9 else text


def padded(rows: list[list[int]], fill: int) -> Tensor:
    out = torch.full((len(rows), max(map(len, rows))), fill)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row)
    return out


def drawings(rng: RNG, words: Words, count: int, dropout: float = 0.1) -> Drawings:
    rows, tiles, usual = [], [], []
    for _ in range(count):
        p = practised(rng)
        ids = [words.bos, *words.encode(f"{USER}: {as_typed(caption(p, rng), rng)}\n\n{ASSISTANT}:"), words.boi]
        if rng.random() < dropout:
            ids[1:-1] = [words.pad] * (len(ids) - 2)
        rows.append(ids)
        tiles.append(grid(p.scene))
        usual.append(grid(settled(p).scene))
    ends = torch.tensor([len(r) - 1 for r in rows])
    shown = (torch.from_numpy(np.stack(one)) for one in (tiles, usual))
    return Drawings(padded(rows, words.pad), ends, *shown)


def _another(scene: Scene, rng: RNG) -> Scene:
    """A second picture to compare with: the same one, the same objects in another number, or any."""
    roll = rng.random()
    if roll < 0.25:
        return scene
    if roll < 0.6:
        free = [s for s in range(9) if s not in {i.slot for i in scene.items}]
        first = scene.items[0]
        items = list(scene.items) + [
            Item(first.thing, first.colour, s, first.small) for s in free[: int(rng.integers(1, 3))]
        ]
        return Scene.of(scene.background, items)
    return seen_scene(rng)


# Lists and neighbours are learned last, so they are asked about more often than people would.
_ASKED = np.array([0.24, 0.12, 0.17, 0.1, 0.09, 0.22, 0.03, 0.03])


def talk(rng: RNG, turns: int) -> tuple[list[Exchange], list[Scene]]:
    roll = rng.random()
    if roll < 0.06:
        return [Exchange("", *small_talk(rng), "") for _ in range(min(turns, 2))], []
    scene = seen_scene(rng)
    zh = rng.random() < 0.35
    if roll < 0.24:
        other = _another(scene, rng)
        return [compare(scene, other, rng, zh)], [scene, other]
    made: list[Exchange] = []
    for _ in range(turns):
        if rng.random() < 0.015:
            made.append(Exchange("", *unknown(rng, zh), ""))
        else:
            kind = str(rng.choice(TYPES, p=_ASKED))
            made.append(ask(scene, rng, zh if rng.random() < 0.9 else not zh, kind))
    return made, [scene]


def talks(rng: RNG, words: Words, count: int, parts: int = 3, cells: int = CELLS) -> list[Talks]:
    """`count` conversations in `parts` batches of similar length; in one batch, padding would be a third of the work.

    A picture takes `cells` positions of a prompt.
    """
    made = [talk(rng, int(rng.integers(2, 7))) for _ in range(count)]
    made.sort(key=lambda one: CELLS * len(one[1]) + sum(len(e.question) + len(e.answer) for e in one[0]) // 4)
    size = -(-count // parts)
    return [join(rng, words, made[i : i + size], cells) for i in range(0, count, size)]


def join(rng: RNG, words: Words, conversations: list[tuple[list[Exchange], list[Scene]]], cells: int) -> Talks:
    """Conversations and the pictures they are about in one batch."""
    rows, answers, pictures, tiles = [], [], [], []
    spans: list[tuple[int, int, int, tuple[int, ...]]] = []
    for made, scenes in conversations:
        ids: list[int] = []
        learn: list[bool] = []
        for turn, one in enumerate(made):
            shown = "".join(f"{BOI}{IMAGE * cells}{EOI}\n" for _ in scenes) if turn == 0 else ""
            asked = words.encode(f"{USER}: {shown}{as_typed(one.question, rng)}\n\n{ASSISTANT}:")
            answer = [*words.encode(f" {one.answer}"), words.eos]
            ids += asked + answer
            start = len(ids) - len(answer)
            marks = [(start - 1, one.slots)] if one.slots is not None else []
            marks += [(start + token - 1, slots) for token, slots in words.parts(one)]
            stops = [place for place, _ in marks[1:]] + [len(ids) - 1]
            spans += [(len(rows), place, stop, slots) for (place, slots), stop in zip(marks, stops, strict=bool(marks))]
            # position t learns to predict ids[t + 1]
            learn += [False] * (len(asked) - 1) + [True] * len(answer) + [False]
        rows.append(ids)
        answers.append([int(x) for x in learn])
        pictures.append([int(i == words.image) for i in ids])
        tiles += [grid(s) for s in scenes]
    everything = padded(rows, words.pad)
    about = torch.full((*everything.shape, (GRID // 2) ** 2), -1.0)
    for row, place, stop, slots in spans:
        about[row, place:stop] = 0
        about[row, place:stop, list(slots)] = 1
    return Talks(
        everything,
        padded(pictures, 0).bool(),
        padded(answers, 0).bool(),
        torch.from_numpy(np.stack(tiles) if tiles else np.zeros((0, CELLS), np.int64)),
        about,
    )
