"""A grid of runs over one or two settings, everything else equal: planned first, then drawn one picture at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from PIL.Image import Image

from janus_app.errors import AppError
from janus_app.outputs.metadata import ImageMetadata
from janus_app.outputs.store import OutputStore
from janus_app.registry.types import Variant
from janus_app.types import Event, Finished, GenerateRequest, Progress
from janus_app.workflows.axes import Axis, axes_of
from janus_app.workflows.contact_sheet import sheet

MAX_CELLS = 36  # each is a whole drawing, which takes minutes where there is no graphics card
CHUNK = "janus_app_grid"  # the sheet's own chunk: it is a collage, not a picture somebody could draw again


@dataclass(frozen=True)
class Plan:
    """What is drawn, row by row: `requests[r][c]` has y's value number r and x's value number c. `y` may be None."""

    base: GenerateRequest
    x: Axis
    y: Axis | None
    requests: tuple[tuple[GenerateRequest, ...], ...]

    @property
    def count(self) -> int:
        return sum(len(row) for row in self.requests)


@dataclass(frozen=True)
class Cell:
    """A drawn cell: its place, its picture at native size, its record, and the file that holds both."""

    row: int
    column: int
    image: Image
    record: ImageMetadata
    file: Path


def plan_grid(base: GenerateRequest, x: Axis, y: Axis | None, variant: Variant) -> Plan:
    """Every request of the grid, checked before the first is drawn; the count is one picture a cell.

    Raises AppError where the axes are the same, the variant has no such setting, a value is out of range, or there
    are more than MAX_CELLS cells.
    """
    axes = [x] if y is None else [x, y]
    if y is not None and x.name == y.name:
        raise AppError(f"Both axes are {x.name}. Choose another setting for one of them.")
    for axis in axes:
        if axis.name not in axes_of(variant):
            raise AppError(f"{variant.title} has no setting called {axis.name}. It has: {', '.join(axes_of(variant))}.")
    cells = len(x.values) * (len(y.values) if y else 1)
    if cells > MAX_CELLS:
        raise AppError(
            f"The grid has {cells} pictures; at most {MAX_CELLS} are drawn, because each one takes as long as a "
            "drawing of its own. Take some values away."
        )
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
    """Draw the cells one after the other; closing stops within a step, and what was drawn stays kept.

    `run` starts a request (its turn in the line is that of any job), `store` saves the pictures. Progress counts
    the whole grid, so a page can tell the time left. Raises AppError where somebody changed the model meanwhile.
    """
    cells: list[Cell] = []
    for r, row in enumerate(plan.requests):
        for c, request in enumerate(row):
            detail = f"picture {len(cells) + 1} of {plan.count}"
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
                raise AppError("A picture of the grid did not come. What was drawn before it is kept; try again.")
            saved = store.save(finished)[0]
            record = saved.metadata
            if cells and record.model != cells[0].record.model:
                raise AppError(
                    f"The model was changed to {record.title} while the grid was drawn, so its pictures cannot be "
                    "compared. What was drawn is kept; start the grid again."
                )
            cells.append(Cell(r, c, saved.image, record, saved.file))
            yield cells[-1]
    return cells


def save_sheet(plan: Plan, cells: list[Cell], store: OutputStore) -> Path:
    """The labelled sheet of a finished grid as a PNG of the store; returns its path.

    The pictures in it are at native size. A text chunk names the axes and the file of every cell. Raises AppError
    where the folder cannot be written.
    """
    record = cells[0].record
    pictures = [[cell.image for cell in cells if cell.row == r] for r in range(len(plan.requests))]
    picture = sheet(plan.x, plan.y, pictures, footnote(plan, record))
    facts = {
        "model": record.model,
        "x": {"name": plan.x.name, "values": plan.x.values},
        "y": {"name": plan.y.name, "values": plan.y.values} if plan.y else None,
        "files": [[cell.file.name for cell in cells if cell.row == r] for r in range(len(plan.requests))],
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    return store.save_sheet(picture, record, CHUNK, json.dumps(facts))


def footnote(plan: Plan, record: ImageMetadata) -> str:
    """What all cells share, in a line: the words, the model, the seed, and the settings that are on no axis."""
    axes = {plan.x.name, plan.y.name if plan.y else ""}
    parts = [] if "prompt" in axes else [plan.base.prompt]
    parts.append(f"{record.title} {record.precision}")
    parts += [] if "seed" in axes else [f"seed {plan.base.seed}"]
    for name, value in record.settings.items():
        if name not in axes:
            parts.append(f"{name.replace('_', ' ')} {value:g}" if isinstance(value, (int, float)) else f"{value}")
    return "  ·  ".join(parts)
