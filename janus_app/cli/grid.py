"""`grid`: one picture for each pair of values of two settings, and a labelled sheet of them all."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from janus_app.cli import options
from janus_app.cli.common import chosen_variant, load_model, open_session, require_verb
from janus_app.cli.console import UsageError, emit, follow, usage_errors
from janus_app.outputs.store import OutputStore, is_picture_name
from janus_app.types import Event, GenerateRequest
from janus_app.workflows.grid import AXES, Cell, draw_grid, parse_axis, plan_grid, save_sheet
from janus_app.workflows.settings import generate_settings

SUMMARY = "Draw a grid over one or two settings, with a labelled contact sheet."
AXIS_HELP = (
    f"a setting and its values: guidance=1,1.5,2, seed=1..4, 'prompt=a red cat | a blue dog' ({', '.join(AXES)})"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    parser.add_argument("--x", required=True, metavar="SETTING=VALUES", help=AXIS_HELP)
    parser.add_argument("--y", metavar="SETTING=VALUES", help="the same for the rows; without it there is one row")
    parser.add_argument("--prompt", help="what to draw; not needed where an axis is the prompt")
    options.add_drawing(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    session = open_session()
    variant = chosen_variant(session.catalog, args)
    require_verb(variant, "generate")
    with usage_errors():
        x, y = parse_axis(args.x), parse_axis(args.y) if args.y is not None else None
        if args.count is not None:
            raise UsageError("cli_grid_with_count")
        if is_picture_name(args.out) and not args.out.is_dir():
            raise UsageError("cli_grid_out_is_file")
        prompt = args.prompt or next((str(axis.values[0]) for axis in (x, y) if axis and axis.name == "prompt"), "")
        plan = plan_grid(GenerateRequest(prompt, **generate_settings(vars(args), variant)), x, y, variant)
    load_model(session, args, variant)

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
    record = cell.metadata
    if as_json:
        emit({"file": str(cell.file), "seed": record.seed, "prompt": record.prompt, "settings": dict(record.settings)})
    else:
        print(cell.file, flush=True)
