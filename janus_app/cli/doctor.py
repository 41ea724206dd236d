"""`doctor`: the checks of janus_app/runtime/doctor.py, one a line."""

from __future__ import annotations

import argparse
import warnings

from janus_app.cli import options
from janus_app.cli.console import clean, emit
from janus_app.errors import system_language
from janus_app.files import typed_path

SUMMARY = "Check whether this machine is ready, and say how to fix what is not."


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=typed_path, default="outputs", help="the folder for pictures (default outputs)")
    parser.add_argument("--port", type=int, default=7860, help="the page's port (default 7860)")
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 1 where something that the app needs is missing or broken."""
    from janus_app.runtime.doctor import as_text, examine

    failed = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of old drivers and cards, and the findings say it
        for finding in examine(args.out, args.port):
            failed = failed or finding.level == "FAIL"
            if args.json:
                emit(finding.texts())
            else:
                print(clean(as_text([finding], system_language())), flush=True)
    return 1 if failed else 0
