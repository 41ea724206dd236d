"""What the edit tab shows for each way of editing of each family, and pictures of the gallery of further ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from janus_app.ui.tabs.edit.methods import tab_updates, way_updates
from tests.conftest import GOLDEN

PLACES = ("note", "prompt", "more", "source", "strength", "image_guidance", "temperature", "steps", "solver")
CHECKPOINTS = {
    "janus": (GOLDEN / "janus_pro_1b" / "checkpoint", {"region", "variation"}),
    "metaquery": (GOLDEN.parent / "metaquery" / "ckpt_llavaov_sd15", {"instruct"}),
}


def opened(family: str, tmp_path: Path) -> PageContext:
    catalog = load_catalog()
    session = ModelSession(catalog, Hub())
    drain(session.load(str(CHECKPOINTS[family][0]), "cpu", "fp32"))
    return PageContext(session, catalog, Texts(), SavedImages(tmp_path / "outputs", tmp_path / "serving"))


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_controls_follow_the_way_of_editing(family: str, tmp_path: Path) -> None:
    page = opened(family, tmp_path)
    state = page.session.state
    assert state.capabilities and set(state.capabilities.edit_methods) == CHECKPOINTS[family][1]
    for language in ("en", "zh-CN"):
        for how in state.capabilities.edit_methods:
            found: dict[str, Any] = dict(zip(PLACES, way_updates(page, None, how, language), strict=False))
            told, used = how == "instruct", EDIT_SETTINGS[how]
            assert ("unpainted" in found["note"]) == ("mask" not in used), "the brush is seen where it is used"
            key = "edit_instruction" if told else "edit_prompt"
            assert found["prompt"]["label"] == page.texts.say(key, language)
            assert found["more"]["visible"] == told and (not told or "7" in found["more"]["label"])
            for name in ("strength", "temperature", "steps", "image_guidance"):
                settings = page.variant(None).settings
                assert found[name]["visible"] == (name in used and name in settings), name
            assert found["source"]["visible"] is False and found["solver"]["visible"] is False
            if language == "zh-CN":
                assert not any("a" <= c <= "z" for c in found["note"].split(">")[1].split("<")[0]), found["note"]
    _, run, method, *_ = tab_updates(page, None, "en")
    assert run["interactive"] and method["visible"] == (len(CHECKPOINTS[family][1]) > 1)


def test_further_pictures_are_opened_in_their_order(tmp_path: Path) -> None:
    files = []
    for number in (1, 2):
        Image.new("RGB", (number, 5)).save(tmp_path / f"{number}.png")
        files.append((str(tmp_path / f"{number}.png"), None))
    assert [picture.width for picture in more_pictures(files)] == [1, 2] and more_pictures(None) == ()
    (tmp_path / "1.png").write_text("no picture")
    with pytest.raises(AppError, match="not a picture"):
        more_pictures(files)
