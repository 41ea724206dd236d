"""`export` and `upscale`: what can be done with a picture of this app without a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from janus_app.cli.console import asking, clean
from janus_app.outputs.metadata import read_metadata
from janus_app.outputs.store import OutputStore
from janus_app.workflows.export import KINDS, export
from janus_app.workflows.upscale import FACTORS, upscale


def add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("picture", help="a PNG drawn by this app")
    parser.add_argument("--as", dest="kind", choices=KINDS, default="cli", help="what to write (default cli)")
    parser.add_argument("--url", default="http://127.0.0.1:7860", help="the page's address, for curl")


def export_run(args: argparse.Namespace) -> int:
    with asking():
        print(clean(export(read_metadata(args.picture), args.kind, args.url)).rstrip("\n"), flush=True)
    return 0


def add_upscale(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("picture", help="a PNG drawn by this app; it stays as it is")
    parser.add_argument("--factor", type=int, choices=FACTORS, default=2, help="how much wider and higher (default 2)")
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="folder to write to (default outputs)")


def upscale_picture(args: argparse.Namespace) -> int:
    with asking():
        print(upscale(Path(args.picture), args.factor, OutputStore(args.out)).file, flush=True)
    return 0
