"""Captions with a word that cannot be read, and what is learned from them."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from janus_app.paths import ASSETS
from training.batches import Words, things_of
from training.hidden_words import Known, blends, hide, known, meanings_of
from training.joint import tile_loss
from training.objects import COLOURS, INDEX, N_BACKGROUNDS, N_COLOURS, N_THINGS
from training.world import KINDS, Item, Scene, grid, tile_factors

ORANGE, RED = (next(i for i, c in enumerate(COLOURS) if c.name == name) for name in ("orange", "red"))


@pytest.fixture(scope="module")
def words() -> Words:
    return Words(Tokenizer.from_file(str(ASSETS / "janus_embedded" / "tokenizer.json")))


@pytest.fixture(scope="module")
def meanings(words: Words) -> Tensor:
    return meanings_of(words.names(), words.vocabulary)


def ids_of(words: Words, text: str) -> list[int]:
    return words.encode(f" {text}")


def test_words_mean_things_and_colours_in_both_languages(words: Words, meanings: Tensor) -> None:
    for text, meant in (
        ("car", INDEX["car"]),
        ("cars", INDEX["car"]),
        ("汽车", INDEX["car"]),
        ("red", N_THINGS + RED),
        ("红", N_THINGS + RED),
    ):
        assert meant in meanings[ids_of(words, text)].tolist(), text
    assert meanings[ids_of(words, "draw two on the")].tolist() == [-1] * 4
    things = things_of(words.names(), words.vocabulary)
    assert torch.equal(torch.where(meanings < N_THINGS, meanings, -1), things)


def test_one_meaning_is_hidden_wherever_it_stands_and_nothing_else_changes(words: Words, meanings: Tensor) -> None:
    torch.manual_seed(0)
    ids = torch.tensor([ids_of(words, "a red car above a red house")] * 400)
    embeds = torch.randn(words.vocabulary, 8)[ids]
    changed, hidden = hide(embeds, ids, meanings, 0.5)
    places = (changed != embeds).any(-1)
    assert torch.equal(places, (meanings[ids] == hidden[:, None]) & (hidden >= 0)[:, None])
    assert {int(n) for n in places[hidden == N_THINGS + RED].sum(1)} == {2}, "a word that occurs twice"
    shares = {meant: float((hidden == meant).float().mean()) for meant in set(hidden.tolist())}
    assert shares.keys() == {-1, N_THINGS + RED, INDEX["car"], INDEX["house"]} and 0.4 < shares[-1] < 0.6
    assert (hide(embeds, ids, meanings, 0.0)[1] == -1).all()
    nothing = torch.tensor([ids_of(words, "draw it")])
    assert hide(embeds[:1, :2], nothing[:, :2], meanings, 1.0)[1].tolist() == [-1], "no word that could be hidden"


def test_blends_are_of_two_words_of_the_sort_that_is_hidden_and_never_of_that_word(
    words: Words, meanings: Tensor
) -> None:
    torch.manual_seed(0)
    ids = torch.tensor([ids_of(words, "a red car above a blue house"), ids_of(words, "a green cup on a pink bus")] * 50)
    embeds = torch.eye(words.vocabulary)[ids]
    hidden = torch.tensor([N_THINGS + RED, INDEX["bus"]] * 50)
    blend, found = blends(embeds, meanings[ids], hidden)
    assert found.all() and torch.allclose(blend.sum(1), torch.ones(100))
    for row, meant in zip(blend, hidden.tolist(), strict=True):
        (tokens,) = row.nonzero(as_tuple=True)
        named = meanings[tokens]
        assert len(tokens) == 2 and named[0] != named[1] and meant not in named.tolist()
        assert ((named >= N_THINGS) == (meant >= N_THINGS)).all() and float(row[tokens].min()) > 0.29
    one = torch.tensor([ids_of(words, "a red car")])
    assert blends(embeds[:1, :3], meanings[one], torch.tensor([N_THINGS + RED]))[1].tolist() == [False]


def test_what_a_hidden_word_would_have_said_is_not_known() -> None:
    scene = Scene.of(2, [Item(INDEX["car"], ORANGE, 3), Item(INDEX["house"], ORANGE, 5), Item(INDEX["cat"], RED, 8)])
    truth = torch.from_numpy(tile_factors())[torch.from_numpy(grid(scene))].expand(3, -1, -1)
    seen = known(torch.tensor([-1, INDEX["car"], N_THINGS + ORANGE]), truth)
    cells = [
        [seen.kind[row].sum().item(), seen.colour[row].sum().item(), seen.ground[row].sum().item()] for row in range(3)
    ]
    assert cells == [[36, 36, 36], [32, 36, 36], [36, 28, 0]]
    unseen = truth[1][~seen.kind[1]]
    assert {(int(kind) - 1) // 5 for kind in unseen[:, 0]} == {INDEX["car"]}


def test_only_what_is_known_is_learned() -> None:
    """Gradients of logits of cells that cannot be known are zero, and the loss is that of the others alone."""
    torch.manual_seed(1)
    truth = torch.from_numpy(tile_factors())[torch.randint(0, len(tile_factors()), (2, 36))]
    sizes = (KINDS, N_COLOURS, N_BACKGROUNDS)
    logits = [torch.randn(2, 36, size, requires_grad=True) for size in sizes]
    one = torch.arange(2)[:, None].expand(2, 36) == 0
    loss, _ = tile_loss(*logits, truth, Known(one, one, one))
    loss.backward()
    assert all(part.grad is not None and not part.grad[1].any() and part.grad[0].any() for part in logits)
    alone, _ = tile_loss(*(part[:1] for part in logits), truth[:1])
    torch.testing.assert_close(loss, alone)
