"""The rooms and who may import whom: an arrow only ever points down this list (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "janus_app"

# Ground floor first. A room may import its own and every lower floor, never a higher one or a neighbour.
FLOORS = (
    ("janus_app", "janus_app.errors", "janus_app.amounts"),
    ("janus_app.models.base",),  # the words every room speaks: requests and events
    ("janus_app.pictures", "janus_app.manifest_schema"),
    ("janus_app.catalog", "janus_app.local_folder"),
    ("janus_app.models",),
    ("janus_app.quantise",),  # a precision may bring a layer of its own (models/eight_bit.py)
    ("janus_app.spread", "janus_app.converted", "janus_app.own_models"),
    ("janus_app.hub",),  # above models only for the words of models/base.py
    ("janus_app.devices", "janus_app.heap", "janus_app.watchdog"),
    ("janus_app.memory",),
    ("janus_app.loader",),
    ("janus_app.convert",),
    ("janus_app.studio",),
    ("janus_app.records", "janus_app.doctor"),
    ("janus_app.token_map",),
    ("janus_app.library",),
    ("janus_app.runs",),
    ("janus_app.ui",),
    ("janus_app.cli",),
    ("janus_app.__main__",),
)
# One room in two files each.
TOGETHER = {("janus_app.catalog", "janus_app.local_folder")}

FORBIDDEN = {  # what a room must not know, wherever in the file the import stands
    "janus_app.models": {"gradio", "yaml", "huggingface_hub", "bitsandbytes", "janus_app.hub"},  # diffusers: see below
    "janus_app.catalog": {"torch", "gradio", "huggingface_hub", "httpx"},
    "janus_app.hub": {"torch", "gradio", "transformers"},
    "janus_app.library": {"torch", "gradio", "janus_app.studio"},
    "janus_app.runs": {"torch", "gradio"},
    "janus_app.ui": {"torch", "transformers", "diffusers"},
    "janus_app.studio": {"gradio"},
    "janus_app.loader": {"gradio", "huggingface_hub"},
}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The room a module belongs to: `janus_app.models.janus.draw` lives in `janus_app.models`."""
    own_floor = "janus_app.models.base"
    return own_floor if module == own_floor else ".".join(module.split(".")[:2])


def floor(module: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if room(module) in rooms:
            return number
    raise AssertionError(f"{module} has no floor: put it into FLOORS and docs/architecture.md")


def imports(file: Path, *, at_load: bool) -> Iterator[str]:
    """Absolute names imported by a file; at_load keeps those of the module level alone."""
    tree = ast.parse(file.read_text("utf-8"))
    nodes = ast.iter_child_nodes(tree) if at_load else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}: relative import"
            assert node.module is not None
            for alias in node.names:
                whole = ROOT / Path(*node.module.split("."), alias.name)
                nested = whole.is_dir() or whole.with_suffix(".py").is_file()
                yield f"{node.module}.{alias.name}" if nested else node.module


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_down(file: Path) -> None:
    me = module_name(file)
    for other in imports(file, at_load=False):
        if not other.startswith("janus_app") or room(other) == room(me):
            continue
        pair = tuple(sorted((room(me), room(other))))
        assert floor(other) < floor(me) or pair in TOGETHER, f"{me} imports {other}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_rooms_do_not_know_what_they_must_not(file: Path) -> None:
    forbidden = FORBIDDEN.get(room(module_name(file)), set())
    for other in imports(file, at_load=False):
        assert not any(other == name or other.startswith(f"{name}.") for name in forbidden), other


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_light_rooms_do_not_bring_torch_in() -> None:
    modules = loaded_by(
        "import janus_app.catalog, janus_app.hub, janus_app.studio, janus_app.models.base, janus_app.cli"
    )
    assert not {"torch", "gradio", "transformers"} & modules


def test_the_models_need_neither_gradio_nor_diffusers_nor_bitsandbytes() -> None:
    """Autoencoders of diffusers are built where a family draws with one, never at import."""
    modules = loaded_by("import janus_app.models.janus.model, janus_app.models.janusflow.model, janus_app.loader")
    assert "torch" in modules
    assert not {"gradio", "diffusers", "bitsandbytes", "transformers", "huggingface_hub"} & modules
