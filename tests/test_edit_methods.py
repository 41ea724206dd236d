"""Which controls of the edit tab are visible for each edit method of each family, and its further pictures."""

from __future__ import annotations

import re
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession
from janus_app.types import EDIT_SETTINGS, drain
from janus_app.ui.common.actions import browser_download
from janus_app.ui.common.saved_images import SavedImages
from janus_app.ui.context import PageContext
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.edit import methods as edit_methods
from janus_app.ui.tabs.edit.editor import more_pictures
from janus_app.ui.tabs.edit.methods import method_outputs, method_updates, variant_outputs, variant_updates
from janus_app.ui.tabs.edit.panels import EditPanels, build_panels
from janus_app.ui.tabs.edit.ways import WAYS, methods_of, missing_way, offers, sounds_like_an_instruction, way_of
from janus_app.ui.tabs.edit.words import given, turned
from tests.conftest import GOLDEN

CHECKPOINTS = {
    "janus": (GOLDEN / "janus_pro_1b" / "checkpoint", {"region", "variation"}),
    "metaquery": (GOLDEN.parent / "metaquery" / "ckpt_llavaov_sd15", {"instruct"}),
}


def page_with(family: str, tmp_path: Path) -> PageContext:
    catalog = load_catalog()
    session = ModelSession(catalog, Hub())
    drain(session.load(str(CHECKPOINTS[family][0]), "cpu", "fp32"))
    return PageContext(session, catalog, Texts(), SavedImages(tmp_path / "outputs", tmp_path / "serving"))


def panels_of(page: PageContext) -> EditPanels:
    with gr.Blocks():
        return build_panels(page, browser_download())


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_visible_controls_are_those_the_method_reads(family: str, tmp_path: Path) -> None:
    page = page_with(family, tmp_path)
    panels = panels_of(page)
    settings, flow = panels.settings, panels.settings.controls.flow
    sliders = {
        "strength": settings.strength,
        "temperature": settings.controls.temperature,
        "steps": flow.steps,
        "image_guidance": settings.image_guidance,
    }
    state, known = page.session.state, page.variant(None).settings
    assert state.capabilities and set(state.capabilities.edit_methods) == CHECKPOINTS[family][1]
    for language in ("en", "zh-CN"):
        for method in state.capabilities.edit_methods:
            updates = method_updates(page, panels, None, method, language)
            assert updates.keys() == method_outputs(panels)
            instruct, used = method == "instruct", EDIT_SETTINGS[method]
            note = updates[panels.method.note]
            assert ("unpainted" in note) == ("mask" not in used), "the brush is visible where it is used"
            key = "edit_instruction" if instruct else "edit_prompt"
            assert updates[settings.controls.prompt]["label"] == page.texts.say(key, language)
            more = updates[panels.source.more]
            assert more["visible"] == instruct and (not instruct or "7" in more["label"])
            for name, slider in sliders.items():
                assert updates[slider]["visible"] == (name in used and name in known), name
            assert updates[panels.method.source_box]["visible"] is False
            assert updates[flow.solver]["visible"] is False
            if language == "zh-CN":
                assert not re.search("[a-z]", re.sub("<[^>]*>", "", note)), note


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_variant_offers_its_methods_with_the_controls_of_the_first(family: str, tmp_path: Path) -> None:
    page = page_with(family, tmp_path)
    panels = panels_of(page)
    updates = variant_updates(page, panels, None, "en")
    assert updates.keys() == variant_outputs(panels)
    assert updates[panels.settings.buttons.run]["interactive"]
    methods = updates[panels.method.method]
    assert [way_of(name) for _, name in methods["choices"]] == list(WAYS)
    assert CHECKPOINTS[family][1] <= {name for _, name in methods["choices"]}
    first = method_updates(page, panels, None, methods["value"], "en")
    strength, shown = updates[panels.settings.strength], first[panels.settings.strength]
    assert strength["visible"] == shown["visible"] and strength["info"] == shown["info"]


def test_another_model_edits_in_its_usual_way_unless_the_user_chose_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit_methods, "available", lambda *_: ("instruct", "variation"))
    page = page_with("metaquery", tmp_path)
    panels = panels_of(page)
    before = page.catalog.resolve("janus-embedded")

    def method(current: str, fitted: str) -> str:
        updates = variant_updates(page, panels, None, "en", current, fitted=fitted)
        return str(updates[panels.method.method]["value"])

    usual, other = methods_of(before)[:2]
    assert (usual, other) == ("region", "variation")
    assert method(usual, before.id) == "instruct", "nobody chose the way of the model before"
    assert method(other, before.id) == "variation", "the user chose it"
    loaded = page.loaded_variant()
    assert loaded and method("variation", loaded.id) == "variation", "it is this model's"


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_way_that_the_model_lacks_is_offered_with_a_model_that_has_it(family: str, tmp_path: Path) -> None:
    page = page_with(family, tmp_path)
    panels = panels_of(page)
    loaded = page.session.state.capabilities
    assert loaded
    for way, methods in WAYS.items():
        updates = method_updates(page, panels, None, methods[0], "en")
        able = set(methods) & set(loaded.edit_methods)
        switch, run = updates[panels.method.switch], updates[panels.settings.buttons.run]
        if methods[0] in able:
            assert (switch["visible"], run["visible"], updates[panels.method.offer]) == ("hidden", True, "")
            continue
        if able:
            continue
        found = offers(page, way)
        assert [offer.ready for offer in found] == sorted((offer.ready for offer in found), reverse=True)
        assert found[0].ready and switch["value"] == f"Switch to {found[0].variant.title}"
        assert (switch["visible"], switch["variant"], run["visible"]) == (True, "primary", False)
        for offer in found[1:4]:
            assert offer.ready or f"{offer.variant.title} ({offer.size} to download)" in updates[panels.method.offer]
        example = updates[panels.settings.controls.prompt]["value"]
        assert sounds_like_an_instruction(example) == (way == "words"), "the box holds an example of the chosen way"


def test_each_kind_of_text_stays_what_it_is_when_the_method_changes(tmp_path: Path) -> None:
    page = page_with("janus", tmp_path)
    panels = panels_of(page)
    prompt, box = panels.settings.controls.prompt, panels.settings.written
    shown, written = "two green frogs on the beach", ""

    def choose(method: str) -> str:
        nonlocal shown, written
        updates = method_updates(page, panels, None, method, "en", shown, written)
        shown, written = updates[prompt].get("value", shown), updates[box]
        return shown

    assert choose("region") == "two green frogs on the beach"
    example = choose("instruct")
    assert sounds_like_an_instruction(example), "a description is no instruction"
    shown = "make the car blue"
    assert choose("variation") == choose("region") == "two green frogs on the beach"
    assert choose("instruct") == "make the car blue"
    shown = "at night, please"  # does not begin as instructions do
    assert choose("region") == "two green frogs on the beach"
    assert choose("instruct") == "at night, please"
    choose("region")
    shown = "remove the tree"  # written where it does not belong: the page offers the other method
    assert choose("instruct") == "remove the tree"
    assert choose("region") == "two green frogs on the beach"


def test_text_that_comes_with_a_picture_is_shown_where_its_kind_is_asked_for() -> None:
    _, written = turned("", "instruct", "make it blue")
    shown, written = given(written, "make it blue", "description", "a red car")
    assert shown == "make it blue" and turned(written, "region", shown)[0] == "a red car"
    assert given(written, shown, "instruction", "make it green")[0] == "make it green"
    for broken in ("{", "[1]", '{"kind": 3}', "null"):
        assert turned(broken, "region", "a red car")[0] == "a red car"


def test_instruction_where_a_description_is_asked_for_is_offered_a_model_that_follows_it() -> None:
    for text in ("make the cat blue", "Please remove the house", "把猫变成蓝色", "去掉房子", "天空改成夜晚"):
        assert sounds_like_an_instruction(text), text
        assert missing_way("region", ("region", "variation"), text) == "words"
        assert missing_way("instruct", ("instruct",), text) == ""
    for text in ("a blue cat on a chair", "two frogs left of a house", "一只蓝色的猫", "", None):
        assert missing_way("region", ("region", "variation"), text) == ""
    assert missing_way("instruct", ("region",), "") == "words"


def test_families_name_the_edit_methods_that_their_models_have(tmp_path: Path) -> None:
    for family in CHECKPOINTS:
        page = page_with(family, tmp_path)
        state = page.session.state
        assert state.capabilities and tuple(state.capabilities.edit_methods) == methods_of(page.variant(None))


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_explanation_of_a_way_asks_for_what_the_box_asks_for(language: str) -> None:
    say = Texts().say
    described = {"en": "escribe", "zh-CN": "描述"}[language]
    for way, methods in WAYS.items():
        asks = say("edit_instruction" if "instruct" in methods else "edit_prompt_hint", language)
        assert (described in say(f"way_{way}_do", language)) == (described in asks) == ("instruct" not in methods)


def test_further_pictures_keep_their_order(tmp_path: Path) -> None:
    files = []
    for number in (1, 2):
        Image.new("RGB", (number, 5)).save(tmp_path / f"{number}.png")
        files.append((str(tmp_path / f"{number}.png"), None))
    assert [picture.width for picture in more_pictures(files)] == [1, 2] and more_pictures(None) == ()
    (tmp_path / "1.png").write_text("no picture")
    with pytest.raises(AppError, match="not a picture"):
        more_pictures(files)
