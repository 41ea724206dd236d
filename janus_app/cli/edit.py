"""`edit`: a picture changed in a masked region, as a variation, or by an instruction."""

from __future__ import annotations

import argparse
from dataclasses import replace

from janus_app.cli import options
from janus_app.cli.common import (
    chosen_variant,
    draw_pictures,
    load_model,
    open_session,
    require_verb,
)
from janus_app.cli.console import usage_errors
from janus_app.outputs.image_io import open_mask, open_picture
from janus_app.types import EDIT_SETTINGS, EditRequest
from janus_app.workflows.settings import check_takes_mask, edit_settings, usual_edit_method

SUMMARY = "Edit a picture: a masked area, the whole picture, or by an instruction."


def add_options(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    parser.add_argument("--image", required=True, help="the picture to change")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="IMAGE",
        help="one more input picture, where the model takes several",
    )
    options.add_transparency(parser)
    parser.add_argument("--mask", help="a picture of the same size, white where it is to be redrawn")
    parser.add_argument("--prompt", required=True, help="what the finished picture shows")
    parser.add_argument(
        "--method",
        choices=tuple(EDIT_SETTINGS),
        help="edit mode (default: the model's first one that fits what was given; docs/editing.md)",
    )
    parser.add_argument(
        "--source-prompt", help="for flowedit: what the picture shows now; without it the model describes it itself"
    )
    options.add_drawing(parser)
    parser.add_argument("--strength", type=float, help="how far the picture may change, above 0 to 1")
    parser.add_argument(
        "--image-guidance", type=float, help="weight of the original picture, 1 to 20 (docs/editing.md)"
    )
    options.add_json(parser)
    options.add_vectors(parser)


def run(args: argparse.Namespace) -> int:
    session = open_session()
    variant = chosen_variant(session.catalog, args)
    masked = args.mask is not None
    with usage_errors():
        picture = open_picture(args.image, args.transparency)
        if args.method is not None and masked:
            check_takes_mask(args.method)
        request = EditRequest(
            prompt=args.prompt,
            image=picture,
            mask=open_mask(args.mask, picture.size) if masked else None,
            method=args.method or ("region" if masked else "variation"),
            more_images=tuple(open_picture(name, args.transparency) for name in args.also),
            **edit_settings(vars(args), variant),
        )
    require_verb(variant, "edit")
    load_model(session, args, variant)
    capabilities = session.state.capabilities
    if capabilities and args.method is None:  # only the loaded model knows its methods; its usual one comes first
        method = usual_edit_method(capabilities.edit_methods, masked, variant.title)
        request = replace(request, method=method)
    return draw_pictures(session, request, args)
