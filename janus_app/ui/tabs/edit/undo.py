"""The pictures of an editing session as a tree, in which each result knows the picture it was made from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape

from PIL import Image, ImageOps

from janus_app.errors import AppError
from janus_app.outputs.image_io import open_picture
from janus_app.ui.common.html import data_uri
from janus_app.ui.common.saved_images import SavedImage, SavedImages
from janus_app.ui.tabs.edit.editor import FIRST_EXAMPLE, example_file, fitted, for_editor, opening
from janus_app.ui.tabs.edit.words import INSTRUCT

MAX_STEPS = 60  # pictures in a tree; beyond it the oldest leaves are dropped
THUMBNAIL_SIDE = 72  # pixels of a thumbnail's longer side

Say = Callable[..., str]


@dataclass(frozen=True)
class Step:
    """A picture of the session. `parent` is the number of the one it was made from; None for one from outside.

    `picture` is the served file that goes back into the editor, `before` its parent at its own size. `saved` is the
    saved image it is, None for one the user brought. `digest` and `thumbnail` are computed from its pixels.
    """

    number: int
    picture: str
    thumbnail: str
    digest: str
    parent: int | None = None
    before: str = ""
    saved: SavedImage | None = None

    @property
    def prompt(self) -> str:
        """The prompt it was made with."""
        return self.saved.metadata.prompt if self.saved else ""

    @property
    def description(self) -> str:
        """What it shows, as far as its prompt says so: an instruction does not describe the picture."""
        instructed = self.saved is not None and self.saved.metadata.settings.get("method") == INSTRUCT
        return "" if instructed else self.prompt


@dataclass(frozen=True)
class Tree:
    """`here` is the number of the picture in the editor, `newest` of the last edit's first result until it is used.

    Numbers are never used twice; `last_number` is the highest so far. `latest` is the last edit's first result, also
    where it was cleared away. `emptied`: the user took the picture out of the editor.
    """

    steps: tuple[Step, ...] = ()
    here: int | None = None
    newest: int | None = None
    last_number: int = 0
    latest: SavedImage | None = None
    emptied: bool = False

    def __getitem__(self, number: int) -> Step:
        return next(step for step in self.steps if step.number == number)

    def of(self, image: SavedImage) -> Step | None:
        """The step of a result, None where it was dropped."""
        return next((step for step in self.steps if step.saved == image), None)

    @property
    def current(self) -> Step | None:
        """The picture in the editor, None where it is none of the session's."""
        return None if self.here is None else self[self.here]

    def picture(self) -> Image.Image:
        """The picture in the editor: that of a step or, at the beginning, the example. Raises AppError for none."""
        if self.here is None and self.emptied:
            raise AppError("editor_empty")
        return open_picture(example_file(FIRST_EXAMPLE) if self.here is None else self[self.here].picture)

    def shown(self) -> dict[str, str]:
        """The value of the editor with that picture."""
        return opening() if self.here is None else for_editor(self[self.here].picture)

    @property
    def next(self) -> Step | None:
        """The picture that the editor shows next: a result that waits to be used, else the one that is there."""
        return self.current if self.newest is None else self[self.newest]

    def children(self, number: int | None) -> list[Step]:
        return [step for step in self.steps if step.parent == number]

    def at(self, number: int | None) -> Tree:
        """This tree with another picture in the editor."""
        return replace(self, here=number, newest=None, emptied=self.emptied and number is None)

    def cleared(self) -> Tree:
        """No pictures, and an empty editor."""
        return Tree(latest=self.latest, emptied=True)

    def find(self, picture: Image.Image) -> Step | None:
        """The step with the pixels of this picture; the one in the editor, if several have them."""
        key = digest(picture)
        same = [step for step in self.steps if step.digest == key]
        return next((step for step in same if step.number == self.here), same[-1] if same else None)

    def with_picture(self, image: SavedImage) -> tuple[Tree, int]:
        """This tree with a picture from elsewhere in the app, which is added where it is new; and its number there."""
        picture = open_picture(image.shown)
        if known := self.find(picture):
            return self, known.number
        step = Step(self.last_number + 1, image.shown, _thumbnail(picture), digest(picture), saved=image)
        tree = replace(self, steps=(*self.steps, step), here=step.number, last_number=step.number)
        return tree._trimmed(), step.number

    def with_given(self, picture: Image.Image, images: SavedImages) -> tuple[Tree, int]:
        """This tree with a picture of the user, which is added where it is new; and its number there."""
        if known := self.find(picture):
            return self, known.number
        step = Step(self.last_number + 1, images.serve_picture(picture), _thumbnail(picture), digest(picture))
        tree = replace(self, steps=(*self.steps, step), here=step.number, last_number=step.number)
        return tree._trimmed(), step.number

    def with_results(self, source: Image.Image, results: Sequence[SavedImage], images: SavedImages) -> Tree:
        """This tree with the results of an edit below the picture it started from, which is added where it is new."""
        tree, number = self.with_given(source, images)
        start = tree[number]
        size = results[0].metadata.size
        before = start.picture if source.size == size else images.serve_picture(fitted(source, size))
        new = []
        for number, one in enumerate(results, tree.last_number + 1):
            picture = open_picture(one.shown)
            new.append(Step(number, one.shown, _thumbnail(picture), digest(picture), start.number, before, one))
        tree = replace(tree.at(start.number), steps=(*tree.steps, *new), newest=new[0].number, latest=results[0])
        return replace(tree, last_number=new[-1].number)._trimmed()

    def _trimmed(self) -> Tree:
        steps = list(self.steps)
        while len(steps) > MAX_STEPS:
            used = {step.parent for step in steps} | {self.here, self.newest}
            oldest = next((step for step in steps if step.number not in used), None)
            if oldest is None:
                break
            steps.remove(oldest)
        return replace(self, steps=tuple(steps))


def digest(picture: Image.Image) -> str:
    """A hash of the pixels of a picture and its size."""
    flat = picture.convert("RGB")
    return hashlib.blake2b(flat.tobytes(), digest_size=16, salt=repr(flat.size).encode()[:16]).hexdigest()


def _thumbnail(picture: Image.Image) -> str:
    return data_uri(ImageOps.contain(picture.convert("RGB"), (THUMBNAIL_SIDE, THUMBNAIL_SIDE)), quality=75)


def tree_html(tree: Tree, say: Say, language: str) -> str:
    """The tree as nested lists of buttons; the script of the strip (panels.py) reports which one was clicked."""
    if not tree.steps:
        return ""
    label = escape(say("undo_label", language), quote=True)
    return f'<div class="undo" role="group" aria-label="{label}">{_level(tree, None, say, language)}</div>'


def _level(tree: Tree, parent: int | None, say: Say, language: str) -> str:
    items = "".join(
        f"<li>{_button(tree, step, say, language)}{_level(tree, step.number, say, language)}</li>"
        for step in tree.children(parent)
    )
    return f"<ol>{items}</ol>" if items else ""


def _button(tree: Tree, step: Step, say: Say, language: str) -> str:
    words = say("undo_start", language) if step.saved is None else step.prompt
    name = say("undo_step", language, number=step.number, words=words)
    if step.parent is not None:
        name += say("undo_from", language, parent=step.parent)
    here = ' class="here" aria-current="true"' if step.number == tree.here else ""
    saved = " data-saved" if step.saved else ""  # assets/style/: it has verbs
    title = escape(name, quote=True)
    return (
        f'<button type="button" data-step="{step.number}"{here}{saved} aria-label="{title}" title="{title}">'
        f'<img src="{step.thumbnail}" alt=""></button>'
    )
