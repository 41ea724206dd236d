"""`generate`: pictures drawn from words, or a picture of this app drawn again."""

from __future__ import annotations

import argparse
from dataclasses import replace

from janus_app.cli import options
from janus_app.cli.common import (
    chosen_variant,
    draw_pictures,
    load_model,
    open_session,
    recorded_variant,
    require_verb,
)
from janus_app.cli.console import UsageError, say, usage_errors
from janus_app.errors import AppError, Message
from janus_app.outputs.foreign_prompt import ForeignPrompt, read_settings
from janus_app.outputs.metadata import request_of
from janus_app.registry.catalog import Catalog
from janus_app.registry.types import Variant
from janus_app.types import MAX_SEED, GenerateRequest
from janus_app.workflows.settings import generate_settings
from janus_app.workflows.token_heatmap import continued_request

SUMMARY = "Draw pictures from a prompt, or repeat a picture of this app."
# Given with --from, these options ask for a new picture; without them the recorded image tokens are decoded again.
RESAMPLING = (
    "model", "prompt", "negative", "count", "guidance", "temperature", "steps", "solver", "guidance_interval", "seed",
    "size", "think", "plan",
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    parser.add_argument("--prompt", help="what to draw")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="PICTURE",
        help="repeat a picture of this app, or use another program's prompt and seed; other flags change them",
    )
    parser.add_argument(
        "--keep",
        type=int,
        metavar="K",
        help="with --from: keep the first K image tokens and redraw the rest, with --seed or the picture's seed + 1",
    )
    parser.add_argument(
        "--best-of", type=int, metavar="N", help="draw N pictures and let the model rank them; all are kept, best first"
    )
    options.add_drawing(parser)
    parser.add_argument(
        "--think",
        action=argparse.BooleanOptionalAction,
        help="for models that were taught to: plan in words first, or judge and draw again (default: they do)",
    )
    parser.add_argument("--plan", metavar="TEXT", help="draw from this plan beside the prompt; none is written")
    options.add_json(parser)
    options.add_vectors(parser)


def run(args: argparse.Namespace) -> int:
    session = open_session()
    if args.best_of is not None:
        if args.count is not None:
            raise UsageError("cli_best_of_with_count")
        args.count = args.best_of
    if args.keep is not None and args.source is None:
        raise UsageError("cli_keep_without_from")
    if args.source is not None:
        variant, request = _redraw(session.catalog, args)
    elif args.prompt is None:
        raise UsageError("cli_nothing_to_draw")
    else:
        variant = chosen_variant(session.catalog, args)
        with usage_errors():
            request = GenerateRequest(args.prompt, **generate_settings(vars(args), variant))
    require_verb(variant, "generate")
    load_model(session, args, variant)
    return draw_pictures(session, request, args)


def _foreign(catalog: Catalog, args: argparse.Namespace, found: ForeignPrompt) -> tuple[Variant, GenerateRequest]:
    """A request with the prompt and seed of another program's picture, where the options do not give others."""
    if args.keep is not None:
        raise AppError("record_missing")
    variant = chosen_variant(catalog, args)
    args.negative = found.negative if args.negative is None else args.negative
    args.seed = found.seed if args.seed is None else args.seed
    say(Message("prompt_of_other_program", program=found.program))
    return variant, GenerateRequest(args.prompt or found.prompt, **generate_settings(vars(args), variant))


def _redraw(catalog: Catalog, args: argparse.Namespace) -> tuple[Variant, GenerateRequest]:
    """The request in a picture's metadata, changed by the options that were given."""
    with usage_errors():
        record = read_settings(args.source)
        if isinstance(record, ForeignPrompt):
            return _foreign(catalog, args, record)
        request = request_of(record)
        if args.keep is not None:
            args.seed = (record.seed + 1) % MAX_SEED if args.seed is None else args.seed
            request = continued_request(record, args.keep, args.seed)
        changes = {name for name in RESAMPLING if getattr(args, name) is not None}
        variant = recorded_variant(catalog, args, record)
        if args.keep is None and record.verb == "edit" and (changes - {"model"} or not record.image_tokens):
            raise UsageError("cli_picture_was_edited")
        # Naming the same variant again changes nothing; another one cannot read these tokens.
        if changes == {"model"} and variant.id == record.model:
            changes = set()
        if changes:
            values = {name: getattr(args, name) for name in changes - {"model"}}
            if "prompt" in changes or args.think is not None:
                values.setdefault("plan", "")  # the recorded plan is of another picture, or not wanted
            request = replace(request, image_tokens=request.image_tokens if args.keep is not None else (), **values)
        request = replace(request, turbo=request.turbo or args.turbo)
    if variant.id == record.model and (variant.revision or "") != record.revision:
        say(Message("recorded_revision_differs"))
    if args.precision is None:
        args.precision = record.precision
    elif args.precision != record.precision:
        say(Message("recorded_precision_differs", recorded=record.precision, given=args.precision))
    return variant, request
