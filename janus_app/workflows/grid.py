"""A grid of pictures over one or two settings, all else equal: planned first, then drawn one by one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from PIL.Image import Image

from janus_app.errors import AppError, Message
from janus_app.outputs.metadata import ImageMetadata
from janus_app.outputs.store import OutputStore
from janus_app.registry.types import Variant
from janus_app.types import SOLVERS, Event, Finished, GenerateRequest, Progress
from janus_app.workflows.contact_sheet import contact_sheet, has_font

Value = str | int | float

AXES = ("guidance", "temperature", "seed", "prompt", "negative", "steps", "solver")  # in the order they are shown
WORDS = ("prompt", "negative")  # their values are separated by |, because prompts contain commas
WHOLE = ("seed", "steps")
EXAMPLES = {"guidance": "1, 1.5, 2", "temperature": "0.5, 1", "seed": "1..4", "steps": "5, 10", "solver": "euler, ab2"}
MAX_VALUES = 8  # along one axis: more columns are too small to compare on a screen
MAX_CELLS = 36  # each takes as long as any drawing: minutes without a graphics card
CHUNK = "janus_app_grid"  # text chunk of the sheet, which is a collage and cannot be drawn again from its metadata


@dataclass(frozen=True)
class Axis:
    """A setting of GenerateRequest and the values it takes in turn."""

    name: str
    values: tuple[Value, ...]

    def labels(self) -> list[str]:
        """The values as they are written on a sheet. A prompt that no installed font can write is numbered instead."""
        if self.name not in WORDS:
            return [f"{self.name} {value_text(value)}" for value in self.values]
        texts = [str(value) or "(none)" for value in self.values]
        return [text if has_font(text) else f"{self.name} {number}" for number, text in enumerate(texts, 1)]


@dataclass(frozen=True)
class Plan:
    """The requests of a grid: `requests[r][c]` has value r of `y` and value c of `x`."""

    base: GenerateRequest
    x: Axis
    y: Axis | None
    requests: tuple[tuple[GenerateRequest, ...], ...]

    @property
    def count(self) -> int:
        return sum(len(row) for row in self.requests)


@dataclass(frozen=True)
class Cell:
    """A finished cell: its place, its picture at native size, its metadata, and the PNG with both."""

    row: int
    column: int
    image: Image
    metadata: ImageMetadata
    file: Path


def axes_of(variant: Variant) -> tuple[str, ...]:
    """The settings that change the variant's pictures, so that a grid may run over them."""
    usable = {"prompt", "negative", "seed", "guidance", *variant.settings}
    usable |= {"solver"} if variant.solvers else set()
    return tuple(name for name in AXES if name in usable)


def starting_values(variant: Variant, name: str) -> str:
    """Values to begin with along the axis `name`: around the variant's own value, and within its range.

    Far from it a model draws junk: 3 is a usual guidance for one, and ruins the pictures of another.
    """
    if name == "solver":
        return ", ".join(variant.solvers)
    row = variant.settings.get(name)
    if row is None:
        return EXAMPLES.get(name, "")
    values: list[float]
    if name in WHOLE:
        values = [round(row.default / 2), round(row.default), round(row.default * 2)]
    else:
        step = max(row.step, round(row.default / 5 / row.step) * row.step)
        first = row.default - step if row.default - step >= row.low else row.default
        values = [first, first + step, first + 2 * step]
    inside = sorted({min(max(value, row.low), row.high) for value in values})
    return ", ".join(value_text(round(value, 6)) for value in inside)


def parse_axis(text: str) -> Axis:
    """Read "guidance=1,1.5,2", "seed=1..4", "solver=euler,ab2" or "prompt=a red cat | a blue dog".

    Raises AppError for an unknown setting, for values that are not numbers, and for none or too many of them.
    """
    name, sign, values = text.partition("=")
    name = name.strip().lower()
    if not sign or name not in AXES:
        raise AppError("axis_unknown", given=text[:80], names=", ".join(AXES))
    return axis_of(name, values)


def axis_of(name: str, text: str) -> Axis:
    """The axis of the setting `name` with the values written in `text`. Raises AppError as `parse_axis` does."""
    span = re.fullmatch(r"\s*(-?\d+)\s*\.\.\s*(-?\d+)\s*", text) if name in WHOLE else None
    if span:
        low, high = int(span[1]), int(span[2])
        values: list[Value] = list(range(low, min(high, low + MAX_VALUES) + 1))  # one too many is refused below
    else:
        parts = re.split(r"\|" if name in WORDS else r"[,;，；]|\s+", text)
        # An empty negative prompt is a value; for other settings an empty part is a stray comma.
        values = [_value(name, part.strip()) for part in parts if part.strip() or (name == "negative" and text)]
    values = list(dict.fromkeys(values))
    if not values:
        raise AppError("axis_empty", name=name, example=_example(name))
    if len(values) > MAX_VALUES:
        raise AppError("axis_too_long", name=name, most=MAX_VALUES)
    return Axis(name, tuple(values))


def _value(name: str, text: str) -> Value:
    if name in WORDS:
        return text
    if name == "solver":
        if text not in SOLVERS:
            raise AppError("solver_unknown", given=text, known=", ".join(SOLVERS))
        return text
    try:
        return int(text) if name in WHOLE else float(text)
    except ValueError:
        details = {"text": text[:40], "name": name, "example": _example(name)}
        raise AppError("axis_value_not_whole" if name in WHOLE else "axis_value_not_number", **details) from None


def _example(name: str) -> str:
    return EXAMPLES.get(name, "a red cat | a blue dog")


def value_text(value: Value) -> str:
    """A value as a person writes it: 5, not 5.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def plan_grid(base: GenerateRequest, x: Axis, y: Axis | None, variant: Variant) -> Plan:
    """All requests of the grid, one picture each, checked before the first is drawn.

    Raises AppError where the axes are the same, the variant has no such setting, a value is out of range, or there
    are more than MAX_CELLS cells.
    """
    axes = [x] if y is None else [x, y]
    if y is not None and x.name == y.name:
        raise AppError("grid_axes_equal", name=x.name)
    for axis in axes:
        if axis.name not in axes_of(variant):
            names = ", ".join(axes_of(variant))
            raise AppError("grid_axis_unsupported", title=variant.title, name=axis.name, names=names)
    cells = len(x.values) * (len(y.values) if y else 1)
    if cells > MAX_CELLS:
        raise AppError("grid_too_large", cells=cells, most=MAX_CELLS)
    one = replace(base, count=1, image_tokens=())
    down: tuple[dict[str, object], ...] = tuple({y.name: value} for value in y.values) if y else ({},)
    rows = tuple(
        tuple(replace(one, **{x.name: value}, **row) for value in x.values)  # type: ignore[arg-type]
        for row in down
    )
    return Plan(one, x, y, rows)


def draw_grid(
    plan: Plan, run: Callable[[GenerateRequest], Iterator[Event]], store: OutputStore
) -> Generator[Event | Cell, None, list[Cell]]:
    """Draw the cells one after the other. Closing stops within a step; saved pictures stay.

    `run` starts a request, which waits in the queue like any job; `store` saves the pictures. Progress counts the whole
    grid, so that the time left can be estimated. Raises AppError if the model is changed meanwhile.
    """
    cells: list[Cell] = []
    for r, row in enumerate(plan.requests):
        for c, request in enumerate(row):
            detail = Message("grid_picture_number", number=len(cells) + 1, total=plan.count)
            finished: Finished | None = None
            events = run(request)
            with closing(events):  # type: ignore[type-var]
                for event in events:
                    if isinstance(event, Finished):
                        finished = event
                    elif isinstance(event, Progress) and event.stage == "draw" and event.total:
                        done = len(cells) * event.total + event.done
                        yield replace(event, done=done, total=event.total * plan.count, detail=detail)
                    else:
                        yield event
            if finished is None or not finished.pictures:
                raise AppError("grid_picture_missing")
            saved = store.save(finished)[0]
            record = saved.metadata
            if cells and record.model != cells[0].metadata.model:
                raise AppError("grid_model_changed", title=record.title)
            cells.append(Cell(r, c, saved.image, record, saved.file))
            yield cells[-1]
    return cells


def save_sheet(plan: Plan, cells: list[Cell], store: OutputStore) -> Path:
    """Save the labelled sheet of a finished grid in the store and return its path.

    Pictures keep their native size. A text chunk names the axes and the file of every cell. Raises AppError
    where the folder cannot be written.
    """
    record = cells[0].metadata
    pictures = [[cell.image for cell in cells if cell.row == r] for r in range(len(plan.requests))]
    rows = plan.y.labels() if plan.y else []
    picture = contact_sheet(plan.x.labels(), rows, pictures, footnote(plan, record))
    facts = {
        "model": record.model,
        "x": {"name": plan.x.name, "values": plan.x.values},
        "y": {"name": plan.y.name, "values": plan.y.values} if plan.y else None,
        "files": [[cell.file.name for cell in cells if cell.row == r] for r in range(len(plan.requests))],
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    return store.save_sheet(picture, record, CHUNK, json.dumps(facts))


def footnote(plan: Plan, record: ImageMetadata) -> str:
    """One line with what all cells share: prompt, model, seed, and the settings that are on no axis."""
    axes = {plan.x.name, plan.y.name if plan.y else ""}
    parts = [] if "prompt" in axes else [plan.base.prompt]
    parts.append(f"{record.title} {record.precision}")
    parts += [] if "seed" in axes else [f"seed {plan.base.seed}"]
    for name, value in record.settings.items():
        if name not in axes:
            parts.append(f"{name.replace('_', ' ')} {value:g}" if isinstance(value, (int, float)) else f"{value}")
    return "  ·  ".join(parts)
