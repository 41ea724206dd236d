"""`doctor`: the checks of janus_app/doctor.py, one a line."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from janus_app.cli import flags
from janus_app.cli.console import clean, emit


def add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="the folder for pictures (default outputs)")
    parser.add_argument("--port", type=int, default=7860, help="the page's port (default 7860)")
    flags.json_lines(parser)


def doctor(args: argparse.Namespace) -> int:
    """Exit status 1 where something the app cannot do without is wrong."""
    from janus_app.runtime.doctor import examine

    failed = False
    for finding in examine(args.out, args.port):
        failed = failed or finding.level == "FAIL"
        if args.json:
            emit(asdict(finding))
            continue
        print(f"{finding.level:4}  {finding.what}: {clean(finding.detail)}", flush=True)
        if finding.remedy:
            print(f"      {finding.remedy}", flush=True)
    return 1 if failed else 0
