"""What should change? The answers a user can choose from, and which models can do each of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from janus_app.formatting import size_text
from janus_app.models.registry import get_family
from janus_app.registry.types import Variant
from janus_app.types import EditMethod
from janus_app.ui.context import PageContext

# Each way with the edit methods that do it; a model has at most one of them.
WAYS: Mapping[str, tuple[EditMethod, ...]] = {
    "words": ("instruct",),
    "part": ("region", "masked"),
    "prompts": ("flowedit",),
    "whole": ("variation", "image to image"),
}
# Words that an instruction begins with; a description of a picture does not.
INSTRUCTION = re.compile(
    r"\s*(please\s+)?(make|turn|change|replace|remove|delete|erase|add|put|give|paint|colou?r|recolou?r|move|swap"
    r"|take|let|convert|get rid)\s"
    r"|\s*请?(把|将|给|让|去掉|去除|删|加|添|换|改|变|移|擦|涂)"
    r"|.*(变成|改成|换成|替换为)",
    re.IGNORECASE,
)


def way_of(method: str | None) -> str:
    """The way that an edit method belongs to."""
    return next((way for way, methods in WAYS.items() if method in methods), "")


def methods_of(variant: Variant) -> tuple[str, ...]:
    """The edit methods of a variant, its usual one first, without loading it."""
    if "edit" not in variant.verbs:
        return ()
    return tuple(variant.edit_methods or get_family(variant.family).edit_methods)


def method_for(way: str, methods: Collection[str]) -> str | None:
    """The one of `methods` that edits in this way, None where there is none."""
    return next((method for method in WAYS.get(way, ()) if method in methods), None)


def available(page: PageContext, selected: str | None) -> tuple[str, ...]:
    """The edit methods of the model whose settings the page shows, its usual one first."""
    able = page.session.state.capabilities
    return tuple(able.edit_methods) if able else methods_of(page.variant(selected))


def sounds_like_an_instruction(text: str | None) -> bool:
    """Whether a text says what to do, as "make the cat blue" does, and not what a picture shows."""
    return INSTRUCTION.match(text or "") is not None


@dataclass(frozen=True)
class Offer:
    """A model that can edit in a way the loaded one cannot. `ready` means that nothing has to be downloaded."""

    variant: Variant
    ready: bool

    @property
    def size(self) -> str:
        return size_text(self.variant.download_bytes)


def offers(page: PageContext, way: str) -> list[Offer]:
    """The models that can edit in this way: ready ones first, then by what has to be downloaded.

    Models whose files the user has to bring are listed once they are there; a shared page downloads nothing.
    """
    found = []
    for variant in page.catalog.values():
        if method_for(way, methods_of(variant)) is None:
            continue
        ready = page.session.hub.status(variant).complete
        if ready or not (page.shared or variant.is_local):
            found.append(Offer(variant, ready))
    return sorted(found, key=lambda offer: (not offer.ready, 0 if offer.ready else offer.variant.download_bytes))


def missing_way(method: str | None, methods: Collection[str], text: str | None) -> str:
    """The way to offer beside the chosen method, "" where that method does what the user wants.

    `methods` are those of the model; `text` is what the user wrote.
    """
    chosen = way_of(method)
    if method not in methods:
        return chosen
    return "words" if chosen != "words" and sounds_like_an_instruction(text) else ""
