"""`python app.py` opens the page; its options are those of `janus_app.cli.options.add_page`."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING

from janus_app.cli import options, run_safely
from janus_app.cli.console import UsageError, say, shown, usage_errors
from janus_app.errors import AppError, Message, system_language

if TYPE_CHECKING:
    from janus_app.cli.common import Asked
    from janus_app.runtime.face import Session
    from janus_app.types import Event
    from janus_app.ui.context import PageContext

FIRST_PORT, PORTS = 7860, 20
OPENING_SECONDS = 1.0  # from when a browser first asks how the model does
ALONE_SECONDS = 4.0  # without a browser, as where other programs use the API alone


def parse() -> argparse.Namespace:
    parser = options.Parser(
        prog="python app.py",
        description="Open the page where one model sees, draws and edits.",
        epilog="Other commands: python -m janus_app --help",
    )
    options.add_model(parser)
    options.add_page(parser)
    options.add_debug(parser)
    parser.set_defaults(run=serve)
    return parser.parse_args()


def serve(args: argparse.Namespace) -> int:
    from janus_app.cli.common import asked, chosen_variant, open_session
    from janus_app.server.security import allowed_names, allowed_origins, sub_path

    port = free_port(args.host, args.port)
    with usage_errors():  # before a model is loaded
        allowed_names(args.allow_host), sub_path(args.root_path), allowed_origins(args.allow_origin)
    auth = credentials(args.auth or os.environ.get("JANUS_APP_AUTH"))
    if args.idle_unload is not None and not 0 < args.idle_unload < float("inf"):
        raise UsageError("cli_idle_unload_out_of_range", given=args.idle_unload)
    with open_cluster(args.cluster) if args.cluster else nullcontext(open_session()) as session:
        session.idle_minutes = args.idle_unload
        variant = chosen_variant(session.catalog, args)
        named = args.model or args.device or args.precision or args.adapter
        wanted = asked(session, args, variant) if named else None
        session.catalog.start_with(variant)

        def opened(page: PageContext) -> None:  # the page first: the imports of a model would make it wait
            if wanted:
                load_wanted(page, wanted)
            elif variant.is_local:
                threading.Thread(target=warm_up, args=(page, variant.id), daemon=True).start()

        threading.Thread(target=session.run_idle_unload, name="idle", daemon=True).start()
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
            allow_hosts=args.allow_host,
            root_path=args.root_path,
            api_key=args.api_key or os.environ.get("JANUS_APP_API_KEY", ""),
            allow_origins=args.allow_origin,
            fetch_images=args.fetch_images,
            opened=opened,
        )
    return 0


@contextlib.contextmanager
def open_cluster(address: str) -> Iterator[Session]:
    """The session of a cluster, whose replicas end with the block. Raises AppError where there is none."""
    from janus_app.cluster.ray_serve import RayServe
    from janus_app.cluster.session import ClusterSession
    from janus_app.hub import Hub
    from janus_app.registry.catalog import load_catalog

    with usage_errors():
        catalog = load_catalog()
    with contextlib.closing(ClusterSession(catalog, Hub(), RayServe(address))) as session:
        yield session


def load_wanted(page: PageContext, wanted: Asked) -> None:
    """Load in the background what the options name. The terminal and the page show the progress, and why it failed."""
    from janus_app.ui.tabs.models.model_drawer import load_on, loading

    asked = (wanted.name, wanted.device, wanted.precision, wanted.adapters)

    def events() -> Iterator[Event]:
        try:  # visitors of a shared page may not start a download
            yield from shown(page.session.load(*asked) if page.shared else loading(page, *asked))
        except AppError as error:
            say(error.message)
            raise

    named = (wanted.name, wanted.device, wanted.precision, *wanted.adapters)
    load_on(page, events, named, page.texts.forced or system_language(), of_visitor=False)


def warm_up(page: PageContext, name: str) -> None:
    """Load the default model once a browser shows the page, whose opening it would slow down, or none came for a while.

    A failure is reported when the page first needs the model.
    """
    from janus_app.types import drain

    if page.shown.wait(ALONE_SECONDS):
        time.sleep(OPENING_SECONDS)
    load = page.runs.loading(shared=False)
    if page.session.state.phase == "empty" and (load is None or load.ended):  # nobody chose a model meanwhile
        with contextlib.suppress(AppError):
            drain(page.session.load(name))


def free_port(host: str, wanted: int | None) -> int:
    """The wanted port, or the first free one from 7860 on. Raises UsageError."""
    from janus_app.runtime.doctor import port_is_free

    if wanted is not None:
        if not 1 <= wanted <= 65535:
            raise UsageError("cli_port_out_of_range", given=wanted)
        if not port_is_free(host, wanted):
            raise UsageError("cli_port_unavailable", host=host, port=wanted)
        return wanted
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        if port_is_free(host, port):
            if port != FIRST_PORT:
                say(Message("cli_port_replaced", wanted=FIRST_PORT, port=port))
            return port
    raise UsageError("cli_no_port_free", first=FIRST_PORT, host=host)


def credentials(text: str | None) -> tuple[str, str] | None:
    """The user and the password of USER:PASSWORD. Raises UsageError."""
    if not text:
        return None
    user, colon, password = text.partition(":")
    if not (colon and user and password):
        raise UsageError("cli_auth_malformed")
    return user, password


if __name__ == "__main__":
    sys.exit(run_safely(parse))
