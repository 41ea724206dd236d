"""The tree of an editing session: which picture was made from which, and the strip that shows it."""

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
def images(tmp_path: Path) -> SavedImages:
    return SavedImages(tmp_path / "outputs", tmp_path / "serving")


def noise(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def edited(
    images: SavedImages, source: Image.Image, seed: int, prompt: str = "a blue cat", method: str = "region"
) -> SavedImage:
    mask = Image.new("L", source.size, 255)
    request = EditRequest(prompt, source, mask, method, seed=seed)
    provenance = provenance_of(load_catalog()["janus-embedded"], "fp32", "cpu", request)
    return images.keep(Picture(noise(1_000 + seed), seed), provenance)


def opened(image: SavedImage) -> Image.Image:
    return Image.open(image.shown)


def test_results_are_children_of_the_picture_they_were_made_from(images: SavedImages) -> None:
    start = noise(1)
    one = edited(images, start, 1)
    tree = Tree().with_results(start, [one], images)
    assert [(s.number, s.parent) for s in tree.steps] == [(1, None), (2, 1)]
    assert (tree.here, tree.newest) == (1, 2)
    tree = tree.at(2)
    assert (tree.here, tree.newest) == (2, None)
    two, three = edited(images, opened(one), 2), edited(images, opened(one), 3)
    tree = tree.with_results(opened(one), [two, three], images).at(3)
    # Another branch from the beginning; and a picture from outside starts another tree.
    four = edited(images, start, 4)
    tree = tree.at(1).with_results(start, [four], images)
    five = edited(images, noise(2), 5)
    tree = tree.at(None).with_results(noise(2), [five], images)
    assert [(s.number, s.parent) for s in tree.steps] == [(1, None), (2, 1), (3, 2), (4, 2), (5, 1), (6, None), (7, 6)]
    assert tree.of(three) == tree[4] and tree[4].before == one.shown
    assert [s.number for s in tree.children(1)] == [2, 5]


def test_before_picture_has_the_size_of_the_result(images: SavedImages) -> None:
    wide = noise(3, (80, 40))
    tree = Tree().with_results(wide, [edited(images, wide, 1)], images)
    assert Image.open(tree[2].before).size == (32, 32)
    assert digest(Image.open(tree[1].picture)) == digest(wide), "the picture itself keeps its size"


def test_picture_from_another_tab_is_added_once(images: SavedImages) -> None:
    drawn = edited(images, noise(1), 1, "a red house")
    tree, number = Tree().with_picture(drawn)
    tree = tree.at(number)
    assert (number, tree.here, tree[1].parent, tree[1].description) == (1, 1, None, "a red house")
    assert tree.find(opened(drawn)) == tree[1] and tree.find(noise(2)) is None
    tree = tree.with_results(opened(drawn), [edited(images, opened(drawn), 2)], images)
    assert [(s.number, s.parent) for s in tree.steps] == [(1, None), (2, 1)]
    assert tree.with_picture(drawn) == (tree, 1)
    other = edited(images, noise(3), 3, "make it blue", "instruct")
    tree, number = tree.at(2).with_picture(other)
    assert number == 3 and tree[3].description == ""


def test_pictures_are_recognised_by_their_pixels(images: SavedImages) -> None:
    start = noise(1)
    tree = Tree().with_results(start, [edited(images, start, 1)], images)
    again = tree.find(start.convert("RGBA"))
    assert again is not None and again.number == 1
    assert tree.at(1).find(start.crop((0, 0, 31, 32))) is None and tree.find(noise(9)) is None


def test_oldest_leaf_is_dropped_and_never_a_parent(images: SavedImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undo, "MAX_STEPS", 4)
    start = noise(1)
    tree = Tree().with_results(start, [edited(images, start, i) for i in (1, 2)], images).at(2)
    tree = tree.with_results(opened(tree[2].saved), [edited(images, start, 3)], images).at(4)  # type: ignore[arg-type]
    tree = tree.with_results(opened(tree[4].saved), [edited(images, start, 4)], images)  # type: ignore[arg-type]
    assert [s.number for s in tree.steps] == [1, 2, 4, 5]
    tree = tree.at(1).with_results(start, [edited(images, start, 6)], images)
    assert [s.number for s in tree.steps] == [1, 2, 4, 6], "numbers are not used twice"


def test_instruction_is_not_used_as_description(images: SavedImages) -> None:
    start = noise(1)
    instructed, described = edited(images, start, 1, "make it blue", "instruct"), edited(images, start, 2)
    tree = Tree().with_results(start, [instructed, described], images)
    assert [s.description for s in tree.steps] == ["", "", "a blue cat"]
    assert [s.prompt for s in tree.steps] == ["", "make it blue", "a blue cat"]


def test_strip_nests_and_labels_pictures_and_marks_the_current_one(images: SavedImages) -> None:
    assert tree_html(Tree(), SAY, "en") == ""
    start = noise(1)
    tree = Tree().with_results(start, [edited(images, start, 1, '<b>"blue"</b>')], images).at(2)
    html = tree_html(tree, SAY, "en")
    assert (
        "<b>" not in html and re.sub(r"<(?!/?(?:ol|li))[^>]*>|\d", "", html) == "<ol><li><ol><li></li></ol></li></ol>"
    )
    (here,) = re.findall(r'<button[^>]*data-step="(\d)" class="here" aria-current="true"', html)
    assert here == "2"
    names = [unescape(name) for name in re.findall(r'<button[^>]* aria-label="([^"]*)"', html)]
    assert names == ["Picture 1: the beginning", 'Picture 2: <b>"blue"</b>, made from picture 1']
