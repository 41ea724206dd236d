"""`models download|verify|delete|import|convert`: the files of one model on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from janus_app.cli.common import open_session, tell_licences
from janus_app.cli.console import UsageError, clean, emit, follow_to_result, localized, say, usage_errors
from janus_app.errors import Message
from janus_app.files import typed_path
from janus_app.formatting import size_text
from janus_app.registry.types import Variant
from janus_app.runtime.session import ModelSession


def files(args: argparse.Namespace) -> int:
    """Run one of ACTIONS on the named model. Ctrl-C stops it and keeps what arrived."""
    if not args.name:
        if args.action == "import":
            raise UsageError("models_import_needs_folder")
        raise UsageError("models_needs_name", action=args.action)
    session = open_session()
    try:
        return ACTIONS[args.action](session, args)
    except KeyboardInterrupt:
        if args.action == "download":
            say("")  # ends the line that the terminal shows ^C on
            say(Message("models_download_paused"))
            return 130
        raise


def _variant(session: ModelSession, name: str) -> Variant:
    with usage_errors():
        return session.catalog.resolve(name)


def _download(session: ModelSession, args: argparse.Namespace) -> int:
    variant = _variant(session, args.name)
    tell_licences(session, variant)
    folder = follow_to_result(session.hub.fetch(variant))
    message = Message("model_complete", title=variant.title, folder=folder)
    _print(args, {"model": variant.id, "folder": str(folder)}, message)
    if session.hub.status(variant).convertible:
        say(Message("model_convertible", title=variant.title, name=variant.id))
    return 0


def _verify(session: ModelSession, args: argparse.Namespace) -> int:
    variant = _variant(session, args.name)
    follow_to_result(session.hub.verify(variant))
    size = session.hub.status(variant).on_disk
    _print(args, {"model": variant.id, "bytes": size}, Message("model_verified", title=variant.title))
    return 0


def _delete(session: ModelSession, args: argparse.Namespace) -> int:
    variant = _variant(session, args.name)
    status = session.hub.status(variant)
    size = status.on_disk + status.converted
    if not args.yes and not variant.is_local and size:
        values = {"title": variant.title, "size": size_text(size)}
        if not sys.stdin.isatty():
            raise UsageError("models_delete_needs_yes", **values)
        question = localized(Message("models_delete_question", **values))
        if input(clean(question) + " ").strip().lower() not in ("y", "yes"):
            say(Message("models_nothing_deleted"))
            return 0
    freed = session.hub.delete(variant)
    message = Message("models_nothing_deleted")
    if freed:
        message = Message("model_deleted", title=variant.title, size=size_text(freed))
    _print(args, {"model": variant.id, "freed": freed}, message)
    return 0


def _import(session: ModelSession, args: argparse.Namespace) -> int:
    folder = typed_path(args.name).expanduser()
    if args.own:
        from janus_app.runtime.own_models import add_own_model

        with usage_errors():
            variant = follow_to_result(add_own_model(session.hub, folder, args.own))
        message = Message("model_registered", title=variant.title, name=variant.id, folder=variant.folder)
        _print(args, {"model": variant.id, "folder": str(variant.folder)}, message)
        return 0
    if not args.model:
        raise UsageError("models_import_needs_model")
    variant = _variant(session, args.model)
    done = follow_to_result(session.hub.import_folder(variant, folder, copy=args.copy))
    found = {"model": variant.id, "folder": str(done.folder), "compared": done.compared, "unknown": list(done.unknown)}
    _print(args, found | {"linked": done.linked}, done.message(variant))
    return 0


def _convert(session: ModelSession, args: argparse.Namespace) -> int:
    from janus_app.runtime.convert import convert_variant

    variant = _variant(session, args.name)
    folder = follow_to_result(convert_variant(session.hub, variant))
    message = Message("model_converted", title=variant.title, folder=folder)
    _print(args, {"model": variant.id, "folder": str(folder)}, message)
    return 0


ACTIONS: dict[str, Callable[[ModelSession, argparse.Namespace], int]] = {
    "download": _download,
    "verify": _verify,
    "delete": _delete,
    "import": _import,
    "convert": _convert,
}


def _print(args: argparse.Namespace, result: dict[str, object], message: Message) -> None:
    if args.json:
        emit(result)
    else:
        print(localized(message))
