"""`inspect`: how sure the model was of every patch of a picture of this app, as a table and as a heat map."""

from __future__ import annotations

import argparse
import io
from typing import Any

from janus_app.cli import options
from janus_app.cli.common import load_model, open_session, recorded_variant
from janus_app.cli.console import UsageError, emit, follow, say, usage_errors
from janus_app.errors import Message
from janus_app.files import os_errors_as_app_errors, typed_path, write_atomically
from janus_app.outputs.metadata import read_metadata
from janus_app.types import MAX_ALTERNATIVES, Inspection
from janus_app.workflows.token_heatmap import MEASURES, heatmap, inspection_request

SUMMARY = "Show how confident the model was about each patch of a picture, with a heat map."
LISTED = 12  # patches in the table: the least certain ones


def add_options(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    parser.add_argument("picture", metavar="PICTURE", help="a picture this app drew token by token")
    parser.add_argument("--patch", type=int, help="report this one: 1 is top left, counted row by row")
    parser.add_argument(
        "--alternatives", type=int, default=8, help=f"how many likely tokens to list, 1 to {MAX_ALTERNATIVES}"
    )
    parser.add_argument("--measure", choices=tuple(MEASURES), default="entropy", help="what the colours of --out show")
    parser.add_argument("--out", type=typed_path, help="write a heat map to this PNG")
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    session = open_session()
    with usage_errors():
        record = read_metadata(args.picture)
        request = inspection_request(record, args.alternatives)
        variant = recorded_variant(session.catalog, args, record)
        if args.patch is not None and not 1 <= args.patch <= len(request.image_tokens):
            raise UsageError("cli_patch_out_of_range", most=len(request.image_tokens), given=args.patch)
        if args.out is not None and args.out.suffix.lower() != ".png":
            raise UsageError("cli_out_not_png", given=str(args.out))
    if variant.id != record.model:
        say(Message("inspect_other_model", recorded=record.title, given=variant.title))
    args.precision = args.precision or record.precision
    load_model(session, args, variant)
    finished = follow(session.run(request))
    assert finished is not None and finished.inspection is not None
    inspection, chosen = finished.inspection, None if args.patch is None else args.patch - 1
    if args.out is not None:
        picture = io.BytesIO()
        heatmap(inspection, MEASURES[args.measure], chosen).save(picture, "PNG")
        with os_errors_as_app_errors(Message("heatmap_not_saved"), args.out.parent):
            write_atomically(args.out, picture.getvalue())
        say(Message("heatmap_saved", measure=args.measure, file=str(args.out)))
    order = sorted(range(len(inspection.cells)), key=lambda place: -inspection.cells[place].entropy)
    places = list(range(len(inspection.cells))) if args.json else order[:LISTED]
    if chosen is not None:
        places = [chosen]
    if args.json:
        for place in places:
            emit(_as_json(inspection, place))
    else:
        _print_table(inspection, places)
    return 0


def _as_json(inspection: Inspection, place: int) -> dict[str, Any]:
    cell = inspection.cells[place]
    return {
        "patch": place + 1,
        "row": place // inspection.columns + 1,
        "column": place % inspection.columns + 1,
        "token": cell.token,
        "probability": cell.probability,
        "entropy": cell.entropy,
        "gap": cell.gap,
        "alternatives": [list(pair) for pair in cell.alternatives],
    }


def _print_table(inspection: Inspection, places: list[int]) -> None:
    """Print the picture's averages, then one line for each patch of `places`."""
    count = len(inspection.cells)
    mean = [sum(measure.value(cell) for cell in inspection.cells) / count for measure in MEASURES.values()]
    print(f"{count} patches, {inspection.columns} in a row. On average: entropy {mean[0]:.2f} bits, ", end="")
    print(f"probability {100 * mean[1]:.1f} %, guidance gap {mean[2]:.2f} bits.")
    print(f"{'patch':>6}{'row':>5}{'column':>8}{'token':>8}{'probability':>13}{'entropy':>9}{'gap':>7}  alternatives")
    for place in places:
        cell = inspection.cells[place]
        row, column = place // inspection.columns + 1, place % inspection.columns + 1
        others = ", ".join(f"{token} {100 * share:.1f} %" for token, share in cell.alternatives[:4])
        print(
            f"{place + 1:6}{row:5}{column:8}{cell.token:8}{100 * cell.probability:11.1f} %"
            f"{cell.entropy:9.2f}{cell.gap:7.2f}  {others}"
        )
