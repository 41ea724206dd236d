"""`selftest`: the checks of janus_app/runtime/selftest, one a line. What to run first on a new graphics card."""

from __future__ import annotations

import argparse
from typing import Any

from janus_app.cli import options
from janus_app.cli.console import UsageError, clean, emit, follow, usage_errors
from janus_app.errors import system_language

SUMMARY = (
    "Check that this device computes correctly, how fast it is, and whether its memory use is predicted correctly."
)
LONGEST = 60.0  # minutes


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps or xpu (default auto)")
    parser.add_argument(
        "--minutes", type=float, default=3.0, help="time to take at most (default 3); below 1 sizes are small"
    )
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 1 where something computes wrongly or not at all."""
    from janus_app.runtime.devices import resolve_device
    from janus_app.runtime.findings import as_text
    from janus_app.runtime.selftest import Result, examine, failed, verdict

    if not 0 < args.minutes <= LONGEST:
        raise UsageError("cli_minutes_out_of_range", given=args.minutes)
    with usage_errors():
        resolve_device(args.device)
    results: list[Result] = []
    language = system_language()

    def show(result: Any) -> None:
        results.append(result)
        if args.json:
            emit(result.as_json())
        else:
            print(clean(as_text([result], language)), flush=True)

    follow(examine(args.device, args.minutes), on_result=show)
    if not args.json:
        print(verdict(results).text(language), flush=True)
    return int(failed(results))
