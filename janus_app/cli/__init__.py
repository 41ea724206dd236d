"""`python -m janus_app ...`: the studio's verbs as commands.

Exit status: 0 done, 1 it failed, 2 the request was wrong, 70 a bug of ours, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from janus_app.cli import flags
from janus_app.cli.chat import add_chat, chat
from janus_app.cli.console import UsageError, say
from janus_app.cli.doctor import add_doctor, doctor
from janus_app.cli.draw import add_edit, add_generate, edit, generate
from janus_app.cli.fit import add_fit, fit
from janus_app.cli.grid import add_grid, grid
from janus_app.cli.models import add_models, models
from janus_app.cli.picture import add_export, add_upscale, export_run, upscale_picture
from janus_app.cli.tokens import add_inspect, inspect
from janus_app.errors import AppError
from janus_app.version import __version__

BUG = 70


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    return run_safely(lambda: _parse(argv))


def run_safely(parse: Callable[[], argparse.Namespace]) -> int:
    """Parse, run, and turn whatever happens into a sentence and an exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character must not end the work
    debug = False
    try:
        args = parse()
        debug = args.debug
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except AppError as error:
        say(str(error))
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        say("\nStopped.")
        return 130
    except BrokenPipeError:  # the reader of our output has left; Python must not complain about it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            raise
        say(f"This is a bug of ours ({type(error).__name__}). Run it again with --debug and report what it prints.")
        return BUG


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = flags.Parser(prog="python -m janus_app", description="One local model that sees, draws and edits.")
    parser.add_argument("--version", action="version", version=f"janus_app {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], summary: str) -> flags.Parser:
        command = commands.add_parser(name, help=summary, description=summary)
        command.set_defaults(run=run)
        flags.debug(command)
        return command

    add_models(add("models", models, "List, download, verify, import, convert or delete models."))
    for name, run, extend, summary in (
        ("chat", chat, add_chat, "Ask about pictures, or just talk."),
        ("generate", generate, add_generate, "Draw pictures from words, or draw one of ours again."),
        ("edit", edit, add_edit, "Change a picture: a masked region, or a variation of all of it."),
        ("inspect", inspect, add_inspect, "Say how sure the model was of every patch of a picture, with a heat map."),
        ("grid", grid, add_grid, "Draw a grid over one or two settings, and a labelled sheet of it."),
    ):
        command = add(name, run, summary)
        flags.model(command)
        extend(command)
        flags.json_lines(command)
    add_export(add("export", export_run, "Write a picture's run as a command line, a Python script or curl."))
    add_upscale(add("upscale", upscale_picture, "Save a smooth copy of a picture, 2 or 4 times as large."))
    add_fit(add("fit", fit, "Say what a model needs in each precision and what fits this machine."))
    add_doctor(add("doctor", doctor, "Say whether this machine is ready, and what to do where it is not."))
    return parser.parse_args(argv)
