"""`python app.py`: the flags of the page, and nothing else."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING

from janus_app.cli import flags, run_safely
from janus_app.cli.console import UsageError, say
from janus_app.errors import AppError

if TYPE_CHECKING:
    from janus_app.runtime.session import ModelSession

FIRST_PORT, PORTS = 7860, 20


def parse() -> argparse.Namespace:
    parser = flags.Parser(
        prog="python app.py",
        description="Open the page where one model sees, draws and edits.",
        epilog="Other commands: python -m janus_app --help",
    )
    flags.model(parser)
    flags.page(parser)
    flags.debug(parser)
    parser.set_defaults(run=serve)
    return parser.parse_args()


def serve(args: argparse.Namespace) -> int:
    from janus_app.cli.work import chosen, load, open_session

    port = free_port(args.host, args.port)
    auth = credentials(args.auth or os.environ.get("JANUS_APP_AUTH"))
    session = open_session()
    variant = chosen(session.catalog, args)
    if args.idle_unload is not None and not 0 < args.idle_unload < float("inf"):
        raise UsageError(f"--idle-unload must be a number of minutes above 0, not {args.idle_unload:g}.")
    session.idle_minutes = args.idle_unload
    if args.model or args.device or args.precision:
        load(session, args, variant)
    elif variant.is_local:  # ready by the time somebody has read the page
        threading.Thread(target=warm_up, args=(session, variant.id), daemon=True).start()
    threading.Thread(target=session.rest_when_idle, name="idle", daemon=True).start()
    from janus_app.ui.app import launch

    launch(
        session,
        session.catalog,
        host=args.host,
        port=port,
        share=args.share,
        auth=auth,
        lang=args.lang,
        open_browser=not args.no_browser,
    )
    return 0


def warm_up(session: ModelSession, name: str) -> None:
    """Load the default behind the page's back; what goes wrong is said when the page first needs it."""
    from janus_app.types import drain

    with contextlib.suppress(AppError):
        drain(session.load(name))


def free_port(host: str, wanted: int | None) -> int:
    """The wanted port, or the first free one from 7860 on. Raises UsageError."""
    from janus_app.runtime.doctor import port_is_free

    if wanted is not None and not 1 <= wanted <= 65535:
        raise UsageError(f"--port must be a number from 1 to 65535, not {wanted}.")
    if wanted is not None:
        if not port_is_free(host, wanted):
            raise UsageError(f"Nothing can listen on {host} port {wanted}: it is in use or not allowed. Try another.")
        return wanted
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        if port_is_free(host, port):
            if port != FIRST_PORT:
                say(f"Port {FIRST_PORT} is in use; taking {port}.")
            return port
    raise UsageError(f"No port from {FIRST_PORT} on can be used on {host}. Give another --port or --host.")


def credentials(text: str | None) -> tuple[str, str] | None:
    """USER:PASSWORD in its parts. Raises UsageError."""
    if not text:
        return None
    user, colon, password = text.partition(":")
    if not (colon and user and password):
        raise UsageError("--auth must be USER:PASSWORD.")
    return user, password


if __name__ == "__main__":
    sys.exit(run_safely(parse))
