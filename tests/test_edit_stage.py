"""The buttons under the canvas of the edit tab act on the picture that the stage shows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.outputs.image_io import open_picture
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession
from janus_app.ui.common.actions import browser_download
from janus_app.ui.common.saved_images import SavedImage, SavedImages
from janus_app.ui.context import PageContext
from janus_app.ui.i18n import Texts
from janus_app.ui.tabs.edit import tab
from janus_app.ui.tabs.edit.panels import build_panels
from janus_app.ui.tabs.edit.stage import CANVAS, COMPARISON
from janus_app.ui.tabs.edit.tab import EditHandlers
from janus_app.ui.tabs.edit.undo import Tree
from janus_app.ui.tabs.edit.undo_panel import UndoHandlers
from tests.test_edit_tree import edited, noise

REQUEST: Any = None


class Stage:
    """The edit tab as the browser has it: the values of its components, which handlers change."""

    def __init__(self, page: PageContext) -> None:
        with gr.Blocks():
            panels = build_panels(page, browser_download())
            self.tab = EditHandlers(page, panels, gr.Dropdown(), UndoHandlers(page, panels))
        self.page, self.panels, self.undo = page, panels, self.tab.undo
        self.values: dict[Any, Any] = {
            panels.source.tree: Tree(), panels.settings.go_on: True, panels.right.view: CANVAS,
            panels.right.results.items: [], panels.right.results.chosen: 0,
        }  # fmt: skip

    @property
    def tree(self) -> Tree:
        tree: Tree = self.values[self.panels.source.tree]
        return tree

    def take(self, updates: Any) -> None:
        for part, value in updates.items():
            new = value.get("value", self.values.get(part)) if isinstance(value, dict) else value
            self.values[part] = new

    def receive(self, image: SavedImage) -> None:
        self.take(self.undo.receive(self.tree, image, REQUEST))

    def edit(self, seed: int) -> SavedImage:
        """What an edit of the picture in the editor leaves behind."""
        step, results = self.tree.current, self.panels.right.results
        assert step is not None
        source = open_picture(step.picture)
        result = edited(self.page.images, source, seed)
        tree = self.tree.with_results(source, [result], self.page.images)
        self.take(results.show(self.page, [result, *self.values[results.items]], 0, "en"))
        self.take({self.panels.source.tree: tree, self.panels.right.view: COMPARISON})
        self.take(self.undo.advance(self.values, REQUEST))
        return result

    def select(self, number: int) -> None:
        self.take(self.undo.select(self.values, REQUEST, SimpleNamespace(step=number)))

    def back(self) -> None:
        self.take(self.undo.back(self.values, REQUEST))

    def view(self, shown: str) -> None:
        self.values[self.panels.right.view] = shown

    @property
    def acted_on(self) -> SavedImage | None:
        """The picture that Save, Ask and the other verbs take; None where there are no such buttons."""
        try:
            return self.panels.right.shown.pick(self.values)
        except AppError:
            here = str(self.values[self.panels.source.strip]).partition('class="here"')[2].partition(">")[0]
            assert "data-saved" not in here, "its buttons are visible and do nothing"
            return None


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(PageContext, "language", lambda *given: "en")
    catalog = load_catalog()
    images = SavedImages(tmp_path / "outputs", tmp_path / "serving")
    return Stage(PageContext(ModelSession(catalog, Hub()), catalog, Texts(), images))


def test_verbs_act_on_the_picture_on_the_stage_wherever_the_user_walks(stage: Stage) -> None:
    drawn = edited(stage.page.images, noise(1), 1, "a red car and a yellow cup")
    stage.receive(drawn)
    assert stage.acted_on == drawn
    first = stage.edit(2)
    assert (stage.values[stage.panels.right.view], stage.acted_on) == (COMPARISON, first)
    second = stage.edit(3)
    assert stage.acted_on == second

    stage.back()
    assert stage.acted_on == first
    chosen = stage.panels.right.results.chosen_picture(stage.values)
    assert chosen == first, "and its details are shown"
    stage.view(COMPARISON)
    assert stage.acted_on == first, "the comparison is that of the picture on the canvas"
    stage.back()
    assert stage.acted_on == drawn and stage.tree.here == 1
    stage.select(3)  # done again
    assert stage.acted_on == second
    stage.view(COMPARISON)
    stage.select(2)
    assert (stage.values[stage.panels.right.view], stage.acted_on) == (COMPARISON, first)
    stage.select(1)  # has nothing to be compared with
    assert (stage.values[stage.panels.right.view], stage.acted_on) == (CANVAS, drawn)

    stage.view(COMPARISON)  # still of the result that was compared last
    assert stage.acted_on == first
    stage.receive(drawn)  # sent from the draw tab once more
    assert (stage.values[stage.panels.right.view], stage.acted_on) == (CANVAS, drawn)


def test_picture_that_was_not_drawn_here_has_no_verbs_beside_results_of_it(stage: Stage) -> None:
    stage.take(stage.undo.start(stage.values, REQUEST, SimpleNamespace(start="beach")))
    assert stage.acted_on is None
    result = stage.edit(1)
    assert stage.acted_on == result
    stage.select(1)
    assert stage.acted_on is None
    stage.view(COMPARISON)
    assert stage.acted_on == result
    file = stage.page.images.serve_picture(noise(7))
    stage.values[stage.panels.source.given] = file
    stage.take(stage.undo.take(stage.values, REQUEST))
    assert stage.acted_on is None, "an upload"
    stage.view(COMPARISON)
    stage.take(stage.undo.clear(stage.values, REQUEST))
    assert stage.acted_on is None

    # The result is still among the pictures; what it was made from is not known any more.
    stage.take(stage.tab.compare(stage.values, REQUEST))
    assert (stage.values[stage.panels.right.view], stage.acted_on) == (CANVAS, result)


def test_export_of_another_picture_does_not_stay(stage: Stage) -> None:
    stage.receive(edited(stage.page.images, noise(1), 1))
    stage.edit(2)
    stage.values[stage.panels.right.more.text] = "janus edit ..."
    stage.back()
    assert stage.values[stage.panels.right.more.text] == ""


def test_page_opened_anew_shows_the_picture_that_was_in_the_editor(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = edited(stage.page.images, noise(1), 1)
    stage.receive(drawn)
    first, second = stage.edit(2), stage.edit(3)
    monkeypatch.setattr(tab, "pictures_of", lambda runs: [second, first])
    for steps, expected in ((0, second), (1, first), (1, drawn)):
        for _ in range(steps):
            stage.back()
        tree = stage.tree
        _, again = stage.tab.rejoin(REQUEST)
        stage.take(again)
        assert (stage.acted_on, stage.tree.here) == (expected, tree.here)
