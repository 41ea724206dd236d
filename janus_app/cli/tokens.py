"""`inspect`: how sure the model was of every patch of a picture this app drew, as a table and as a heat map."""

from __future__ import annotations

import argparse
from pathlib import Path

from janus_app.cli.console import UsageError, asking, emit, follow, say
from janus_app.cli.draw import recorded_variant
from janus_app.cli.work import load, open_session
from janus_app.errors import AppError
from janus_app.outputs.metadata import read_metadata
from janus_app.types import MAX_ALTERNATIVES, Inspection
from janus_app.workflows.token_heatmap import MEASURES, heat_map, inspection_of

LISTED = 12  # patches the table shows: the least certain ones


def add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("picture", metavar="PICTURE", help="a PNG this app drew token by token")
    parser.add_argument("--patch", type=int, help="tell of this one: 1 is top left, counted row by row")
    parser.add_argument(
        "--alternatives", type=int, default=8, help=f"how many likely tokens to tell, 1 to {MAX_ALTERNATIVES}"
    )
    parser.add_argument("--measure", choices=tuple(MEASURES), default="entropy", help="what --out is coloured by")
    parser.add_argument("--out", type=Path, help="write a heat map to this PNG")


def inspect(args: argparse.Namespace) -> int:
    session = open_session()
    with asking():
        record = read_metadata(args.picture)
        request = inspection_of(record, args.alternatives)
        variant = recorded_variant(session.catalog, args, record)
        if args.patch is not None and not 1 <= args.patch <= len(request.image_tokens):
            raise UsageError(f"--patch must be a number from 1 to {len(request.image_tokens)}, not {args.patch}.")
        if args.out is not None and args.out.suffix.lower() != ".png":
            raise UsageError(f"--out must name a .png file, not {args.out}.")
    if variant.id != record.model:
        say(f"The picture was drawn with {record.title}; these are the odds {variant.title} would give it.")
    args.precision = args.precision or record.precision
    load(session, args, variant)
    finished = follow(session.run(request))
    assert finished is not None and finished.inspection is not None
    found, chosen = finished.inspection, None if args.patch is None else args.patch - 1
    if args.out is not None:
        try:
            heat_map(found, MEASURES[args.measure], chosen).save(args.out)
        except OSError as error:
            raise AppError(f"The heat map was not saved: {error.strerror or error}. Choose another --out.") from None
        say(f"The heat map of {args.measure} is in {args.out}.")
    order = sorted(range(len(found.cells)), key=lambda place: -found.cells[place].entropy)
    places = range(len(found.cells)) if args.json else order[:LISTED]
    _report(found, places if chosen is None else [chosen], args.json)
    return 0


def _report(found: Inspection, places: range | list[int], as_json: bool) -> None:
    """The patches on stdout, one a line; for people with the picture's averages before them."""
    if not as_json:
        count = len(found.cells)
        mean = [sum(measure.value(cell) for cell in found.cells) / count for measure in MEASURES.values()]
        print(f"{count} patches, {found.columns} in a row. On average: entropy {mean[0]:.2f} bits, ", end="")
        print(f"probability {100 * mean[1]:.1f} %, guidance gap {mean[2]:.2f} bits.")
        print(
            f"{'patch':>6}{'row':>5}{'column':>8}{'token':>8}{'probability':>13}{'entropy':>9}{'gap':>7}  alternatives"
        )
    for place in places:
        cell = found.cells[place]
        row, column = place // found.columns + 1, place % found.columns + 1
        if as_json:
            emit(
                {
                    "patch": place + 1, "row": row, "column": column, "token": cell.token,
                    "probability": cell.probability, "entropy": cell.entropy, "gap": cell.gap,
                    "alternatives": [list(pair) for pair in cell.alternatives],
                }
            )  # fmt: skip
            continue
        others = ", ".join(f"{token} {100 * share:.1f} %" for token, share in cell.alternatives[:4])
        print(
            f"{place + 1:6}{row:5}{column:8}{cell.token:8}{100 * cell.probability:11.1f} %"
            f"{cell.entropy:9.2f}{cell.gap:7.2f}  {others}"
        )
