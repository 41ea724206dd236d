"""`mcp`: the model as tools of an MCP host, which starts this command and talks to it over stdin and stdout."""

from __future__ import annotations

import argparse
import asyncio

from janus_app.cli import options
from janus_app.cli.common import chosen_variant, load_model, open_session
from janus_app.errors import AppError
from janus_app.files import typed_path
from janus_app.outputs.store import OutputStore

SUMMARY = "Serve the tools draw, edit, describe, rank and models to an MCP host over stdin and stdout (docs/api.md)."


def add_options(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    parser.add_argument("--out", type=typed_path, default="outputs", help="folder for pictures (default outputs)")


def run(args: argparse.Namespace) -> int:
    from janus_app.server.mcp import is_installed

    if not is_installed():
        raise AppError("mcp_package_missing")
    from janus_app.server.api.context import ApiContext
    from janus_app.server.mcp.entrances import stdio

    session = open_session()
    variant = chosen_variant(session.catalog, args)
    named = args.model or args.device or args.precision or args.adapter
    load = (lambda: load_model(session, args, variant)) if named else None
    asyncio.run(stdio(ApiContext(session, OutputStore(args.out)), load))
    return 0
