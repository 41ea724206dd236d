"""Presets, styles, random and written prompts, votes, and comparisons of two sides."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import gradio as gr
import pytest
import yaml

from janus_app.errors import AppError, Message
from janus_app.hub import Hub
from janus_app.outputs.library import library
from janus_app.outputs.metadata import read_metadata
from janus_app.outputs.store import OutputStore
from janus_app.outputs.user_presets import Preset, Presets
from janus_app.outputs.votes import Tally, Votes
from janus_app.registry.catalog import load_catalog
from janus_app.registry.types import Variant
from janus_app.runtime.session import ModelSession
from janus_app.types import GenerateRequest, Notice, Progress, drain
from janus_app.ui.assets import script
from janus_app.ui.common.help import KEYS, help_html
from janus_app.ui.common.saved_images import SavedImages
from janus_app.ui.context import PageContext
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.compare import pair
from janus_app.ui.tabs.draw.presets_panel import choices, settings_of
from janus_app.ui.tabs.models.model_drawer import HEAD
from janus_app.ui.tabs.models.welcome import welcome_html
from janus_app.workflows.compare import DrawnSide, Side, checked_sides, draw_sides, vote_key
from janus_app.workflows.presets import (
    NAMES,
    built_in,
    complete,
    random_prompt,
    styled,
    styles,
    writes_prompts,
    written_prompt,
)
from training.objects import COLOURS, THINGS

CATALOG = load_catalog()
DRAWING = [variant for variant in CATALOG.values() if "generate" in variant.verbs]


@pytest.mark.parametrize("variant", DRAWING, ids=lambda variant: variant.id)
def test_presets_of_every_model_are_within_its_ranges(variant: Variant) -> None:
    found = built_in(variant)
    assert {"balanced", "careful"} <= set(found) <= set(NAMES)
    assert len({str(values) for values in found.values()}) == len(found), "two presets are the same"
    for values in found.values():
        for name, value in values.items():
            if name == "solver":
                assert value in variant.solvers
            else:
                setting = variant.settings[name]
                assert setting.low <= float(value) <= setting.high
    assert found["balanced"] == complete(variant, {})


def test_preset_is_limited_to_the_settings_of_the_model() -> None:
    token, flow = CATALOG["janus-embedded"], CATALOG["janusflow-embedded"]
    wild = {"guidance": 99, "steps": 1e9, "solver": "magic", "temperature": "hot", "what": 1}
    assert complete(token, wild)["guidance"] == token.settings["guidance"].high and "steps" not in complete(token, wild)
    assert complete(token, wild)["temperature"] == token.settings["temperature"].default
    assert complete(flow, wild)["steps"] == 100 and complete(flow, wild)["solver"] == flow.solvers[0]


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_style_is_added_to_a_prompt_and_removed_again(language: str) -> None:
    assert len(styles(language)) >= 8
    for name in styles(language):
        dressed = styled("a cat", name, language)
        assert "a cat" in dressed and dressed != "a cat"
        for other in styles(language):
            assert styled(dressed, other, language) == styled("a cat", other, language)
        assert styled(dressed, "", language) == "a cat"
    assert styled("  ", "oil", language) == ""


def test_random_prompts_use_words_the_model_was_trained_on() -> None:
    chance = random.Random(1)
    small, large = CATALOG["janus-embedded"], CATALOG["janus-pro-7b"]
    taught = {word for thing in THINGS for word in (thing.name, thing.plural)} | {colour.name for colour in COLOURS}
    taught |= set(re.findall(r"\w+", "a an small two three four to the left of above at night in sky on beach white"))
    for _ in range(200):
        assert set(random_prompt(small, "en", chance).split()) <= taught | {"background"}
        assert not re.search(r"[A-Za-z{}]", random_prompt(small, "zh-CN", chance))
    assert len({random_prompt(large, "en", chance) for _ in range(50)}) > 40
    assert random_prompt(large, "en", random.Random(3)) == random_prompt(large, "en", random.Random(3))


def test_small_models_and_models_without_chat_write_no_prompts() -> None:
    assert not writes_prompts(CATALOG["janus-embedded"]) and writes_prompts(CATALOG["janus-pro-7b"])
    assert not writes_prompts(replace(CATALOG["janus-pro-7b"], verbs=("generate",)))


@pytest.mark.parametrize(
    ("answer", "prompt"),
    [
        ('"A red cat on a sofa,\n warm light"', "A red cat on a sofa, warm light"),
        ("Here is the prompt:\n\n**Prompt:** a red cat, oil painting\n\nI hope it helps!", "a red cat, oil painting"),
        ("提示词：一只红色的猫，油画", "一只红色的猫，油画"),
        ("x" * 3000, "x" * 1000),
    ],
)
def test_prompt_is_extracted_from_an_answer(answer: str, prompt: str) -> None:
    assert written_prompt(answer, "a red cat") == prompt


@pytest.mark.parametrize("answer", ["", "  \n ", "A red cat", '"a red cat"'])
def test_answer_with_nothing_new_raises(answer: str) -> None:
    with pytest.raises(AppError, match="nothing new"):
        written_prompt(answer, "a red cat ")


def test_user_presets_are_saved_as_yaml_and_a_damaged_file_is_left_alone(tmp_path: Path) -> None:
    presets = Presets(tmp_path / "data")
    presets.save(Preset("  my   own ", "janus", {"guidance": 3.0}))
    presets.save(Preset("other", "janusflow", {"steps": 5}))
    presets.save(Preset("my own", "janus", {"guidance": 4.0}))
    assert [(p.name, dict(p.settings)) for p in Presets(tmp_path / "data").of("janus")] == [
        ("my own", {"guidance": 4.0})
    ]
    assert yaml.safe_load(presets.file.read_text())[0]["name"] == "other"
    presets.delete("my own", "janus")
    assert presets.of("janus") == [] and len(presets.of("janusflow")) == 1
    with pytest.raises(AppError, match="needs a name"):
        presets.save(Preset(" ", "janus", {}))
    presets.file.write_text("- [not a preset")
    with pytest.raises(AppError, match="damaged"):
        presets.save(Preset("lost?", "janus", {}))
    assert presets.file.read_text() == "- [not a preset", "a damaged file must be left alone"


def test_votes_of_a_pair_are_counted_in_either_order(tmp_path: Path) -> None:
    votes = Votes(tmp_path / "data")
    votes.vote("a", "b", "one")
    votes.vote("b", "a", "one")
    votes.vote("a", "b", "equal")
    assert votes.vote("b", "a", "other") == Tally("b", "a", 1, 2, 1)
    votes.vote("a", "c", "other")
    assert [t.count for t in Votes(tmp_path / "data").all()] == [4, 1]
    assert json.loads(votes.file.read_text())["pairs"][1]["other_better"] == 1
    votes.file.write_text('{"schema": 1, "pairs": [{"one": 1}]}')
    with pytest.raises(AppError, match="damaged"):
        votes.vote("a", "b", "one")


@pytest.fixture(scope="module")
def session() -> ModelSession:
    session = ModelSession(load_catalog(), Hub())
    drain(session.load("janus-embedded", device="cpu"))
    return session


def sides_of(session: ModelSession, *names: str, **settings: Any) -> tuple[Side, Side]:
    one, other = (session.catalog[name] for name in names)
    asked = GenerateRequest("a red cat", seed=3, steps=2, count=3)
    return checked_sides(session, (Side(one, asked), Side(other, replace(asked, **settings))))


def both(session: ModelSession, sides: tuple[Side, Side], folder: Path) -> tuple[list[DrawnSide], list[str]]:
    steps = list(draw_sides(session, sides, OutputStore(folder)))
    assert not [step for step in steps if isinstance(step, Notice)], "a notice stays when the load is over"
    told = [step.detail for step in steps if isinstance(step, Progress) and isinstance(step.detail, Message)]
    loads = [message.code for message in told if message.code.startswith("compare_loading")]
    return [step for step in steps if isinstance(step, DrawnSide)], list(dict.fromkeys(loads))


def test_two_settings_of_one_model_need_no_load(session: ModelSession, tmp_path: Path) -> None:
    shots, loads = both(session, sides_of(session, "janus-embedded", "janus-embedded", temperature=0.2), tmp_path)
    assert not loads
    assert [(s.side, s.picture.metadata.seed, s.picture.metadata.settings["temperature"]) for s in shots] == [
        (0, 3, 1.0),
        (1, 3, 0.2),
    ]


def test_loaded_model_draws_first_and_is_loaded_again(session: ModelSession, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    shots, loads = both(session, sides_of(session, "janusflow-embedded", "janus-embedded"), tmp_path)
    assert [shot.side for shot in shots] == [1, 0], "one switch and one way back"
    assert [read_metadata(shot.picture.file).model for shot in shots] == ["janus-embedded", "janusflow-embedded"]
    assert loads == ["compare_loading_side", "compare_loading_again"], "said as long as each load takes"
    assert session.variant is not None and session.variant.id == "janus-embedded"


def test_equal_sides_and_absent_models_are_refused_before_drawing(session: ModelSession) -> None:
    for names, sentence in (
        (("janus-embedded", "janus-embedded"), "Both sides are the same"),
        (("janus-embedded", "janus-pro-7b"), "not on this machine"),
    ):
        with pytest.raises(AppError, match=sentence):
            sides_of(session, *names)
    one, other = sides_of(session, "janus-embedded", "janus-embedded", guidance=2.0)
    assert one.request.count == 1 and vote_key(one) != vote_key(other)


def test_side_whose_components_are_not_here_is_refused(session: ModelSession, brought: Variant) -> None:
    asked = GenerateRequest("a red cat", seed=3, steps=2)
    with pytest.raises(AppError, match="not on this machine"):
        checked_sides(session, (Side(session.catalog["janus-embedded"], asked), Side(brought, asked)))


@pytest.fixture
def brought(tmp_path: Path) -> Variant:
    """A row of a folder that holds weights, whose components are on the Hub."""
    folder = tmp_path / "brought"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    part = replace(CATALOG["metaquery-b"].components["mllm"], repo="nobody/nothing")
    return replace(CATALOG["metaquery-b"], id="brought", folder=folder, components={"mllm": part})


@pytest.fixture
def page(session: ModelSession, tmp_path: Path) -> PageContext:
    outputs = tmp_path / "outputs"
    kept = library(outputs, tmp_path / "data")
    return PageContext(session, session.catalog, Texts("en"), SavedImages(outputs, tmp_path / "served"), library=kept)


def test_blind_pair_reveals_nothing_before_the_vote(page: PageContext, session: ModelSession, tmp_path: Path) -> None:
    sides = sides_of(session, "janus-embedded", "janus-embedded", temperature=0.2)
    shots, _ = both(session, sides, page.images.outputs)
    prints = tuple(page.images.show(shot.picture) for shot in shots)
    with gr.Blocks():
        results = pair.results(page)
    show = pair.PairHandlers(page, cast("Any", None), cast("Any", None), results).show
    places = set()
    for _ in range(40):
        comparison = pair.arranged(page, (prints[0], prints[1]), ("a", "b"), blind=True)
        places.add(comparison.left)
        assert [Path(file).name for file in comparison.files] == ["left.png", "right.png"]
        assert Path(comparison.files[0]).read_bytes() == prints[comparison.left].file.read_bytes()
        updates = show(comparison, "en")
        assert updates[results.revealed] == "<p>Which one is better?</p>" and updates[results.votes]["visible"]
        assert "Janus" not in str(updates[results.pictures])
    assert places == {0, 1}, "the order is always the same"
    revealed = show(replace(comparison, blind=False, tally=Tally("a", "b", 2, 1)), "en")[results.revealed]
    assert "temperature 0.2" in revealed and "A 2 · B 1" in revealed


def test_page_offers_built_in_and_user_presets(page: PageContext) -> None:
    now = CATALOG["janus-embedded"]
    assert page.library is not None
    page.library.presets.save(Preset("fast", "janus", {"guidance": 1.5}))
    assert [name for _, name in choices(page, now, "en")] == ["", "balanced", "careful", "own:fast"]
    ours, own = settings_of(page, "careful", now), settings_of(page, "own:fast", now)
    assert ours is not None and ours["temperature"] == 0.2 and "count" not in ours
    assert own is not None and own["guidance"] == 1.5
    assert settings_of(page, "own:gone", now) is None


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_key_list_and_buttons_match_the_page_script(page: PageContext, language: str) -> None:
    help, card = help_html(page, language), welcome_html(page, language, {})
    assert help.count("<kbd>") == len(KEYS)
    lines = script()
    lines = lines[lines.index("\nconst acts = {") :].split("\n};")[0]
    acts = set(re.findall(r'data-janus="(\w+)"', help + card + HEAD))
    assert acts == set(re.findall(r"^  (\w+): \(\) =>", lines, re.MULTILINE))
