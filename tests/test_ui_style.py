"""The form of the page's code: short functions, and handlers that return values by component, not by place."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from janus_app.hub import Hub
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession
from janus_app.ui.app import build, page_context
from janus_app.ui.common.actions import MENU_VERBS, VERBS
from janus_app.ui.theme import theme

UI = Path(__file__).parent.parent / "janus_app" / "ui"
FILES = sorted(UI.rglob("*.py"))
MAX_LINES = 80


def skips_by_place(tree: ast.AST) -> Iterator[int]:
    """The lines of tuples and lists that contain `gr.skip()`, also repeated or starred."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple | ast.List):
            if any(ast.unparse(part) == "gr.skip()" for item in node.elts for part in ast.walk(item)):
                yield node.lineno
        elif isinstance(node, ast.GeneratorExp | ast.ListComp) and ast.unparse(node.elt) == "gr.skip()":
            yield node.lineno


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(UI)))
def test_functions_fit_a_screen(file: Path) -> None:
    functions = [n for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, ast.FunctionDef)]
    too_long = {f.name: lines for f in functions if (lines := (f.end_lineno or 0) - f.lineno + 1) > MAX_LINES}
    assert not too_long


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(UI)))
def test_skipped_outputs_are_left_out_of_dicts(file: Path) -> None:
    assert list(skips_by_place(ast.parse(file.read_text("utf-8")))) == []


@pytest.mark.parametrize(
    "source",
    ["return a, gr.skip()", "return (gr.skip(),) * 4", "rest = [gr.skip() for _ in x]", "a, *(gr.skip(),) * 8"],
)
def test_skips_by_place_are_found(source: str) -> None:
    assert list(skips_by_place(ast.parse(source)))
    assert not list(skips_by_place(ast.parse("x = gr.skip()")))


def notifies(handler: Callable[..., Any]) -> bool:
    """Whether a handler, or a method of the same object that it calls, shows a notice of Gradio's."""
    source = textwrap.dedent(inspect.getsource(handler))
    if re.search(r"\bgr\.(Info|Warning)\(", source):
        return True
    owner = getattr(handler, "__self__", None)
    names = set(re.findall(r"\bself\.(\w+)\(", source)) - {getattr(handler, "__name__", "")}
    methods = [getattr(type(owner), name, None) for name in names] if owner is not None else []
    return any(inspect.isfunction(method) and notifies(method.__get__(owner)) for method in methods)


def test_handlers_that_show_a_notice_are_queued(tmp_path: Path) -> None:
    catalog = load_catalog()
    demo = build(page_context(ModelSession(catalog, Hub()), catalog, outputs=tmp_path, data=tmp_path / "data"))
    attached = [event for event in demo.fns.values() if inspect.isroutine(event.fn)]
    told = {event.name: event.queue for event in attached if event.fn and notifies(event.fn)}
    assert {"again", "vary", "prepare", "rename", "mark", "back"} <= told.keys()
    assert [name for name, queued in told.items() if not queued] == []


def test_handlers_are_given_values_and_never_the_settings_of_a_component(tmp_path: Path) -> None:
    """Gradio sends all settings of the input at the place of a parameter whose type is a component, not its value."""
    catalog = load_catalog()
    demo = build(page_context(ModelSession(catalog, Hub()), catalog, outputs=tmp_path, data=tmp_path / "data"))
    assert [event.name for event in demo.fns.values() if event.component_prop_inputs] == []


def test_each_verb_keeps_its_own_picture_while_it_waits(tmp_path: Path) -> None:
    """ "Ask" clears the chat first: a click on "Save" meanwhile must not put another picture there."""
    catalog = load_catalog()
    demo = build(page_context(ModelSession(catalog, Hub()), catalog, outputs=tmp_path, data=tmp_path / "data"))
    links = [event for event in demo.fns.values() if "PictureLinks.take" in getattr(event.fn, "__qualname__", "")]
    taken = [event.outputs[0]._id for event in links]
    assert len(taken) == len(set(taken)) == len(VERBS) + len(MENU_VERBS)


STYLES = sorted((Path(__file__).parent.parent / "assets" / "style").glob("*.css"))
SPACED = r"(?:row-|column-)?gap|(?:scroll-)?(?:margin|padding)(?:-[a-z-]+)?|border-spacing"
DECLARED = re.compile(rf"(?<![\w-])(?P<name>{SPACED}|font-size|font)\s*:\s*(?P<value>[^;}}]+)")
# A length of its own; shares of the window and of the parent are no distances of the page's scale.
LENGTH = re.compile(r"(?<![\w.-])-?(?!0(?![\d.]))[\d.]+(?:px|rem|em|pt|ch)\b")
PAGE_WIDTH = "(100vw - 1360px)"  # no distance, but what is left beside the page


def strays(sheet: str) -> list[str]:
    """Distances and sizes of type that a style sheet writes out instead of naming a step of the scales."""
    sheet = re.sub(r"/\*.*?\*/", "", sheet, flags=re.DOTALL).replace(PAGE_WIDTH, "")
    return [found[0] for found in DECLARED.finditer(sheet) if LENGTH.search(found["value"])]


@pytest.mark.parametrize("file", STYLES, ids=lambda file: file.name)
def test_style_sheets_take_distances_and_sizes_of_type_from_the_scales(file: Path) -> None:
    assert strays(file.read_text("utf-8")) == []


def test_stray_distances_are_found_and_the_scales_are_few_and_even() -> None:
    for stray in ("gap: 7px", "margin: 0 -2px", "padding-left: 0.3em", "font-size: 0.9rem", "font: 500 15px serif"):
        assert strays(f"p {{ {stray}; }}") == [stray]
    assert not strays("p { margin: 0 auto; gap: var(--space-2); height: 7px; padding: calc(100vh - var(--bar)) 5% }")
    base = (STYLES[0].parent / "base.css").read_text("utf-8")
    steps = [int(step) for step in re.findall(r"--space-\d: (\d+)px", base)]
    assert steps == sorted(steps) and all(step % 4 == 0 for step in steps)
    given = theme()
    own = {f"{step}px" for step in steps} | set(re.findall(r"--(?:small|body-small|body|large): ([\d.]+rem)", base))
    for scale in ("spacing", "text"):
        assert {getattr(given, f"{scale}_{size}") for size in ("xxs", "xs", "sm", "md", "lg", "xl", "xxl")} <= own


def test_every_scale_step_that_is_used_exists() -> None:
    sheets = "".join(file.read_text("utf-8") for file in STYLES)
    used = set(re.findall(r"var\(--(space-\d|small|body-small|body|large)\b", sheets))
    assert used <= set(re.findall(r"--([\w-]+):", sheets))


def test_no_rule_lists_two_selectors_of_the_dark_theme() -> None:
    """Gradio repeats each rule with its own container before it, and spoils all but the first `.dark` of a list."""
    for file in STYLES:
        sheet = re.sub(r"/\*.*?\*/", "", file.read_text("utf-8"), flags=re.DOTALL)
        for selectors in re.findall(r"([^{}]+)\{", sheet):
            assert len(re.findall(r"(?:^|,)\s*\.dark\s+\S", selectors)) < 2, selectors
