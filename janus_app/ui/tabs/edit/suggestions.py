"""What could be written for an edit: sentences that fit the picture in the editor."""

from __future__ import annotations

import json
from functools import lru_cache

from janus_app.models.common.vocabulary import vocabulary_of
from janus_app.outputs.image_io import open_picture
from janus_app.registry.types import Variant
from janus_app.ui.context import PageContext
from janus_app.ui.tabs.edit.editor import EXAMPLES, FIRST_EXAMPLE, example_file, example_names
from janus_app.ui.tabs.edit.undo import Tree, digest
from janus_app.ui.tabs.edit.ways import available, offers, way_of
from janus_app.ui.tabs.edit.words import INSTRUCT


def suggestions(
    page: PageContext, selected: str | None, method: str | None, tree: Tree, language: str
) -> tuple[str, ...]:
    """What could be written for an edit method, by the model shown or, where it cannot edit so, by one that can.

    Models of few words know some objects only, and their examples name those of the picture that the editor opens with.
    The other pictures to start with have instructions of their own; there are none for any other picture.
    """
    model = page.variant(selected)
    if method not in available(page, selected):
        found = offers(page, way_of(method))
        if not found:
            return ()
        model = found[0].variant
    if not _has_few_words(model):
        return model.prompts("edit", language)
    example = example_of(tree)
    if example == FIRST_EXAMPLE:
        return model.prompts("edit", language)
    return instructions(language).get(example, ()) if method == INSTRUCT else ()


def is_suggestion(page: PageContext, text: str) -> bool:
    """Whether a text is what any model could be suggested for any picture, in any language."""
    rows = (by_verb.get("edit", ()) for row in page.catalog.values() for by_verb in row.examples.values())
    return any(text in texts for texts in (*rows, *(t for of in _instructions().values() for t in of.values())))


def example_of(tree: Tree) -> str:
    """The name of the example picture that the one in the editor is or was made from; "" where it is none."""
    step = tree.current
    if step is None:
        return "" if tree.steps or tree.emptied else FIRST_EXAMPLE
    while step.parent is not None:
        step = tree[step.parent]
    return _example_digests().get(step.digest, "")


def instructions(language: str) -> dict[str, tuple[str, ...]]:
    """Instructions for the example pictures by their names."""
    return _instructions().get(language, {})


@lru_cache
def _instructions() -> dict[str, dict[str, tuple[str, ...]]]:
    read = json.loads((EXAMPLES / "instructions.json").read_text("utf-8"))
    return {language: {name: tuple(texts) for name, texts in of.items()} for language, of in read.items()}


@lru_cache
def _example_digests() -> dict[str, str]:
    return {digest(open_picture(example_file(name))): name for name in example_names()}


def _has_few_words(model: Variant) -> bool:
    return model.folder is not None and vocabulary_of(model.folder) is not None
