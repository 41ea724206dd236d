"""The pictures of an editing session as a tree: each result knows the picture it was made of, and none is lost."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape

from PIL import Image, ImageOps

from janus_app.outputs.image_io import open_picture
from janus_app.ui.common.html import data_uri
from janus_app.ui.common.saved_images import SavedImage, SavedImages
from janus_app.ui.tabs.edit.editor import fitted

MOST = 60  # pictures a tree holds; the oldest that nothing was made of leave
THUMB = 72  # pixels of a thumbnail's longer side
NEARLY = 2  # levels by which a browser's canvas may change a picture it gives back

Say = Callable[..., str]


@dataclass(frozen=True)
class Step:
    """A picture of the session. `parent` is the number of the one it was made of, None for one that came from outside.

    picture is the served file that goes back into the editor, `before` its parent at its own size, `print` the drawn
    picture or result it is, if it is one. `digest` and `thumb` are of its pixels.
    """

    number: int
    picture: str
    thumb: str
    digest: str
    parent: int | None = None
    before: str = ""
    print: SavedImage | None = None

    @property
    def words(self) -> str:
        """What was asked for when it was made."""
        return self.print.record.prompt if self.print else ""

    @property
    def shows(self) -> str:
        """What it shows, where that was said: the words of an instruction are no description."""
        told = self.print is not None and self.print.record.settings.get("method") != "instruct"
        return self.words if told else ""


@dataclass(frozen=True)
class Tree:
    """`here` is the number of the picture in the editor, `newest` of the last edit's first result until it is used.

    Numbers are never given twice.
    """

    steps: tuple[Step, ...] = ()
    here: int | None = None
    newest: int | None = None
    made: int = 0

    def __getitem__(self, number: int) -> Step:
        return next(step for step in self.steps if step.number == number)

    def of(self, print_: SavedImage) -> Step | None:
        """The step of a result, None where it has left."""
        return next((step for step in self.steps if step.print == print_), None)

    def children(self, number: int | None) -> list[Step]:
        return [step for step in self.steps if step.parent == number]

    def at(self, number: int | None) -> Tree:
        """With another picture in the editor."""
        return replace(self, here=number, newest=None)

    def find(self, picture: Image.Image) -> Step | None:
        """The step whose picture this is: pixel by pixel, or nearly so for the one that should be in the editor."""
        wanted = digest(picture)
        if same := [step for step in self.steps if step.digest == wanted]:
            return next((step for step in same if step.number == self.here), same[-1])
        if self.here is None:
            return None
        return self[self.here] if _looks_the_same(picture, open_picture(self[self.here].picture)) else None

    def begun(self, print_: SavedImage) -> tuple[Tree, int]:
        """With a picture from elsewhere in the app, which joins where it is new; and the number it has there."""
        picture = open_picture(print_.shown)
        if known := self.find(picture):
            return self, known.number
        step = Step(self.made + 1, print_.shown, _thumb(picture), digest(picture), print=print_)
        tree = replace(self, steps=(*self.steps, step), here=step.number, made=step.number)
        return tree._trimmed(), step.number

    def holds(self, picture: Image.Image | None) -> bool:
        """Whether that is the picture that should be in the editor."""
        known = None if picture is None else self.find(picture)
        return known is not None and known.number == self.here

    def grown(self, source: Image.Image, results: Sequence[SavedImage], prints: SavedImages) -> Tree:
        """With the results of an edit below the picture it started from, which joins the tree where it is new."""
        tree, from_ = self, self.find(source)
        if from_ is None:
            from_ = Step(tree.made + 1, prints.serve_picture(source), _thumb(source), digest(source))
            tree = replace(tree, steps=(*tree.steps, from_), made=from_.number)
        size = results[0].record.size
        before = from_.picture if source.size == size else prints.serve_picture(fitted(source, size))
        new = []
        for number, one in enumerate(results, tree.made + 1):
            picture = open_picture(one.shown)
            new.append(Step(number, one.shown, _thumb(picture), digest(picture), from_.number, before, one))
        tree = replace(tree, steps=(*tree.steps, *new), here=from_.number, newest=new[0].number, made=new[-1].number)
        return tree._trimmed()

    def _trimmed(self) -> Tree:
        steps = list(self.steps)
        while len(steps) > MOST:
            used = {step.parent for step in steps} | {self.here, self.newest}
            oldest = next((step for step in steps if step.number not in used), None)
            if oldest is None:
                break
            steps.remove(oldest)
        return replace(self, steps=tuple(steps))


def digest(picture: Image.Image) -> str:
    """A name for the pixels of a picture."""
    flat = picture.convert("RGB")
    return hashlib.blake2b(flat.tobytes(), digest_size=16, salt=repr(flat.size).encode()[:16]).hexdigest()


def _looks_the_same(one: Image.Image, other: Image.Image) -> bool:
    if one.size != other.size:
        return False
    small = [picture.convert("RGB").resize((64, 64), Image.Resampling.BOX).tobytes() for picture in (one, other)]
    return all(abs(a - b) <= NEARLY for a, b in zip(*small, strict=True))


def _thumb(picture: Image.Image) -> str:
    return data_uri(ImageOps.contain(picture.convert("RGB"), (THUMB, THUMB)), quality=75)


def tree_html(tree: Tree, say: Say, language: str) -> str:
    """The tree as nested lists of buttons; the strip's own script (edit_tab) tells which one was pressed."""
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
    words = say("undo_start", language) if step.print is None else step.words
    name = say("undo_step", language, number=step.number, words=words)
    if step.parent is not None:
        name += say("undo_from", language, parent=step.parent)
    here = ' class="here" aria-current="true"' if step.number == tree.here else ""
    title = escape(name, quote=True)
    return (
        f'<button type="button" data-step="{step.number}"{here} aria-label="{title}" title="{title}">'
        f'<img src="{step.thumb}" alt=""><span>{step.number}</span></button>'
    )
