"""`models download|verify|delete|import|convert`: the files of one model on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

from janus_app.cli.common import open_session
from janus_app.cli.console import UsageError, emit, follow, say, usage_errors
from janus_app.formatting import size_text
from janus_app.registry.types import Variant
from janus_app.runtime.session import ModelSession
from janus_app.types import Progress

T = TypeVar("T")


def files(args: argparse.Namespace) -> int:
    """Run one of ACTIONS on the model that was named. Ctrl-C stops it and keeps what arrived."""
    if not args.name:
        what = "the folder that holds the model's files" if args.action == "import" else "a model of `models`"
        raise UsageError(f"Name {what}: python -m janus_app models {args.action} NAME.")
    session = open_session()
    try:
        return ACTIONS[args.action](session, args)
    except KeyboardInterrupt:
        if args.action == "download":
            say("\nPaused. What arrived is kept; the same command goes on from there.")
            return 130
        raise


def _variant(session: ModelSession, name: str) -> Variant:
    with usage_errors():
        return session.catalog.resolve(name)


def _download(session: ModelSession, args: argparse.Namespace) -> int:
    variant = _variant(session, args.name)
    folder = _result(session.hub.fetch(variant))
    _say(args, {"model": variant.id, "folder": str(folder)}, f"{variant.title} is complete: {folder}")
    if session.hub.status(variant).convertible:
        say(convert_hint(variant))
    return 0


def _verify(session: ModelSession, args: argparse.Namespace) -> int:
    variant = _variant(session, args.name)
    _result(session.hub.verify(variant))
    size = session.hub.status(variant).on_disk
    _say(args, {"model": variant.id, "bytes": size}, f"{variant.title}: every file is as it should be.")
    return 0


def _delete(session: ModelSession, args: argparse.Namespace) -> int:
    variant = _variant(session, args.name)
    status = session.hub.status(variant)
    size = status.on_disk + status.converted
    if not args.yes and not variant.is_local and size:
        if not sys.stdin.isatty():
            raise UsageError(f"This deletes {size_text(size)} of {variant.title}. Add --yes to say that you mean it.")
        if input(f"Delete {variant.title}, {size_text(size)}? Type yes: ").strip().lower() not in ("y", "yes"):
            say("Nothing was deleted.")
            return 0
    freed = session.hub.delete(variant)
    _say(args, {"model": variant.id, "freed": freed}, f"{variant.title} is deleted; {size_text(freed)} are free again.")
    return 0


def _import(session: ModelSession, args: argparse.Namespace) -> int:
    folder = Path(args.name).expanduser()
    if args.own:
        variant = _register(folder, args.own)
        said = f"{variant.title} is in your own list now, as {variant.id}; its files stay in {variant.folder}."
        _say(args, {"model": variant.id, "folder": str(variant.folder)}, said)
        return 0
    if not args.model:
        raise UsageError(
            "Say what the folder holds: --model NAME for a model of `models`, or --own NAME for one of your own."
        )
    variant = _variant(session, args.model)
    done = _result(session.hub.import_folder(variant, folder, copy=args.copy))
    found = {"model": variant.id, "folder": str(done.folder), "compared": done.compared, "unknown": list(done.unknown)}
    _say(args, found | {"linked": done.linked}, str(done.message(variant)))
    return 0


def _convert(session: ModelSession, args: argparse.Namespace) -> int:
    from janus_app.runtime.convert import convert_variant

    variant = _variant(session, args.name)
    folder = _result(convert_variant(session.hub, variant))
    _say(args, {"model": variant.id, "folder": str(folder)}, f"{variant.title} is read from safetensors now: {folder}")
    return 0


ACTIONS: dict[str, Callable[[ModelSession, argparse.Namespace], int]] = {
    "download": _download,
    "verify": _verify,
    "delete": _delete,
    "import": _import,
    "convert": _convert,
}


def convert_hint(variant: Variant) -> str:
    """For models read from pickles."""
    return (
        f"{variant.title} is a pickle. `python -m janus_app models convert {variant.id}` makes a copy in safetensors, "
        "which can hold nothing but numbers."
    )


def _register(folder: Path, name: str) -> Variant:
    from janus_app.registry.user_models import register

    with usage_errors():
        return register(folder, name)


def _result(work: Generator[Progress, None, T]) -> T:
    """Run the act to its end, showing its progress, and return what it returns."""
    found: list[T] = []

    def events() -> Generator[Progress, None, None]:
        found.append((yield from work))

    follow(events())
    return found[0]


def _say(args: argparse.Namespace, result: dict[str, object], words: str) -> None:
    if args.json:
        emit(result)
    else:
        print(words)
