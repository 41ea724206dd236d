"""Which controls of the edit tab are visible for each edit method of each family, and its further pictures."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession
from janus_app.types import EDIT_SETTINGS, drain
from janus_app.ui.common.saved_images import SavedImages
from janus_app.ui.context import PageContext
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.edit.editor import more_pictures
from janus_app.ui.tabs.edit.methods import method_outputs, method_updates, variant_outputs, variant_updates
from janus_app.ui.tabs.edit.panels import (
    EditPanels,
    build_method_panel,
    build_results_panel,
    build_settings_panel,
    build_source_panel,
)
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
        return EditPanels(
            build_source_panel(page), build_method_panel(page), build_settings_panel(page), build_results_panel(page)
        )


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
                assert not any("a" <= c <= "z" for c in note.split(">")[1].split("<")[0]), note


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_variant_offers_its_methods_with_the_controls_of_the_first(family: str, tmp_path: Path) -> None:
    page = page_with(family, tmp_path)
    panels = panels_of(page)
    updates = variant_updates(page, panels, None, "en")
    assert updates.keys() == variant_outputs(panels)
    assert updates[panels.settings.buttons.run]["interactive"]
    methods = updates[panels.method.method]
    assert methods["visible"] == (len(CHECKPOINTS[family][1]) > 1)
    first = method_updates(page, panels, None, methods["value"], "en")
    strength, shown = updates[panels.settings.strength], first[panels.settings.strength]
    assert strength["visible"] == shown["visible"] and strength["info"] == shown["info"]


def test_further_pictures_keep_their_order(tmp_path: Path) -> None:
    files = []
    for number in (1, 2):
        Image.new("RGB", (number, 5)).save(tmp_path / f"{number}.png")
        files.append((str(tmp_path / f"{number}.png"), None))
    assert [picture.width for picture in more_pictures(files)] == [1, 2] and more_pictures(None) == ()
    (tmp_path / "1.png").write_text("no picture")
    with pytest.raises(AppError, match="not a picture"):
        more_pictures(files)
