"""`generate` and `edit`: pictures written as PNG files that carry how they were made."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from janus_app.cli import flags
from janus_app.cli.console import UsageError, asking, emit, follow, say
from janus_app.cli.work import chosen, load, open_session, value
from janus_app.errors import AppError
from janus_app.outputs.image_io import open_mask, open_picture
from janus_app.outputs.metadata import INTERVAL, WHOLE_WAY, ImageMetadata, read_metadata, request_of
from janus_app.outputs.store import OutputStore
from janus_app.registry.catalog import Catalog
from janus_app.registry.types import Variant
from janus_app.runtime.session import ModelSession
from janus_app.types import EDIT_SETTINGS, MAX_SEED, SOLVERS, EditRequest, Finished, GenerateRequest, RankRequest
from janus_app.workflows.token_heatmap import drawn_on

# Given with --from, these ask for another picture; without them the recorded one is decoded again.
RESAMPLING = (
    "model",
    "prompt",
    "negative",
    "count",
    "guidance",
    "temperature",
    "steps",
    "solver",
    "guidance_interval",
    "seed",
)


def add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", help="what to draw")
    parser.add_argument(
        "--from", dest="source", metavar="PICTURE", help="draw a PNG of this app again; other flags change its settings"
    )
    parser.add_argument(
        "--keep",
        type=int,
        metavar="K",
        help="with --from: keep the first K image tokens and draw the rest anew, from --seed or the seed after its own",
    )
    parser.add_argument(
        "--best-of", type=int, metavar="N", help="draw N pictures and let the model rank them; all are kept, best first"
    )
    flags.drawing(parser)


def add_edit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", required=True, help="the picture to change")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="IMAGE",
        help="one more input picture, where the model takes several",
    )
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
    flags.drawing(parser)
    parser.add_argument("--strength", type=float, help="how far the picture may change, above 0 to 1")
    parser.add_argument("--image-guidance", type=float, help="weight of the picture as it is, 1 to 20; see docs")


def generate(args: argparse.Namespace) -> int:
    session = open_session()
    if args.best_of is not None:
        if args.count is not None:
            raise UsageError("--best-of says how many pictures to draw; leave out --count.")
        args.count = args.best_of
    if args.keep is not None and args.source is None:
        raise UsageError("--keep goes with --from: name the picture whose first image tokens are to be kept.")
    if args.source is not None:
        variant, request = _again(session.catalog, args)
    elif args.prompt is None:
        raise UsageError("Nothing to draw: give --prompt, or --from with a picture this app drew.")
    else:
        variant = chosen(session.catalog, args)
        with asking():
            request = GenerateRequest(
                prompt=args.prompt,
                negative=args.negative or "",
                count=1 if args.count is None else args.count,
                guidance=value(args, variant, "guidance", "guidance", 5.0),
                temperature=value(args, variant, "temperature", "temperature", 1.0),
                seed=args.seed or 0,
                turbo=args.turbo,
                **flow(args, variant),
            )
    able(variant, "generate")
    load(session, args, variant)
    return _draw(session, request, args)


def edit(args: argparse.Namespace) -> int:
    session = open_session()
    variant = chosen(session.catalog, args)
    method = args.method or ("region" if args.mask is not None else "variation")
    with asking():
        picture = open_picture(args.image)
        if args.method is not None and args.mask is not None and "mask" not in EDIT_SETTINGS[args.method]:
            raise AppError(f"The method {args.method!r} has no use for a mask. Leave out --mask or choose another.")
        request = EditRequest(
            prompt=args.prompt,
            image=picture,
            mask=open_mask(args.mask, picture.size) if args.mask is not None else None,
            method=method,
            negative=args.negative or "",
            count=1 if args.count is None else args.count,
            guidance=value(args, variant, "guidance", "guidance", 5.0),
            image_guidance=value(args, variant, "image_guidance", "image_guidance", 1.5),
            temperature=value(args, variant, "temperature", "temperature", 1.0),
            strength=value(args, variant, "strength", "strength", 0.6),
            seed=args.seed or 0,
            source_prompt=args.source_prompt or "",
            more_images=tuple(open_picture(name) for name in args.also),
            turbo=args.turbo,
            **flow(args, variant),
        )
    able(variant, "edit")
    load(session, args, variant)
    known = session.state.capabilities
    if known and args.method is None:  # only the loaded model says which ways it has, its usual one first
        painted = args.mask is not None
        others = [name for name in known.edit_methods if ("mask" in EDIT_SETTINGS.get(name, ())) == painted]
        if not others:
            raise AppError(f"{variant.title} cannot edit {'with' if painted else 'without'} a mask.")
        request = replace(request, method=others[0])
    return _draw(session, request, args)


def flow(args: argparse.Namespace, variant: Variant) -> dict[str, Any]:
    """What flow models are told besides; for the others these stay at values nobody reads."""
    interval = args.guidance_interval
    if interval is None:
        rows = (variant.settings.get(name) for name in INTERVAL)
        interval = tuple(row.default if row else end for row, end in zip(rows, WHOLE_WAY, strict=True))
    return {
        "steps": value(args, variant, "steps", "steps", 30),
        "solver": args.solver or next(iter(variant.solvers), SOLVERS[0]),
        "guidance_interval": interval,
    }


def able(variant: Variant, verb: str) -> None:
    if verb not in variant.verbs:
        raise UsageError(
            f"{variant.title} cannot {verb}; it can {' and '.join(variant.verbs)}. Choose another --model."
        )


def _again(catalog: Catalog, args: argparse.Namespace) -> tuple[Variant, GenerateRequest]:
    """The request of a picture's record, changed by the flags that were given."""
    with asking():
        record = read_metadata(args.source)
        request = request_of(record)
        if args.keep is not None:
            args.seed = (record.seed + 1) % MAX_SEED if args.seed is None else args.seed
            request = drawn_on(record, args.keep, args.seed)
        changes = {name for name in RESAMPLING if getattr(args, name) is not None}
        variant = recorded_variant(catalog, args, record)
        if args.keep is None and record.verb == "edit" and (changes - {"model"} or not record.image_tokens):
            raise UsageError("The picture was made by edit. Use `edit` with its picture to change the settings.")
        # The same variant named once more changes nothing; another one cannot read these tokens.
        if changes == {"model"} and variant.id == record.model:
            changes = set()
        if changes:
            given = {name: getattr(args, name) for name in changes - {"model"}}
            request = replace(request, image_tokens=request.image_tokens if args.keep is not None else (), **given)
        request = replace(request, turbo=request.turbo or args.turbo)
    if variant.id == record.model and (variant.revision or "") != record.revision:
        say("The picture was drawn with another revision of this model; the result may differ.")
    if args.precision is None:
        args.precision = record.precision
    elif args.precision != record.precision:
        say(f"The picture was drawn in {record.precision}; in {args.precision} it may differ.")
    return variant, request


def recorded_variant(catalog: Catalog, args: argparse.Namespace, record: ImageMetadata) -> Variant:
    """The variant of --model, or the one that drew the picture. Raises UsageError where that is unknown."""
    if args.model is not None:
        return catalog.resolve(args.model)
    if record.model not in catalog:  # looked up, never resolved: a record must not choose a folder
        raise UsageError(f"The picture was drawn with {record.title}, which is not in the model list. Give --model.")
    return catalog[record.model]


def _draw(session: ModelSession, request: GenerateRequest | EditRequest, args: argparse.Namespace) -> int:
    finished = follow(session.run(request))
    assert isinstance(finished, Finished)
    kept = OutputStore(args.out).save(finished)
    scores: tuple[float, ...] = ()
    if getattr(args, "best_of", None) is not None:  # after saving, so that nothing drawn is lost by a failed ranking
        ranked = follow(session.run(RankRequest(request.prompt, tuple(picture.image for picture in finished.pictures))))
        assert ranked is not None
        scores = ranked.scores
    for place in sorted(range(len(kept)), key=lambda place: -scores[place] if scores else 0):
        file, record = kept[place].file, kept[place].metadata
        if not args.json:
            print(f"{file}  {100 * scores[place]:.1f} %" if scores else file, flush=True)
            continue
        emit(
            {
                "file": str(file),
                "seed": record.seed,
                "image_tokens": list(record.image_tokens),
                "width": record.size[0],
                "height": record.size[1],
                "prompt": record.prompt,
                "model": record.model,
                "revision": record.revision,
                "precision": record.precision,
                "device": record.device,
                "settings": dict(record.settings),
                "source_prompt": record.source_prompt,
                "seconds": round(finished.compute_seconds, 3),
            }
            | ({"score": scores[place]} if scores else {})
        )
    return 0
