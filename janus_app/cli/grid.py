"""`grid`: pictures over one or two settings, each in a file of its own, and a labelled sheet of them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from janus_app.cli import flags
from janus_app.cli.console import UsageError, asking, emit, follow
from janus_app.cli.draw import able, flow
from janus_app.cli.work import chosen, load, open_session, value
from janus_app.outputs.store import OutputStore
from janus_app.types import Event, GenerateRequest
from janus_app.workflows.axes import AXES, parse_axis
from janus_app.workflows.grid import Cell, draw_grid, plan_grid, save_sheet

AXIS_HELP = f"a setting and its values: guidance=1,3,5, seed=1..4, 'prompt=a red cat | a blue dog' ({', '.join(AXES)})"


def add_grid(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--x", required=True, metavar="SETTING=VALUES", help=AXIS_HELP)
    parser.add_argument("--y", metavar="SETTING=VALUES", help="the same for the rows; without it there is one row")
    parser.add_argument("--prompt", help="what to draw; not needed where an axis is the prompt")
    flags.drawing(parser)


def grid(args: argparse.Namespace) -> int:
    session = open_session()
    variant = chosen(session.catalog, args)
    able(variant, "generate")
    with asking():
        x, y = parse_axis(args.x), parse_axis(args.y) if args.y is not None else None
        given = args.prompt or next((str(a.values[0]) for a in (x, y) if a and a.name == "prompt"), "")
        if args.count is not None:
            raise UsageError("A grid has one picture in each cell. Leave --count out, or make the seed an axis.")
        if args.out.suffix.lower() == ".png":
            raise UsageError("A grid is many files. Give --out a folder.")
        base = GenerateRequest(
            prompt=given,
            negative=args.negative or "",
            guidance=value(args, variant, "guidance", "guidance", 5.0),
            temperature=value(args, variant, "temperature", "temperature", 1.0),
            seed=args.seed or 0,
            turbo=args.turbo,
            **flow(args, variant),
        )
        plan = plan_grid(base, x, y, variant)
    load(session, args, variant)

    store = OutputStore(args.out)
    cells: list[Cell] = []

    def events() -> Iterator[Event]:
        for step in draw_grid(plan, session.run, store):
            if isinstance(step, Cell):
                cells.append(step)
                _report(step, args.json)
            else:
                yield step

    follow(events())
    file = save_sheet(plan, cells, store)
    if args.json:
        emit({"sheet": str(file)})
    else:
        print(file, flush=True)
    return 0


def _report(cell: Cell, as_json: bool) -> None:
    record = cell.record
    if as_json:
        emit({"file": str(cell.file), "seed": record.seed, "prompt": record.prompt, "settings": dict(record.settings)})
    else:
        print(cell.file, flush=True)
