"""`export`: how to draw a picture again, as a command line, a Python script or curl calls."""

from __future__ import annotations

import argparse

from janus_app.cli.console import clean, usage_errors
from janus_app.outputs.metadata import read_metadata
from janus_app.workflows.export import KINDS, export

SUMMARY = "Export how a picture was made: as a command line, a Python script or curl."


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("picture", help="a picture drawn by this app")
    parser.add_argument("--as", dest="kind", choices=KINDS, default="cli", help="what to write (default cli)")
    parser.add_argument("--url", default="http://127.0.0.1:7860", help="the page's address, for curl")


def run(args: argparse.Namespace) -> int:
    with usage_errors():
        print(clean(export(read_metadata(args.picture), args.kind, args.url)).rstrip("\n"), flush=True)
    return 0
