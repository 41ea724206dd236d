"""Pictures as the tabs show them: in runs, with words beside and never on them, and an example to begin with."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from janus_app.hub import Hub
from janus_app.outputs.metadata import ImageMetadata, read_metadata
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession
from janus_app.ui.common.pictures import newest_first
from janus_app.ui.common.pictures.markup import large, runs, tile
from janus_app.ui.common.pictures.wall import chosen_html, runs_html
from janus_app.ui.common.saved_images import SavedImage, SavedImages
from janus_app.ui.context import PageContext
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.chat.bubbles import pictures_part
from janus_app.ui.tabs.compare.pair import Comparison, pair_html
from janus_app.ui.tabs.draw.examples import FOLDER, example
from tests.samples import METADATA

CATALOG = load_catalog()
EMBEDDED = [name for name in CATALOG if name.endswith("-embedded")]


def record(prompt: str, seed: int, **changes: Any) -> ImageMetadata:
    return replace(METADATA, verb="generate", prompt=prompt, seed=seed, **changes)


@pytest.fixture
def page(tmp_path: Path) -> PageContext:
    session = ModelSession(CATALOG, Hub())
    return PageContext(session, CATALOG, Texts(), SavedImages(tmp_path / "outputs", tmp_path / "served"))


def saved(prompt: str, seed: int, **changes: Any) -> SavedImage:
    return SavedImage(Path(f"/tmp/{seed}.png"), f"/tmp/{seed}.png", record(prompt, seed), **changes)


def test_runs_hold_what_one_job_drew_and_never_mix() -> None:
    drawn = [record("a", 5), record("a", 6), record("b", 1), record("b", 2), record("b", 9), record("b", 9)]
    assert runs(drawn) == [(0, 2), (2, 4), (4, 5), (5, 6)]
    assert runs(drawn[::-1]) == [(0, 1), (1, 2), (2, 4), (4, 6)], "the history lists the newest picture first"
    other = [record("a", 5), record("a", 6, model="another"), record("a", 7, model="another", settings={"steps": 4})]
    assert len(runs(other)) == 3 and runs([]) == []


def test_ranked_pictures_of_a_prompt_stay_together_in_their_new_order() -> None:
    assert runs([record("a", 7), record("a", 5), record("b", 6)], [True, True, False]) == [(0, 2), (2, 3)]


def test_gallery_shows_the_prompt_of_each_run_and_the_newest_first(page: PageContext) -> None:
    items = newest_first([saved("a red circle", 1), saved("an example", 3, example=True)], (saved("<b>blue</b>", 8),))
    html = runs_html(page, items, 0, "en")
    assert re.findall(r"<h3[^>]*><span>(.*?)</span>", html) == ["&lt;b&gt;blue&lt;/b&gt;", "a red circle"]
    assert re.findall(r'data-picture="(\d)"', html) == ["0", "1"]
    assert html.count('aria-current="true"') == 1


def test_seed_stands_below_its_picture_and_never_on_it() -> None:
    html = tile(0, "small", "full", "a red circle", (96, 96), line="seed 5")
    inside, _, below = html.partition("</button>")
    assert "seed 5" not in re.sub(r'title="[^"]*"', "", inside) and "seed 5" in below


def test_chosen_picture_is_shown_with_the_others_of_its_run_alone(page: PageContext) -> None:
    items = [saved("a", 5), saved("a", 6), saved("b", 1)]
    assert re.findall(r'class="tile" data-picture="(\d)"', chosen_html(page, items, 1, "en")) == ["0", "1"]
    assert 'class="tile"' not in chosen_html(page, items, 2, "en")


@pytest.mark.parametrize("language", ["en", "zh-CN"])
@pytest.mark.parametrize("model", EMBEDDED)
def test_embedded_models_begin_with_a_picture_they_drew_themselves(
    page: PageContext, model: str, language: str
) -> None:
    image = example(page, CATALOG[model], language)
    assert image is not None and image.example and image.metadata.model == model
    assert read_metadata(FOLDER / f"{model}.{language}.png") == image.metadata
    assert page.images.serving in image.file.parents, "a description would be saved into the app's own folder"
    assert image.metadata.prompt in CATALOG[model].prompts("generate", language), "the page offers other words"


def test_model_without_an_example_begins_without_one(page: PageContext) -> None:
    assert example(page, CATALOG["janus-pro-1b"], "en") is None


def shapes_of(html: str) -> set[str]:
    """The figures of HTML without the values of their attributes, their classes and their captions."""
    figures = re.findall(r"(?s)<figure.*?</figure>", re.sub(r"(?s)<figcaption>.*?</figcaption>", "", html))
    return {re.sub(r'="[^"]*"', "", re.sub(r" data-(picture|key)=", " data-which=", one)) for one in figures}


def test_every_tab_shows_a_picture_by_the_same_markup(page: PageContext, tmp_path: Path) -> None:
    """Draw and Edit show the chosen one, History the opened one, Compare two, and Chat those of its messages."""
    file = tmp_path / "drawn.png"
    Image.new("RGB", (96, 96)).save(file)
    item = SavedImage(file, str(file), record("a red circle", 5))
    chosen = shapes_of(chosen_html(page, [item], 0, "en"))
    assert len(chosen) == 1 and "data-enlarge data-full" in next(iter(chosen))
    assert shapes_of(large(0, item, "enlarge", "a red circle")) == chosen
    pair = Comparison((item, item), ("a", "b"), 0, False, (item.shown, item.shown))
    assert shapes_of(pair_html(pair, ["left", "right"], "enlarge")) == chosen
    assert shapes_of(pictures_part(page, [("message:0", str(file), "a red circle")], "en")["value"]) == chosen
