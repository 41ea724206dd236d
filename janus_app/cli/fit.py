"""`fit`: what a model needs in every precision, what is free, and what "auto" would load. Nothing is loaded."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace

from janus_app.cli import flags
from janus_app.cli.console import UsageError, asking, emit
from janus_app.cli.work import chosen, open_session
from janus_app.types import MAX_COUNT


def add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="NAME", help="a model of `models`, or a folder with a checkpoint")
    parser.add_argument("--device", default="auto", help=flags.DEVICE_HELP)
    parser.add_argument("--count", type=int, help="how many pictures are drawn together (default: the model's own)")
    flags.json_lines(parser)


def fit(args: argparse.Namespace) -> int:
    """Exit status 1 where nothing fits."""
    from janus_app.runtime.fit import plan_load, usual_job

    session = open_session()
    variant = chosen(session.catalog, args)
    job = usual_job(variant)
    if args.count is not None:
        if not 1 <= args.count <= MAX_COUNT:
            raise UsageError(f"--count must be a number from 1 to {MAX_COUNT}, not {args.count}.")
        job = replace(job, count=args.count)
    with asking():
        advice = plan_load(variant, session.hub.status(variant).folder, args.device, job=job)
    if not args.json:
        print(advice.sentence)
        print(f"{'':28}{'weights':>9}{'cache':>9}{'work':>9}{'reserve':>9}{'in all':>9}{'free':>9}  (GB)")
    for option in advice.options:
        need = option.need
        best = option is advice.best
        if args.json:
            row = {"model": variant.id, "precision": option.precision, "place": option.place.name, **asdict(need)}
            emit(row | {"total": need.total, "free": option.free, "fits": option.fits, "recommended": best})
            continue
        sizes = (need.weights, need.cache, need.work, need.reserve, need.total, option.free)
        verdict = "recommended" if best else "fits" if option.fits else "does not fit"
        place = f"{option.precision} on {option.place.name}"
        print(f"  {place:26}" + "".join(f"{size / 1e9:9.2f}" for size in sizes) + f"  {verdict}")
    return 0 if advice.best else 1
