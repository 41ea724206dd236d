"""`edit`: a picture changed in a masked region, as a variation, or by an instruction."""

from __future__ import annotations

import argparse
from dataclasses import replace

from janus_app.cli import options
from janus_app.cli.common import (
    chosen_variant,
    draw_pictures,
    drawing_settings,
    load_model,
    open_session,
    require_verb,
    setting,
)
from janus_app.cli.console import usage_errors
from janus_app.errors import AppError
from janus_app.outputs.image_io import open_mask, open_picture
from janus_app.types import EDIT_SETTINGS, EditRequest

SUMMARY = "Change a picture: a masked region, or a variation of all of it."


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
    parser.add_argument("--mask", help="a picture of the same size, white where to draw anew")
    parser.add_argument("--prompt", required=True, help="what the finished picture shows")
    parser.add_argument(
        "--method",
        choices=tuple(EDIT_SETTINGS),
        help="way of editing (default: the model's first one that fits what was given; docs/editing.md)",
    )
    parser.add_argument(
        "--source-prompt", help="for flowedit: what the picture shows now; without it the model describes it itself"
    )
    options.add_drawing(parser)
    parser.add_argument("--strength", type=float, help="how far the picture may change, above 0 to 1")
    parser.add_argument("--image-guidance", type=float, help="weight of the picture as it is, 1 to 20; see docs")
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    session = open_session()
    variant = chosen_variant(session.catalog, args)
    masked = args.mask is not None
    with usage_errors():
        picture = open_picture(args.image, args.transparency)
        if args.method is not None and masked and "mask" not in EDIT_SETTINGS[args.method]:
            raise AppError("edit_method_ignores_mask", method=args.method)
        request = EditRequest(
            prompt=args.prompt,
            image=picture,
            mask=open_mask(args.mask, picture.size) if masked else None,
            method=args.method or ("region" if masked else "variation"),
            image_guidance=setting(args, variant, "image_guidance", 1.5),
            strength=setting(args, variant, "strength", 0.6),
            source_prompt=args.source_prompt or "",
            more_images=tuple(open_picture(name, args.transparency) for name in args.also),
            **drawing_settings(args, variant),
        )
    require_verb(variant, "edit")
    load_model(session, args, variant)
    capabilities = session.state.capabilities
    if capabilities and args.method is None:  # only the loaded model knows its methods; its usual one comes first
        fitting = [name for name in capabilities.edit_methods if ("mask" in EDIT_SETTINGS.get(name, ())) == masked]
        if not fitting:
            raise AppError("edit_mask_unsupported" if masked else "edit_needs_mask", title=variant.title)
        request = replace(request, method=fitting[0])
    return draw_pictures(session, request, args)
