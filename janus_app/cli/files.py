"""`models download|verify|delete|import|convert`: the files of one model on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

from janus_app.amounts import size_text
from janus_app.catalog import Variant
from janus_app.cli.console import UsageError, asking, emit, follow, say
from janus_app.cli.work import open_studio
from janus_app.models.base import Progress
from janus_app.studio import Studio

T = TypeVar("T")


def files(args: argparse.Namespace) -> int:
    """Run one of ACTIONS on the model that was named. Ctrl-C stops it and keeps what arrived."""
    if not args.name:
        what = "the folder that holds the model's files" if args.action == "import" else "a model of `models`"
        raise UsageError(f"Name {what}: python -m janus_app models {args.action} NAME.")
    studio = open_studio()
    try:
        return ACTIONS[args.action](studio, args)
    except KeyboardInterrupt:
        if args.action == "download":
            say("\nPaused. What arrived is kept; the same command goes on from there.")
            return 130
        raise


def _variant(studio: Studio, name: str) -> Variant:
    with asking():
        return studio.catalog.resolve(name)


def _download(studio: Studio, args: argparse.Namespace) -> int:
    variant = _variant(studio, args.name)
    folder = _result(studio.hub.fetch(variant))
    _say(args, {"model": variant.id, "folder": str(folder)}, f"{variant.title} is complete: {folder}")
    if studio.hub.status(variant).convertible:
        say(convert_hint(variant))
    return 0


def _verify(studio: Studio, args: argparse.Namespace) -> int:
    variant = _variant(studio, args.name)
    _result(studio.hub.verify(variant))
    size = studio.hub.status(variant).on_disk
    _say(args, {"model": variant.id, "bytes": size}, f"{variant.title}: every file is as it should be.")
    return 0


def _delete(studio: Studio, args: argparse.Namespace) -> int:
    variant = _variant(studio, args.name)
    status = studio.hub.status(variant)
    size = status.on_disk + status.converted
    if not args.yes and not variant.is_local and size:
        if not sys.stdin.isatty():
            raise UsageError(f"This deletes {size_text(size)} of {variant.title}. Add --yes to say that you mean it.")
        if input(f"Delete {variant.title}, {size_text(size)}? Type yes: ").strip().lower() not in ("y", "yes"):
            say("Nothing was deleted.")
            return 0
    freed = studio.hub.delete(variant)
    _say(args, {"model": variant.id, "freed": freed}, f"{variant.title} is deleted; {size_text(freed)} are free again.")
    return 0


def _import(studio: Studio, args: argparse.Namespace) -> int:
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
    variant = _variant(studio, args.model)
    done = _result(studio.hub.import_folder(variant, folder, copy=args.copy))
    found = {"model": variant.id, "folder": str(done.folder), "compared": done.compared, "unknown": list(done.unknown)}
    _say(args, found | {"linked": done.linked}, done.line(variant))
    return 0


def _convert(studio: Studio, args: argparse.Namespace) -> int:
    from janus_app.convert import convert_variant

    variant = _variant(studio, args.name)
    folder = _result(convert_variant(studio.hub, variant))
    _say(args, {"model": variant.id, "folder": str(folder)}, f"{variant.title} is read from safetensors now: {folder}")
    return 0


ACTIONS: dict[str, Callable[[Studio, argparse.Namespace], int]] = {
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
    from janus_app.own_models import register

    with asking():
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
