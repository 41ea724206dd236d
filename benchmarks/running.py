"""Models and jobs for measuring, by the path the app takes."""

from __future__ import annotations

from collections.abc import Iterator

from janus_app.registry.types import Variant
from janus_app.runtime import loader
from janus_app.runtime.fit import plan_load
from janus_app.types import Event, Finished, Model, drain, result_of


def open_model(variant: Variant, precision: str, device: str = "auto") -> Model:
    """The variant's model by the loader the app uses; its folder must be on this machine."""
    if variant.folder is None:
        raise SystemExit(f"{variant.id} is not a folder on this machine; quality is measured on embedded models.")
    return result_of(loader.load(plan_load(variant, variant.folder, device).choose(precision))).model


def finished(events: Iterator[Event]) -> Finished:
    last = drain(events)
    if not isinstance(last, Finished):
        raise SystemExit("the model stopped without an answer")
    return last
