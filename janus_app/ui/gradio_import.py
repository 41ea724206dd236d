"""Imports Gradio without what the page does not use, which takes half of the time.

At its import Gradio writes a stub file for editors beside each of its components, and imports the package `mcp` where
that is installed; the tools for MCP hosts (`janus_app.server.mcp`) are no part of Gradio.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

STUBS = "gradio.component_meta", "create_or_modify_pyi"  # the module and its function that writes the stub files


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if hasattr(module, STUBS[1]):
            setattr(module, STUBS[1], lambda *_: None)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == STUBS[0] else None
        if spec is not None and spec.origin:
            spec.loader = _Loader(name, spec.origin)
        return spec


@contextlib.contextmanager
def lean() -> Iterator[None]:
    """Inside the block, `import gradio` takes half as long."""
    finder, hidden = _Finder(), "mcp" not in sys.modules
    sys.meta_path.insert(0, finder)
    if hidden:
        sys.modules["mcp"] = None  # type: ignore[assignment]  # as if it were not installed
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if hidden:
            del sys.modules["mcp"]
