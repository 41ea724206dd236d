"""Which file may import which: the layers of docs/architecture.md, checked file by file, and no circles at all."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "janus_app"

# From the bottom up: a file may import files of its own layer and of the layers above it in this list.
LAYERS = (
    ("version", "paths", "formatting", "errors", "file_kinds", "files", "types"),
    ("nn",),
    ("models",),
    ("registry",),
    ("hub",),
    ("runtime",),
    ("outputs",),
    ("workflows",),
    ("server",),
    ("cluster",),
    ("ui",),
    ("cli",),
    ("", "catalog", "records", "studio", "pictures", "models.base", "__main__"),  # the public face, and old paths
)

FORBIDDEN = {  # packages that a layer must not import, wherever in the file the import stands
    "types": {"torch"},
    "nn": {"gradio", "huggingface_hub", "diffusers", "transformers"},
    "models": {"gradio", "yaml", "huggingface_hub", "bitsandbytes"},
    "registry": {"torch", "gradio", "huggingface_hub", "httpx"},
    "hub": {"torch", "gradio", "transformers"},
    "runtime": {"gradio"},
    "outputs": {"torch", "gradio"},
    "workflows": {"torch", "gradio"},
    "server": {"torch", "gradio"},
    "cluster": {"torch", "gradio"},
    "ui": {"torch", "transformers", "diffusers"},
    "cli": {"gradio"},
}


def module_name(file: Path) -> str:
    """`janus_app/nn/llama.py` as "nn.llama"; the package itself is ""."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def layer(module: str) -> int:
    """The number of the layer of a module: the longest name in LAYERS that it begins with."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        for number, names in enumerate(LAYERS):
            if ".".join(parts[:length]) in names:
                return number
    raise AssertionError(f"{module} has no layer: add it to LAYERS and docs/architecture.md")


def imports(file: Path) -> Iterator[str]:
    """Absolute names of all modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{file.name}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole.removeprefix("janus_app.") in FILES else node.module


def imports_of_ours(module: str) -> set[str]:
    """The modules of this package that `module` imports."""
    names = {name for name in imports(FILES[module]) if name.split(".")[0] == "janus_app"}
    return {name.removeprefix("janus_app").removeprefix(".") for name in names}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module, by Tarjan's algorithm."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in graph[node]:
            if other not in number:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], number[other])
        if low[node] == number[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1 or node in graph[node]:
                found.append(sorted(component))

    for node in graph:
        if node not in number:
            visit(node)
    return found


@pytest.mark.parametrize("module", FILES)
def test_a_file_imports_only_its_own_layer_and_those_below(module: str) -> None:
    for other in imports_of_ours(module):
        assert layer(other) <= layer(module), f"{module} imports {other}"


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles({module: imports_of_ours(module) & FILES.keys() for module in FILES}) == []


def test_the_search_for_circles_finds_one() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}, "e": {"a"}}
    assert sorted(circles(graph)) == [["b", "c"], ["d"]]


@pytest.mark.parametrize("module", FILES)
def test_a_file_does_not_import_what_its_layer_must_not_know(module: str) -> None:
    forbidden = next((FORBIDDEN[name] for name in FORBIDDEN if module.split(".")[0] == name), set())
    for other in imports(FILES[module]):
        assert other.split(".")[0] not in forbidden, f"{module} imports {other}"


def modules_loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_light_layers_import_no_torch() -> None:
    modules = modules_loaded_by(
        "import janus_app, janus_app.types, janus_app.registry.catalog, janus_app.hub, janus_app.runtime.session, "
        "janus_app.outputs.metadata, janus_app.models.registry, janus_app.cli, janus_app.server.api.app, "
        "janus_app.server.mcp.entrances"
    )
    assert not {"torch", "gradio", "transformers"} & modules


def test_the_models_import_neither_gradio_nor_diffusers_nor_bitsandbytes() -> None:
    """Autoencoders of diffusers are built where a family draws with one, never at import."""
    modules = modules_loaded_by(
        "import janus_app.models.janus.pipeline, janus_app.models.janusflow.pipeline, janus_app.runtime.loader"
    )
    assert "torch" in modules
    assert not {"gradio", "diffusers", "bitsandbytes", "transformers", "huggingface_hub"} & modules
