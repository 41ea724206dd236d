"""The tree of an editing session: what was made of what, walking it, and what the strip shows of it."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import provenance_of
from janus_app.types import EditRequest, Picture
from janus_app.ui.common.saved_images import SavedImage, SavedImages
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.edit import undo
from janus_app.ui.tabs.edit.undo import Tree, digest, tree_html

SAY = Texts().say


@pytest.fixture
def prints(tmp_path: Path) -> SavedImages:
    return SavedImages(tmp_path / "outputs", tmp_path / "serving")


def noise(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def made(
    prints: SavedImages, source: Image.Image, seed: int, words: str = "a blue cat", method: str = "region"
) -> SavedImage:
    mask = Image.new("L", source.size, 255)
    request = EditRequest(words, source, mask, method, seed=seed)
    provenance = provenance_of(load_catalog()["janus-embedded"], "fp32", "cpu", request)
    return prints.keep(Picture(noise(1_000 + seed), seed), provenance)


def opened(print_: SavedImage) -> Image.Image:
    return Image.open(print_.shown)


def test_results_hang_below_the_picture_they_were_made_of(prints: SavedImages) -> None:
    start = noise(1)
    one = made(prints, start, 1)
    tree = Tree().grown(start, [one], prints)
    assert [(s.number, s.parent) for s in tree.steps] == [(1, None), (2, 1)]
    assert (tree.here, tree.newest) == (1, 2)
    tree = tree.at(2)
    assert (tree.here, tree.newest) == (2, None)
    two, three = made(prints, opened(one), 2), made(prints, opened(one), 3)
    tree = tree.grown(opened(one), [two, three], prints).at(3)
    # Back at the beginning, another branch; and a picture from outside begins a tree of its own.
    four = made(prints, start, 4)
    tree = tree.at(1).grown(start, [four], prints)
    five = made(prints, noise(2), 5)
    tree = tree.at(None).grown(noise(2), [five], prints)
    assert [(s.number, s.parent) for s in tree.steps] == [(1, None), (2, 1), (3, 2), (4, 2), (5, 1), (6, None), (7, 6)]
    assert tree.of(three) == tree[4] and tree[4].before == one.shown
    assert [s.number for s in tree.children(1)] == [2, 5]


def test_the_before_of_a_result_has_its_size(prints: SavedImages) -> None:
    wide = noise(3, (80, 40))
    tree = Tree().grown(wide, [made(prints, wide, 1)], prints)
    assert Image.open(tree[2].before).size == (32, 32)
    assert digest(Image.open(tree[1].picture)) == digest(wide), "the picture itself stays as it was given"


def test_a_picture_from_another_tab_begins_a_tree_once(prints: SavedImages) -> None:
    drawn = made(prints, noise(1), 1, "a red house")
    tree, number = Tree().begun(drawn)
    tree = tree.at(number)
    assert (number, tree.here, tree[1].parent, tree[1].shows) == (1, 1, None, "a red house")
    assert tree.holds(opened(drawn)) and not tree.holds(noise(2)) and not tree.holds(None)
    tree = tree.grown(opened(drawn), [made(prints, opened(drawn), 2)], prints)
    assert [(s.number, s.parent) for s in tree.steps] == [(1, None), (2, 1)]
    assert tree.begun(drawn) == (tree, 1)
    other = made(prints, noise(3), 3, "make it blue", "instruct")
    tree, number = tree.at(2).begun(other)
    assert number == 3 and tree[3].shows == ""
    assert not tree.at(2).holds(opened(other)) and tree.at(3).holds(opened(other))


def test_pictures_are_known_again(prints: SavedImages) -> None:
    start = noise(1)
    tree = Tree().grown(start, [made(prints, start, 1)], prints)
    again = tree.find(start.convert("RGBA"))
    assert again is not None and again.number == 1
    off_by_one = Image.fromarray(np.minimum(np.asarray(start), 254) + 1)  # what some canvases give back
    assert tree.at(1).find(off_by_one) == tree[1]
    assert tree.at(2).find(off_by_one) is None and tree.at(None).find(off_by_one) is None
    assert tree.at(1).find(start.crop((0, 0, 31, 32))) is None and tree.find(noise(9)) is None


def test_the_oldest_leaf_leaves_and_never_a_parent(prints: SavedImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undo, "MOST", 4)
    start = noise(1)
    tree = Tree().grown(start, [made(prints, start, i) for i in (1, 2)], prints).at(2)
    tree = tree.grown(opened(tree[2].print), [made(prints, start, 3)], prints).at(4)  # type: ignore[arg-type]
    tree = tree.grown(opened(tree[4].print), [made(prints, start, 4)], prints)  # type: ignore[arg-type]
    assert [s.number for s in tree.steps] == [1, 2, 4, 5]
    tree = tree.at(1).grown(start, [made(prints, start, 6)], prints)
    assert [s.number for s in tree.steps] == [1, 2, 4, 6], "numbers are not given twice"


def test_an_instruction_is_no_description(prints: SavedImages) -> None:
    start = noise(1)
    told, shown = made(prints, start, 1, "make it blue", "instruct"), made(prints, start, 2)
    tree = Tree().grown(start, [told, shown], prints)
    assert [s.shows for s in tree.steps] == ["", "", "a blue cat"]
    assert [s.words for s in tree.steps] == ["", "make it blue", "a blue cat"]


def test_the_strip_nests_names_and_marks(prints: SavedImages) -> None:
    assert tree_html(Tree(), SAY, "en") == ""
    start = noise(1)
    tree = Tree().grown(start, [made(prints, start, 1, '<b>"blue"</b>')], prints).at(2)
    html = tree_html(tree, SAY, "en")
    assert (
        "<b>" not in html and re.sub(r"<(?!/?(?:ol|li))[^>]*>|\d", "", html) == "<ol><li><ol><li></li></ol></li></ol>"
    )
    (here,) = re.findall(r'<button[^>]*data-step="(\d)" class="here" aria-current="true"', html)
    assert here == "2"
    names = [unescape(name) for name in re.findall(r'<button[^>]* aria-label="([^"]*)"', html)]
    assert names == ["Picture 1: the beginning", 'Picture 2: <b>"blue"</b>, made from picture 1']
