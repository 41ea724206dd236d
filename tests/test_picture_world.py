"""The picture world: scenes, tiles, captions and answers are consistent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from training.batches import CELLS, Words, join
from training.captions import caption
from training.codes import codebook
from training.export import export
from training.joint import tile_loss
from training.objects import HELD_OUT_PAIRS, INDEX, N_BACKGROUNDS, N_COLOURS, N_THINGS, NUMBERS, THINGS, held_out_order
from training.picture_tokenizer import HardPlaces
from training.pictures import TILE, painter, render, scene_table, sticker_table
from training.restore import restore
from training.scenes import PLACES_MORE, SMALL_MORE, plan, practised, seen_scene
from training.talk import TYPES, Exchange, ask, compare
from training.world import KINDS, N_TILES, PARTS, SMALL, Item, Scene, grid, read_grid, tile_factors, tile_id

EMBEDDED = Path(__file__).parent.parent / "assets" / "janus_embedded"


def test_scene_is_read_back_from_its_tiles() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = seen_scene(rng)
        assert read_grid(grid(scene)) == scene


def test_half_an_object_is_not_a_scene() -> None:
    tokens = grid(Scene.of(0, [Item(0, 1, 4)]))
    tokens[14] = 0
    assert read_grid(tokens) is None


def test_tile_numbers_and_factors_agree() -> None:
    factors = tile_factors()
    assert len(factors) == N_TILES
    assert tuple(factors[tile_id(3, 2, 5, 1)]) == (1 + 3 * 5 + 2, 5, 1)


def test_picture_shows_background_and_object() -> None:
    pixels = np.asarray(render(Scene.of(3, [Item(INDEX["square"], 1, 0)])))
    assert np.array_equal(pixels[64:, 64:], scene_table()[3][64:, 64:])
    red = pixels[32, 32].astype(int)
    assert red[0] > 200 > 100 > red[1]


def test_different_tiles_look_different() -> None:
    """Neither a tokenizer nor the judge could distinguish equal tiles."""
    for place in (0, 21, 35):
        tokens = torch.arange(N_TILES)[::7, None].expand(-1, 36)
        tiles = torch.cat([painter().seen(some)[:, :, *inside(place)] for some in tokens.split(100)]).flatten(1)
        apart = torch.cdist(tiles, tiles).fill_diagonal_(torch.inf)
        assert float(apart.min()) > 1, tile_factors()[7 * int(apart.min(1).values.argmin())]


def inside(place: int) -> tuple[slice, slice]:
    """The rows and columns of a cell in the pictures that vision towers read."""
    return tuple(slice(16 * at, 16 * at + 16) for at in divmod(place, 6))  # type: ignore[return-value]


def test_stickers_do_not_touch_those_beside_them() -> None:
    wholes = sticker_table()[1:].reshape(N_THINGS, PARTS, N_COLOURS, TILE, TILE, 4)[..., 3]
    top, bottom, left, right = (wholes[:, parts] for parts in ((0, 1), (2, 3), (0, 2), (1, 3)))
    assert not top[..., 0, :].any() and not bottom[..., -1, :].any()
    assert not left[..., 0].any() and not right[..., -1].any()
    assert not wholes[:, SMALL, :, (0, -1)].any() and not wholes[:, SMALL, :, :, (0, -1)].any()


def test_codes_are_unit_vectors_and_distinct() -> None:
    book = codebook()
    assert torch.allclose(book.norm(dim=1), torch.ones(N_TILES))
    near = (book @ book[::37].T).topk(2, dim=0).values[1]
    assert float(near.max()) < 0.95


def test_training_never_shows_held_out_pairs_and_evaluation_does() -> None:
    rng = np.random.default_rng(1)
    assert 15 <= len(HELD_OUT_PAIRS) <= 30
    for _ in range(500):
        for scene in (plan(rng).scene, seen_scene(rng)):
            assert not {(i.thing, i.colour) for i in scene.items} & HELD_OUT_PAIRS
    shown = plan(rng, "many", held_out=True)
    assert (shown.groups[0].thing, shown.groups[0].colour) in HELD_OUT_PAIRS
    assert (INDEX["frog"], 4) not in HELD_OUT_PAIRS


def test_captions_name_every_object() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        p = plan(rng)
        text = caption(p, rng).lower()
        for g in p.groups:
            it = THINGS[g.thing]
            nouns = [it.name, it.plural, it.zh, *it.aliases, "puppies", "bunnies"]
            assert any(noun in text for noun in nouns), (text, it.name)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("zh", [False, True])
def test_answers_contain_their_key(kind: str, zh: bool) -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        one = ask(seen_scene(rng), rng, zh, kind)
        assert one.key.lower() in one.answer.lower()


def test_counting_answers_are_true() -> None:
    rng = np.random.default_rng(4)
    scene = Scene.of(0, [Item(0, 1, 0), Item(0, 1, 1), Item(1, 0, 8)])
    for _ in range(100):
        one = ask(scene, rng, False, "count")
        if "cats" in one.question:
            assert one.key == "two"
        elif "dogs" in one.question:
            assert one.key == "one"
        elif "objects" in one.question or "things" in one.question:
            assert one.key == NUMBERS[3]
        else:
            assert one.key == "no"
    more = [compare(scene, Scene.of(0, [Item(0, 0, 2)]), rng, False) for _ in range(50)]
    assert {m.key for m in more if "more cats" in m.question} == {"first"}


def test_split_softmax_is_the_softmax_over_all_tiles() -> None:
    torch.manual_seed(0)
    kind, colour, ground = torch.randn(1, 36, KINDS), torch.randn(1, 36, N_COLOURS), torch.randn(1, 36, 4)
    factors = torch.from_numpy(tile_factors())
    tiles = torch.randint(N_TILES, (1, 36))
    k, c, b = factors.unbind(1)
    logits = kind[..., k] + (k > 0) * colour[..., c] + ground[..., b]
    whole = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tiles.flatten(), reduction="sum")
    truth = factors[tiles]
    drawn = truth[..., 0] > 0
    _, parts = tile_loss(kind, colour, ground, truth)
    behind = torch.nn.functional.cross_entropy(ground.flatten(0, 1), truth[..., 2].flatten(), reduction="sum")
    split = 36 * parts["place"] + int(drawn.sum()) * parts["hue"] + behind
    assert torch.allclose(whole, split, rtol=1e-4)


def test_vague_targets_are_shared_by_all_values() -> None:
    """With the whole target shared, the loss is the mean of - log p over the values of each factor."""
    torch.manual_seed(5)
    kind, colour, ground = (torch.randn(1, 36, n) for n in (KINDS, N_COLOURS, N_BACKGROUNDS))
    truth = torch.from_numpy(tile_factors()[grid(Scene.of(1, [Item(2, 3, 4)]))])[None]
    drawn = truth[..., 0] > 0
    weighed = torch.cat([kind[..., :1], kind[..., 1:] + colour.logsumexp(-1, keepdim=True)], dim=-1)
    means = (-part.log_softmax(-1).mean() for part in (weighed, weighed[..., 1:][drawn], colour[drawn], ground))
    loss, _ = tile_loss(kind, colour, ground, truth, smoothing=1.0)
    assert torch.allclose(loss, sum(means, torch.zeros(())))


def test_places_that_are_drawn_worse_than_others_count_more() -> None:
    hard, beach, cell = HardPlaces("cpu"), 2, 17
    tokens = torch.full((2, 36), beach)
    tokens[1] = torch.from_numpy(grid(Scene.of(beach, [Item(2, 3, 8)])))
    target = torch.zeros(2, 3, 192, 192)
    picture = target + 0.01
    picture[:, :, 64:96, 160:192] = 0.02
    for ground in range(N_BACKGROUNDS):  # the other scenes are drawn well everywhere
        for _ in range(100):
            hard.note(torch.full((2, 36), ground), picture if ground == beach else target + 0.01, target)
    weights = hard.weights(tokens).reshape(2, 6, 32, 6, 32)[:, :, 0, :, 0].flatten(1)
    assert weights[0, cell] > 1.9 * weights[0, cell - 1] and (weights[0].argmax() == cell)
    assert (weights[1][tokens[1] >= N_BACKGROUNDS] == 1).all()


def test_a_question_about_a_side_is_about_all_its_places() -> None:
    rng = np.random.default_rng(6)
    scene, seen = Scene.of(0, [Item(INDEX["cat"], 1, 4), Item(INDEX["dog"], 2, 0)]), set()
    sides = {"left": (0, 3, 6), "right": (2, 5, 8), "above": (0, 1, 2), "below": (6, 7, 8)}
    for _ in range(80):
        one = ask(scene, rng, False, "relation")
        if one.question.rstrip("?").endswith("the cat"):
            side = next(side for side in sides if side in one.question)
            assert one.slots == sides[side], one
            assert (one.parts == ((one.key, one.slots),)) == (one.key != "nothing")
            seen.add(side)
    assert seen == set(sides)


def test_every_word_of_an_answer_knows_what_it_is_about() -> None:
    words = Words(Tokenizer.from_file(str(EMBEDDED / "tokenizer.json")))
    scene = Scene.of(0, [Item(INDEX["dog"], 2, 0), Item(INDEX["cat"], 1, 4)])
    listed = Exchange("what", "What is this?", "I see a dog and a cat.", "", None, (("a dog", (0,)), ("a cat", (4,))))
    counted = Exchange("count", "How many cats are there?", "There is one cat.", "one", (4,))
    batch = join(np.random.default_rng(0), words, [([listed], [scene]), ([counted], [scene])], CELLS)
    said: list[list[tuple[str, tuple[int, ...] | None]]] = []
    for row in range(2):
        places = torch.nonzero(batch.answer[row]).flatten().tolist()
        slots = [tuple(torch.nonzero(about == 1).flatten().tolist()) for about in batch.about[row, places]]
        known = [about[0] >= 0 for about in batch.about[row, places]]
        tokens = [words.tokenizer.decode([int(batch.ids[row, t + 1])]).strip() for t in places]
        said.append([(a, b if c else None) for a, b, c in zip(tokens, slots, known, strict=True)][:-1])  # but the end
    dog, cat = (0,), (4,)
    assert said[0][:2] == [("I", None), ("see", None)]
    assert [b for a, b in said[0] if a in ("a", "dog", "and")] == [dog, dog, dog, cat]
    assert [b for a, b in said[0] if a in ("cat", ".")] == [cat, cat]
    assert {b for _, b in said[1]} == {cat}


def test_restore_inverts_export(tmp_path: Path) -> None:
    restore(EMBEDDED, tmp_path / "state")
    export(tmp_path / "state", tmp_path / "state" / "pictures.pt", tmp_path / "again")
    before = load_file(EMBEDDED / "model.safetensors")
    after = load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        loose = name.startswith("gen_head.vision_head")  # its rows were sums, rounded to bfloat16
        assert torch.allclose(tensor.float(), after[name].float(), atol=0.02 if loose else 0, rtol=0.02), name


def test_what_is_hard_is_practised_more_but_nothing_that_is_held_out() -> None:
    rng = np.random.default_rng(0)
    plans = {"usual": [plan(rng) for _ in range(4000)], "practised": [practised(rng) for _ in range(4000)]}
    small = {name: np.mean([any(g.small for g in p.groups) for p in made]) for name, made in plans.items()}
    assert small["usual"] + 0.4 * SMALL_MORE < small["practised"] < small["usual"] + SMALL_MORE
    placed = {name: np.mean([p.form == "two places" for p in made]) for name, made in plans.items()}
    assert placed["usual"] + 0.8 * PLACES_MORE < placed["practised"] < placed["usual"] + PLACES_MORE
    two = [p.groups for p in plans["practised"] if p.form == "two places"]
    assert 0.3 < np.mean([one.slots > other.slots for one, other in two]) < 0.5, "named in any order"
    assert not any(held_out_order(one.thing, other.thing) for one, other in two)
    for p in plans["practised"]:
        assert not HELD_OUT_PAIRS & {(g.thing, g.colour) for g in p.groups}
