"""What the edit tab suggests fits the picture in its editor."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.judge import look
from janus_app.hub import Hub
from janus_app.outputs.image_io import open_picture
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession
from janus_app.types import EditRequest
from janus_app.ui.common.saved_images import SavedImages
from janus_app.ui.context import PageContext
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.edit.editor import FIRST_EXAMPLE, example_file, example_names
from janus_app.ui.tabs.edit.suggestions import instructions, is_suggestion, suggestions
from janus_app.ui.tabs.edit.undo import Tree
from janus_app.ui.tabs.edit.words import INSTRUCT
from janus_app.workflows.settings import drawing_settings
from tests.conftest import loaded
from tests.shipped import finished
from tests.test_edit_tree import edited, noise
from training.objects import BACKGROUNDS, COLOURS, THINGS

# What an instruction makes of the picture: the thing it is about (its colour, its name), what stands there then, and
# the background. "" is a natural colour.
MEANT: dict[str, tuple[tuple[str, str] | None, tuple[str, str] | None, str]] = {
    "remove the umbrella": (("", "umbrella"), None, ""),
    "make the dog pink": (("", "dog"), ("pink", "dog"), ""),
    "replace the dog with a cat": (("", "dog"), ("", "cat"), ""),
    "make the cat purple": (("", "cat"), ("purple", "cat"), ""),
    "replace the cat with a frog": (("", "cat"), ("", "frog"), ""),
    "make the background yellow": (None, None, "yellow"),
    "make the rocket green": (("", "rocket"), ("green", "rocket"), ""),
    "replace the rocket with a cat": (("", "rocket"), ("", "cat"), ""),
    "make the background light blue": (None, None, "light blue"),
    "去掉雨伞": (("", "umbrella"), None, ""),
    "把狗变成粉色": (("", "dog"), ("pink", "dog"), ""),
    "把狗换成一只猫": (("", "dog"), ("", "cat"), ""),
    "把猫换成一只狗": (("", "cat"), ("", "dog"), ""),
    "去掉猫": (("", "cat"), None, ""),
    "把火箭变成绿色": (("", "rocket"), ("green", "rocket"), ""),
    "把背景换成浅蓝色": (None, None, "light blue"),
}


@pytest.fixture
def page(tmp_path: Path) -> PageContext:
    catalog = load_catalog()
    images = SavedImages(tmp_path / "outputs", tmp_path / "serving")
    return PageContext(ModelSession(catalog, Hub()), catalog, Texts(), images)


def with_example(page: PageContext, name: str) -> Tree:
    tree, number = Tree().with_given(open_picture(example_file(name)), page.images)
    return tree.at(number)


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_suggestions_are_about_the_picture_in_the_editor(page: PageContext, language: str) -> None:
    row = page.catalog["metaquery-embedded"]
    opening = row.prompts("edit", language)
    assert suggestions(page, row.id, INSTRUCT, Tree(), language) == opening
    assert suggestions(page, row.id, INSTRUCT, with_example(page, FIRST_EXAMPLE), language) == opening
    shown = {name: suggestions(page, row.id, INSTRUCT, with_example(page, name), language) for name in example_names()}
    assert shown.pop(FIRST_EXAMPLE) == opening
    assert shown == instructions(language) and all(shown.values())
    tree = with_example(page, "beach")
    source = open_picture(example_file("beach"))
    changed = tree.with_results(source, [edited(page.images, source, 3)], page.images)
    assert changed.newest is not None
    assert suggestions(page, row.id, INSTRUCT, changed.at(changed.newest), language) == shown["beach"]
    assert suggestions(page, row.id, "region", tree, language) == (), "a description of another picture"
    mine, number = changed.with_given(noise(4), page.images)
    assert suggestions(page, row.id, INSTRUCT, mine.at(number), language) == ()
    assert suggestions(page, row.id, INSTRUCT, mine.cleared(), language) == ()
    large = page.catalog["janus-pro-1b"]
    assert suggestions(page, large.id, "region", mine.at(number), language) == large.prompts("edit", language)


def test_only_suggestions_are_taken_for_suggestions(page: PageContext) -> None:
    assert is_suggestion(page, "去掉雨伞") and is_suggestion(page, "remove the house")
    assert not is_suggestion(page, "remove the umbrella, please") and not is_suggestion(page, "")


@pytest.mark.parametrize(
    ("name", "text"),
    [(name, text) for language in ("en", "zh-CN") for name, texts in instructions(language).items() for text in texts],
)
def test_the_model_that_is_offered_does_what_is_suggested(name: str, text: str) -> None:
    row = load_catalog().resolve("metaquery-embedded")
    before, (old, new, ground) = look(open_picture(example_file(name))).scene, MEANT[text]
    wanted = [(COLOURS[i.colour].name, THINGS[i.thing].name) for i in before.items]
    if old:
        wanted.remove(old)
    wanted += [new] if new else []
    settings = drawing_settings({"seed": 7, "count": 1}, row)
    request = EditRequest(text, open_picture(example_file(name)), method=INSTRUCT, **settings)
    seen = look(finished(loaded(row.folder, roles=row.roles).model.edit(request)).pictures[0].image).scene
    assert sorted((COLOURS[i.colour].name, THINGS[i.thing].name) for i in seen.items) == sorted(wanted)
    assert BACKGROUNDS[seen.background].name == (ground or BACKGROUNDS[before.background].name)
