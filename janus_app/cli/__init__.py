"""`python -m janus_app COMMAND ...`. Each command is a module with SUMMARY, add_options(parser) and run(args).

Exit status: 0 done, 1 it failed, 2 the request was wrong, 70 a bug of the app, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from janus_app.cli import (
    chat,
    cluster,
    convert,
    doctor,
    edit,
    export,
    fit,
    generate,
    grid,
    inspect,
    mcp,
    models,
    options,
    selftest,
    upscale,
)
from janus_app.cli.console import UsageError, say, silence_libraries
from janus_app.errors import AppError, Message
from janus_app.files import is_disk_full
from janus_app.version import __version__
from janus_app.workflows.settings import random_seed

COMMANDS = {
    "models": models,
    "chat": chat,
    "generate": generate,
    "edit": edit,
    "inspect": inspect,
    "grid": grid,
    "export": export,
    "convert": convert,
    "upscale": upscale,
    "fit": fit,
    "doctor": doctor,
    "selftest": selftest,
    "mcp": mcp,
    "cluster": cluster,
}
BUG = 70


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    return run_safely(lambda: _parse(argv))


def run_safely(parse: Callable[[], argparse.Namespace]) -> int:
    """Parse and run; turn any failure into a sentence on stderr and an exit status."""
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace"), (sys.stderr, "replace")):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)  # an undecodable byte or a missing character must not end the work
    debug = False
    try:
        args = parse()
        debug = args.debug
        if not debug:
            silence_libraries()
        status: int = args.run(args)
        if sys.stdout:  # closed: None
            sys.stdout.flush()
        return status
    except AppError as error:
        say(error.message)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        say(Message("cli_stopped"))
        return 130
    except BrokenPipeError:  # the reader of our output is gone
        _drop_output()
        return 1
    except Exception as error:
        if isinstance(error, OSError) and is_disk_full(error):  # files have sentences of their own
            _drop_output()
            say(Message("cli_output_full"))
            return 1
        if debug:
            raise
        say(Message("cli_bug", kind=type(error).__name__))
        return BUG


def _drop_output() -> None:
    """Send what is still to be written nowhere, so that Python does not complain at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.Parser(prog="python -m janus_app", description="One local model that sees, draws and edits.")
    parser.add_argument("--version", action="version", version=f"janus_app {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.SUMMARY, description=module.SUMMARY)
        command.set_defaults(run=module.run)
        options.add_debug(command)
        module.add_options(command)
    args = parser.parse_args(argv)
    if getattr(args, "seed", None) == -1:
        args.seed = random_seed()
        say(Message("cli_seed_random", seed=args.seed))
    return args
