"""`upscale`: a smooth larger copy of a picture, made without a model."""

from __future__ import annotations

import argparse

from janus_app.cli import options
from janus_app.cli.console import usage_errors
from janus_app.files import typed_path
from janus_app.outputs.store import OutputStore
from janus_app.workflows.upscale import FACTORS, enlarged

SUMMARY = "Save a smooth copy of a picture, 2 or 4 times as large."


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("picture", help="a picture drawn by this app; it stays as it is")
    parser.add_argument("--factor", type=int, choices=FACTORS, default=2, help="how much wider and higher (default 2)")
    options.add_out(parser)


def run(args: argparse.Namespace) -> int:
    with usage_errors():
        larger = enlarged(typed_path(args.picture), args.factor)
    print(OutputStore(args.out).save_image(*larger, f"_x{args.factor}").file, flush=True)
    return 0
