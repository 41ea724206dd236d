"""Walking the tree of an editing session: the handlers of its strip, its buttons and the picture editor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import gradio as gr
from gradio.blocks import Block

from janus_app.errors import AppError
from janus_app.outputs.image_io import open_picture
from janus_app.outputs.metadata import read_metadata
from janus_app.ui.common.html import message
from janus_app.ui.common.saved_images import SavedImage
from janus_app.ui.context import NOTIFYING, QUICK, PageContext, Updates, Values, attach
from janus_app.ui.tabs.edit.editor import example_file, example_names
from janus_app.ui.tabs.edit.panels import EditPanels
from janus_app.ui.tabs.edit.stage import CANVAS
from janus_app.ui.tabs.edit.undo import Tree, tree_html


@dataclass(frozen=True)
class UndoHandlers:
    page: PageContext
    panels: EditPanels

    @property
    def tree_outputs(self) -> set[Block]:
        source = self.panels.source
        return {source.tree, source.strip, source.undo_row}

    @property
    def outputs(self) -> set[Block]:
        """The components of `moved`."""
        right = self.panels.right
        return {
            *self.tree_outputs, self.panels.source.editor, self.panels.method.source_prompt, right.view,
            *right.more.all,
        }  # fmt: skip

    @property
    def walked(self) -> set[Block]:
        """The components of `walk`."""
        return {*self.outputs, self.panels.right.compare, *self.panels.right.results.choosing}

    def kept(self) -> Tree:
        """The tree that this browser tab showed before it was opened anew; its pictures are deleted after a day."""
        tree: Tree = self.page.runs.kept("edit") or Tree()
        return tree if all(Path(step.picture).exists() for step in tree.steps) else Tree()

    def shown(self, tree: Tree, request: gr.Request) -> Updates:
        """The strip, which the next opening of the browser tab shows again."""
        source, language = self.panels.source, self.page.language(request)
        self.page.runs.keep("edit", tree)
        return {
            source.tree: tree,
            source.strip: tree_html(tree, self.page.texts.say, language),
            source.undo_row: gr.update(visible=bool(tree.steps)),
        }

    def moved(self, tree: Tree, number: int, request: gr.Request) -> Updates:
        """The step of that number in the editor, which the stage shows, with the description of its picture."""
        tree = tree.at(number)
        return {
            **self.shown(tree, request),
            self.panels.source.editor: tree.shown(),
            self.panels.method.source_prompt: tree[number].description,
            self.panels.right.view: CANVAS,
            **self.panels.right.more.cleared(),
        }

    def walk(self, values: Values, number: int, request: gr.Request) -> Updates:
        """A step of the tree in the editor and, where it is one of the results, chosen there and compared."""
        tree: Tree = values[self.panels.source.tree]
        right, step = self.panels.right, tree[number]
        moved, items = self.moved(tree, number, request), values[right.results.items]
        if step.saved is None or step.saved not in items:
            return moved
        chosen = right.results.choose(self.page, items, items.index(step.saved), self.page.language(request))
        before_after = compared(tree, step.saved)
        comparison: Updates = {right.compare: gr.update(value=before_after, visible=True)} if before_after else {}
        return {**moved, **chosen, **comparison}

    def advance(self, values: Values, request: gr.Request) -> Updates:
        """After an edit: its first result becomes the next input, where the user wants that."""
        tree: Tree = values[self.panels.source.tree]
        if values[self.panels.settings.go_on] and tree.newest is not None:
            moved = self.moved(tree, tree.newest, request)
            del moved[self.panels.right.view]  # it shows what the edit has changed
            return moved
        return self.shown(tree.at(tree.here), request)

    def select(self, values: Values, request: gr.Request, event: gr.EventData) -> Updates:
        """A picture of the strip. Where the stage compares a result, another one is compared there."""
        walked, view = self.walk(values, int(event.step), request), self.panels.right.view
        return {**walked, view: values[view]} if self.panels.right.compare in walked else walked

    def back(self, values: Values, request: gr.Request) -> Updates:
        here = values[self.panels.source.tree].current
        if here is None or here.parent is None:
            gr.Info(self.page.texts.say("undo_top", self.page.language(request)))
            return gr.skip()
        return self.walk(values, here.parent, request)

    def start(self, values: Values, request: gr.Request, event: gr.EventData) -> Updates:
        """One of the pictures to start with: an example, or the last picture that was drawn."""
        tree: Tree = values[self.panels.source.tree]
        if name := event.start:
            if name not in example_names():  # the browser named it
                return gr.skip()
            tree, number = tree.with_given(open_picture(example_file(name)), self.page.images)
            return {**self.moved(tree, number, request), self.panels.source.note: ""}
        gallery = self.page.library.gallery if self.page.library else None
        drawn = gallery.find() if gallery else []
        if not gallery or not drawn:
            gr.Info(self.page.texts.say("start_nothing_drawn", self.page.language(request)))
            return gr.skip()
        try:
            file = gallery.path(drawn[0].name)
            picture = SavedImage(file, self.page.images.serve_again(file), read_metadata(file))
        except AppError as error:
            return {self.panels.source.note: message(error.text(self.page.language(request)), "error")}
        return {**self.receive(tree, picture, request), self.panels.source.note: ""}

    def receive(self, tree: Tree, image: SavedImage, request: gr.Request) -> Updates:
        """A picture from another tab, or a result, into the editor with its description."""
        return self.moved(*tree.with_picture(image), request)

    def take(self, values: Values, request: gr.Request) -> Updates:
        """A file that was put into the editor: decoded here, because browsers do not show every kind of picture."""
        source = self.panels.source
        path = values[source.given]
        if not path:
            return gr.skip()
        try:
            picture = open_picture(path)
        except AppError as error:
            return {source.given: None, source.note: message(error.text(self.page.language(request)), "error")}
        tree, number = values[source.tree].with_given(picture, self.page.images)
        return {**self.moved(tree, number, request), source.given: None, source.note: ""}

    def emptied(self, values: Values, request: gr.Request) -> Updates:
        """The picture was taken out of the editor."""
        tree = replace(values[self.panels.source.tree].at(None), emptied=True)
        return {**self.shown(tree, request), self.panels.method.source_prompt: ""}

    def clear(self, values: Values, request: gr.Request) -> Updates:
        """Begin anew: no picture in the strip and none in the editor."""
        tree: Tree = values[self.panels.source.tree]
        shown = self.shown(tree.cleared(), request)
        return {**shown, self.panels.source.editor: None, self.panels.right.view: CANVAS}

    def wire(self, edits: list[gr.events.Dependency]) -> None:
        """Attach the handlers; `edits` are the events of jobs that add results to the tree."""
        source, right = self.panels.source, self.panels.right
        for edit in edits:
            attach(edit.then, self.advance, {source.tree, self.panels.settings.go_on}, self.outputs, **QUICK)
        walking = {source.tree, right.results.items, right.view}
        attach(source.strip.select, self.select, walking, self.walked, **QUICK)
        attach(source.back.click, self.back, walking, self.walked, **NOTIFYING)
        attach(source.start.select, self.start, {source.tree}, {*self.outputs, source.note}, **NOTIFYING)
        attach(source.clear.click, self.clear, {source.tree}, self.outputs, **QUICK)
        given = {source.given, source.note, *self.outputs}
        attach(source.given.upload, self.take, {source.given, source.tree}, given, **QUICK)
        outputs = {*self.tree_outputs, self.panels.method.source_prompt}
        attach(source.editor.clear, self.emptied, {source.tree}, outputs, **QUICK)


def compared(tree: Tree, image: SavedImage) -> tuple[str, str] | None:
    """What the before/after slider shows of a result: the picture it was made from, and itself."""
    step = tree.of(image)
    return (step.before, image.shown) if step and step.before else None
