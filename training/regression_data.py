"""Conversations for the embedded MetaMorph and Pisces, in their prompt formats: questions, captions, instructions.

A caption must have one picture only: a language model that regresses vectors would otherwise learn their mean. So what
a caption leaves open (where three stars stand) is always decided in the same way.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from janus_app.models.regression.config import METAMORPH_PROMPT, PISCES_PROMPT, PromptFormat
from janus_app.models.regression.prompts import BEGIN, END, ROLE, ROLE_END, TURN_END
from training.batches import Batch, as_typed, names_of, padded, talk, things_of
from training.captions import caption
from training.edits import KINDS, edit
from training.metaquery_data import ASKED, among_others
from training.scenes import plan, settled
from training.talk import Exchange, ask
from training.text_tokenizer import SPECIALS
from training.world import GRID, Scene, grid

RNG = np.random.Generator
CELLS = GRID * GRID
PLACE, UNUSED = "<image_place>", "<|unused|>"


@dataclass(frozen=True)
class System:
    """What differs between the two systems.

    prompt: how their conversations are written. asked: other requests for a picture, in place of the usual one for a
    third of the captions. shared: whether the model writes the vectors that it reads, of unit length, by their
    direction; if not, it writes the codes of tiles, by their squared error. dropout: share of empty captions.
    discussed: share of drawings that a question about them follows.
    """

    prompt: PromptFormat
    asked: tuple[str, ...]
    shared: bool
    edits: bool
    dropout: float
    discussed: float


_ASKED = ("Let's think about this visually: {}",)
SYSTEMS = {
    "metamorph": System(METAMORPH_PROMPT, _ASKED, shared=True, edits=True, dropout=0, discussed=0.3),
    "pisces": System(PISCES_PROMPT, (), shared=False, edits=False, dropout=0.1, discussed=0),
}


def tokenizer_of(system: System, folder: Path, out: Path) -> Tokenizer:
    """The tokenizer of an embedded Janus, also saved in `out`.

    Its special tokens get the names of those of the system with nearly the same meaning.
    """
    start, stop = system.prompt.picture_start, system.prompt.picture_end
    text = (folder / "tokenizer.json").read_text("utf-8")
    own = (BEGIN, TURN_END, END, start, PLACE, UNUSED, ROLE, ROLE_END, stop)
    names = dict(zip(SPECIALS, own, strict=True))
    content = json.loads(text)
    for token in content["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {names.get(token, token): number for token, number in vocabulary.items()}
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    return Tokenizer.from_file(str(out / "tokenizer.json"))


class Format:
    """Ids of conversations as the checkpoint's prompts have them."""

    def __init__(self, system: System, tokenizer: Tokenizer) -> None:
        self.system, self.tokenizer, prompt = system, tokenizer, system.prompt
        self.place, self.start, self.stop, self.end, begin, self.pad = (
            int(tokenizer.token_to_id(name))  # type: ignore[arg-type]
            for name in (PLACE, prompt.picture_start, prompt.picture_end, TURN_END, BEGIN, END)
        )
        self.begin = [begin] * prompt.begins
        self.things = things_of(names_of(tokenizer), self.vocabulary)
        self.user, self.assistant = (
            self.encode(f"{ROLE}{role}{ROLE_END}{prompt.header_end}") for role in ("user", "assistant")
        )

    @property
    def vocabulary(self) -> int:
        """The size of the embedding table."""
        return -(-self.tokenizer.get_vocab_size() // 64) * 64

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    @property
    def picture(self) -> list[int]:
        return [self.start, *[self.place] * CELLS, self.stop]

    def question(self, text: str, pictures: int) -> list[int]:
        asked = self.picture * pictures + self.encode(f"\n{text}" if pictures else text)
        return [*self.user, *asked, self.end, *self.assistant]


@dataclass
class Conversations(Batch):
    """ids [n, L], padded on the right.

    place [n, L]: where a picture's vectors stand; word [n, L]: positions t that learn to predict ids[t + 1];
    vector [n, L]: positions t that learn to predict the vector at t + 1; tiles [pictures, 36]: of all pictures in
    order; wanted [pictures]: which of them are written by the model; named [n, L]: the thing that a word names, or -1.
    """

    ids: Tensor
    place: Tensor
    word: Tensor
    vector: Tensor
    tiles: Tensor
    wanted: Tensor
    named: Tensor


class _Rows:
    def __init__(self, form: Format) -> None:
        self.form = form
        self.ids: list[list[int]] = []
        self.word: list[list[int]] = []
        self.vector: list[list[int]] = []
        self.tiles: list[np.ndarray] = []
        self.wanted: list[bool] = []

    def begin(self) -> None:
        self.ids.append(list(self.form.begin))
        self.word.append([0] * len(self.form.begin))
        self.vector.append([0] * len(self.form.begin))

    def ask(self, text: str, scenes: list[Scene]) -> None:
        ids = self.form.question(text, len(scenes))
        self.ids[-1] += ids
        self.word[-1] += [0] * len(ids)
        self.vector[-1] += [0] * len(ids)
        self.tiles += [grid(scene) for scene in scenes]
        self.wanted += [False] * len(scenes)

    def answer(self, text: str, scene: Scene | None = None) -> None:
        words = self.form.encode(text) if text else []
        ids = [*words, *(self.form.picture if scene is not None else []), self.form.end]
        for id_ in ids:  # the position before each id predicts it
            self.word[-1][-1] = int(id_ != self.form.place)
            self.vector[-1][-1] = int(id_ == self.form.place)
            self.ids[-1].append(id_)
            self.word[-1].append(0)
            self.vector[-1].append(0)
        if scene is not None:
            self.tiles.append(grid(scene))
            self.wanted.append(True)

    def batch(self) -> Conversations:
        ids = padded(self.ids, self.form.pad)
        tiles = torch.from_numpy(np.stack(self.tiles)) if self.tiles else torch.zeros(0, CELLS, dtype=torch.long)
        marks = (padded(rows, 0).bool() for rows in (self.word, self.vector))
        wanted = torch.tensor(self.wanted, dtype=torch.bool)
        return Conversations(ids, ids == self.form.place, *marks, tiles, wanted, self.form.things[ids])


def drawings(rng: RNG, form: Format, count: int) -> Conversations:
    """Captions, some of them empty, and answers that are pictures; then questions about some of these."""
    rows, system = _Rows(form), form.system
    usual = system.prompt.drawing
    for _ in range(count):
        p = settled(plan(rng))
        words = as_typed(caption(p, rng), rng) if rng.random() >= system.dropout else ""
        asked = str(rng.choice(system.asked)) if system.asked and rng.random() < 1 / 3 else usual
        rows.begin()
        rows.ask(asked.format(words).strip(), [])
        rows.answer("", p.scene)
        if words and rng.random() < system.discussed:
            one = ask(p.scene, rng, zh=not words.isascii())
            rows.ask(as_typed(one.question, rng), [])
            rows.answer(one.answer)
    return rows.batch()


def changes(rng: RNG, form: Format, count: int) -> Conversations:
    """Pictures with instructions, and answers that are changed pictures."""
    rows = _Rows(form)
    for _ in range(count):
        made = edit(rng, str(rng.choice(KINDS, p=ASKED)), zh=bool(rng.random() < 0.34))
        before, after = among_others(made, rng)
        rows.begin()
        rows.ask(as_typed(made.instruction, rng), [before])
        rows.answer("", after)
    return rows.batch()


def talks(rng: RNG, form: Format, count: int) -> Conversations:
    """Conversations about pictures."""
    rows = _Rows(form)
    for _ in range(count):
        exchanges, scenes = talk(rng, int(rng.integers(1, 4)))
        rows.begin()
        for turn, one in enumerate(exchanges):
            assert isinstance(one, Exchange)
            rows.ask(as_typed(one.question, rng), scenes if turn == 0 else [])
            rows.answer(one.answer)
    return rows.batch()
