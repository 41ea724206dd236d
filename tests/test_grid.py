"""Grids over one or two settings: axes, the plan, drawing, and the sheet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from janus_app.cli import main
from janus_app.errors import AppError
from janus_app.hub import Hub
from janus_app.outputs.metadata import read_metadata
from janus_app.outputs.store import OutputStore
from janus_app.registry.catalog import load_catalog
from janus_app.runtime.session import ModelSession
from janus_app.types import Event, GenerateRequest, Progress, drain
from janus_app.workflows.contact_sheet import contact_sheet
from janus_app.workflows.grid import (
    CHUNK,
    MAX_CELLS,
    Axis,
    Cell,
    axes_of,
    axis_of,
    draw_grid,
    parse_axis,
    plan_grid,
    starting_values,
)
from tests.page_server import FLOW_ROW, GOLDEN

BASE = GenerateRequest("four stars", seed=5, count=4, guidance=1.0)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("guidance=1, 3,5", (1.0, 3.0, 5.0)),
        ("guidance=1，2.5", (1.0, 2.5)),
        ("seed=1..4", (1, 2, 3, 4)),
        ("seed=7 9 7", (7, 9)),
        ("solver=euler,ab2", ("euler", "ab2")),
        ("prompt=a cat, a dog | two cats", ("a cat, a dog", "two cats")),
        ("negative=|blurry", ("", "blurry")),
    ],
)
def test_axis_is_parsed(text: str, values: tuple[Any, ...]) -> None:
    assert parse_axis(text) == Axis(text.partition("=")[0], values)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("guidance", "is not an axis"),
        ("size=1,2", "is not an axis"),
        ("guidance=", "has no values"),
        ("guidance=one", "is not a number"),
        ("steps=1.5", "is not a whole number"),
        ("solver=magic", "no solver called"),
        ("seed=1..4000000000", "more than 8 values"),
    ],
)
def test_invalid_axis_raises(text: str, sentence: str) -> None:
    with pytest.raises(AppError, match=sentence):
        parse_axis(text)


def test_grid_is_checked_before_anything_is_drawn() -> None:
    variant = load_catalog()["janus-embedded"]
    assert "steps" not in axes_of(variant) and "temperature" in axes_of(variant)
    plan = plan_grid(BASE, parse_axis("guidance=1,3"), parse_axis("seed=5..7"), variant)
    assert [[(r.guidance, r.seed, r.count) for r in row] for row in plan.requests] == [
        [(1.0, seed, 1), (3.0, seed, 1)] for seed in (5, 6, 7)
    ]
    for x, y, sentence in (
        ("guidance=1,2", "guidance=3", "Both axes"),
        ("steps=1,2", None, "no setting called steps"),
        ("guidance=1,99", None, "Guidance must be"),
        ("seed=1..7", "guidance=1,2,3,4,5,6", f"at most {MAX_CELLS}"),
    ):
        with pytest.raises(AppError, match=sentence):
            plan_grid(BASE, parse_axis(x), parse_axis(y) if y else None, variant)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> ModelSession:
    """The embedded model, and a tiny flow one beside it."""
    rows = tmp_path_factory.mktemp("rows") / "rows.yaml"
    flow = FLOW_ROW.format(id="tiny-flow", title="Tiny Flow", folder=GOLDEN / "janusflow_1_3b" / "checkpoint")
    rows.write_text(f"variants:\n{flow}", encoding="utf-8")
    session = ModelSession(load_catalog(rows), Hub())
    drain(session.load("janus-embedded", device="cpu"))
    return session


def drawn(session: ModelSession, folder: Path, x: str, y: str | None = None) -> Iterator[Event | Cell]:
    assert session.variant is not None
    plan = plan_grid(BASE, parse_axis(x), parse_axis(y) if y else None, session.variant)

    return draw_grid(plan, session.run, OutputStore(folder))


def test_cell_equals_the_picture_drawn_alone(session: ModelSession, tmp_path: Path) -> None:
    steps = list(drawn(session, tmp_path, "temperature=0.2,1", "seed=5,6"))
    cells = [step for step in steps if isinstance(step, Cell)]
    assert [(c.row, c.column) for c in cells] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    alone = drain(session.run(GenerateRequest("four stars", seed=6, temperature=1.0, guidance=1.0)))
    assert alone.pictures[0].image_tokens == read_metadata(cells[3].file).image_tokens  # type: ignore[union-attr]
    assert cells[2].metadata.image_tokens != cells[3].metadata.image_tokens, "the settings made no difference"
    counted = [step for step in steps if isinstance(step, Progress) and step.stage == "draw"]
    shares = [step.done / step.total for step in counted]
    assert shares == sorted(shares) and shares[-1] == 1 and str(counted[-1].detail) == "picture 4 of 4"


def test_closing_keeps_saved_pictures_and_frees_the_session(session: ModelSession, tmp_path: Path) -> None:
    steps = drawn(session, tmp_path, "seed=1..4")
    next(step for step in steps if isinstance(step, Cell))
    next(step for step in steps if isinstance(step, Progress))
    steps.close()  # type: ignore[attr-defined]
    assert session.state.phase == "ready" and session.state.queue == 0
    assert len(list(tmp_path.glob("*.png"))) == 1


def test_changing_the_model_ends_the_grid(session: ModelSession, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    steps = drawn(session, tmp_path, "seed=1..3")
    next(step for step in steps if isinstance(step, Cell))
    drain(session.load("tiny-flow", device="cpu"))
    try:
        with pytest.raises(AppError, match="changed to Tiny Flow"):
            list(steps)
    finally:
        drain(session.load("janus-embedded", device="cpu"))


def test_sheet_shows_every_picture_in_its_place_at_native_size() -> None:
    colours = [["#ff0000", "#00ff00"], ["#0000ff", "#ffff00"]]
    pictures = [[Image.new("RGB", (200, 100), colour) for colour in row] for row in colours]
    prompts = Axis("prompt", ("一只猫", "a very long prompt " * 30))
    made = contact_sheet(Axis("guidance", (1.0, 2.0)).labels(), prompts.labels(), pictures, "note")
    for r, row in enumerate(colours):
        for c, colour in enumerate(row):
            whole = Image.new("RGB", (200, 100), colour).getpixel((0, 0))
            places = [(x, y) for x in range(0, made.width, 20) for y in range(0, made.height, 10)]
            here = [place for place in places if made.getpixel(place) == whole]
            assert len(here) == 100, f"the picture in row {r}, column {c} was scaled or covered"


def test_grid_command_saves_each_picture_and_the_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = "--x=prompt=a red cat | a blue dog"
    assert main(["grid", prompts, "--y", "seed=3,4", "--out", str(tmp_path), "--device", "cpu", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["prompt"], line["seed"]) for line in lines[:-1]] == [
        (prompt, seed) for seed in (3, 4) for prompt in ("a red cat", "a blue dog")
    ]
    facts = json.loads(Image.open(lines[-1]["sheet"]).info[CHUNK])
    assert [name for row in facts["files"] for name in row] == [Path(line["file"]).name for line in lines[:-1]]
    with pytest.raises(AppError, match="no metadata of this app"):
        read_metadata(lines[-1]["sheet"])  # a collage is not drawn again
    assert main(["grid", "--x", "guidance=1", "--prompt", "a cat", "--count", "2"]) == 2
    assert "Each cell of a grid has one picture" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "name", "values"),
    [
        ("janus-embedded", "guidance", "1, 1.5, 2"),
        ("janus-embedded", "temperature", "0.55, 0.7, 0.85"),
        ("janusflow-embedded", "guidance", "1, 1.5, 2"),
        ("janusflow-embedded", "steps", "5, 10, 20"),
        ("janusflow-embedded", "solver", "euler, heun, ab2"),
        ("pisces-embedded", "steps", "5, 10, 20"),
        ("transfusion-embedded", "guidance", "1, 1.5, 2"),
        ("janus-pro-1b", "guidance", "4, 5, 6"),
        ("janus-pro-1b", "seed", "1..4"),
    ],
)
def test_grid_begins_near_the_models_own_values(model: str, name: str, values: str) -> None:
    variant = load_catalog()[model]
    assert starting_values(variant, name) == values
    axis_of(name, values)


def test_every_value_a_grid_begins_with_is_one_the_model_takes() -> None:
    for variant in load_catalog().values():
        for name in axes_of(variant):
            row = variant.settings.get(name)
            for value in axis_of(name, text).values if (text := starting_values(variant, name)) else ():
                assert row is None or row.low <= float(value) <= row.high
