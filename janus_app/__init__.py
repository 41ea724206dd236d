"""One local model that chats about pictures, draws and edits them.

    import janus_app

    session = janus_app.session("janus-embedded")
    finished = session.result(janus_app.GenerateRequest("a red circle", seed=3))
    for saved in janus_app.OutputStore("outputs").save(finished):
        print(saved.file)

`session.run(request)` yields events instead (progress, previews, text), and closing it cancels within a step. Every
name below is imported when it is first used, so importing this package costs nothing. All failures that a user can do
something about are `AppError`s.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from janus_app.runtime.session import ModelSession

_MODULES = {
    "AppError": "errors",
    "Catalog": "registry.catalog",
    "ChatRequest": "types",
    "EditRequest": "types",
    "Finished": "types",
    "GenerateRequest": "types",
    "Hub": "hub",
    "ModelSession": "runtime.session",
    "OutputStore": "outputs.store",
    "Turn": "types",
    "drain": "types",
    "load_catalog": "registry.catalog",
    "open_mask": "outputs.image_io",
    "open_picture": "outputs.image_io",
    "read_metadata": "outputs.metadata",
}
__all__ = [*_MODULES, "session"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def session(model: str = "", device: str = "auto", precision: str = "auto") -> ModelSession:
    """A session with a loaded model: a manifest id or the path of a checkpoint folder, "" = the embedded model.

    Downloads what is missing. Raises AppError where the model is unknown or does not fit.
    """
    from janus_app.hub import Hub
    from janus_app.registry.catalog import load_catalog
    from janus_app.runtime.session import ModelSession
    from janus_app.types import drain

    catalog = load_catalog()
    made = ModelSession(catalog, Hub())
    drain(made.load(model or catalog.default().id, device, precision))
    return made
