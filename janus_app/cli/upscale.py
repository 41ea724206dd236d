"""`upscale`: a smooth larger copy of a picture, made without a model."""

from __future__ import annotations

import argparse

from janus_app.cli.console import usage_errors
from janus_app.files import typed_path
from janus_app.outputs.store import OutputStore
from janus_app.workflows.upscale import FACTORS, upscale

SUMMARY = "Save a smooth copy of a picture, 2 or 4 times as large."


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("picture", help="a PNG drawn by this app; it stays as it is")
    parser.add_argument("--factor", type=int, choices=FACTORS, default=2, help="how much wider and higher (default 2)")
    parser.add_argument("--out", type=typed_path, default="outputs", help="folder to write to (default outputs)")


def run(args: argparse.Namespace) -> int:
    with usage_errors():
        print(upscale(typed_path(args.picture), args.factor, OutputStore(args.out)).file, flush=True)
    return 0
