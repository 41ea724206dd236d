"""`convert`: a copy of a model in another layout, quantized, or with adapters merged into it."""

from __future__ import annotations

import argparse

from janus_app.cli import options
from janus_app.cli.common import open_session
from janus_app.cli.console import emit, follow_to_result, localized, usage_errors
from janus_app.errors import Message
from janus_app.files import typed_path
from janus_app.types import QUANTIZED_PRECISIONS

SUMMARY = "Save a copy of a model: in another layout, quantized, or with adapters merged."
LAYOUTS = ("original", "transformers")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a model of `models`, or a folder holding a checkpoint")
    parser.add_argument("--out", metavar="FOLDER", required=True, type=typed_path, help="new folder to write to")
    parser.add_argument("--to", choices=LAYOUTS, default="original", help="layout of the copy (default original)")
    parser.add_argument(
        "--precision", choices=QUANTIZED_PRECISIONS, default="", help="quantize it, so that it loads faster next time"
    )
    options.add_adapters(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from janus_app.runtime.adapters import find_adapter
    from janus_app.runtime.save_copy import CopyOptions, save_copy

    session = open_session()
    with usage_errors():
        variant = session.catalog.resolve(args.name)
        adapters = tuple(find_adapter(text) for text in args.adapter or ())
    target = args.out.expanduser()
    folder = follow_to_result(save_copy(session.hub, variant, target, CopyOptions(args.to, args.precision, adapters)))
    if args.json:
        emit({"model": variant.id, "folder": str(folder)})
    else:
        print(localized(Message("copy_saved", title=variant.title, folder=folder)))
    return 0
