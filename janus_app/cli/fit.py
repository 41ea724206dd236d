"""`fit`: what a model needs in every precision, what is free, and what "auto" would load. Nothing is loaded."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace

from janus_app.cli import options
from janus_app.cli.common import chosen_variant, open_session
from janus_app.cli.console import UsageError, emit, usage_errors
from janus_app.errors import system_language
from janus_app.types import MAX_COUNT

SUMMARY = "Show how much memory a model needs in each precision, and what fits this machine."


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="NAME", help="a model of `models`, or a folder with a checkpoint")
    parser.add_argument("--device", default="auto", help=options.DEVICE_HELP)
    parser.add_argument("--count", type=int, help="how many pictures are drawn together (default: the model's own)")
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 1 where nothing fits."""
    from janus_app.runtime.fit import plan_load, usual_job

    session = open_session()
    variant = chosen_variant(session.catalog, args)
    job = usual_job(variant)
    if args.count is not None:
        if not 1 <= args.count <= MAX_COUNT:
            raise UsageError("cli_count_out_of_range", most=MAX_COUNT, given=args.count)
        job = replace(job, count=args.count)
    with usage_errors():
        folder, components = session.hub.status(variant).folder, session.hub.part_folders(variant)
        choices = plan_load(variant, folder, args.device, components=components, job=job)
    if not args.json:
        print(choices.message.text(system_language()))
        print(f"{'':28}{'weights':>9}{'cache':>9}{'work':>9}{'reserve':>9}{'in all':>9}{'free':>9} GB {'s/picture':>9}")
    for plan in choices.plans:
        need, best = plan.need, plan is choices.best
        if args.json:
            row = {"model": variant.id, "precision": plan.precision, "place": plan.placement.name, **asdict(need)}
            row |= {"total": need.total, "free": plan.free, "fits": plan.fits, "recommended": best}
            emit(row | {"seconds": plan.seconds})  # of a picture; null where it is not known
            continue
        sizes = (need.weights, need.cache, need.work, need.reserve, need.total, plan.free)
        verdict = "recommended" if best else "fits" if plan.fits else "does not fit"
        place = f"{plan.precision} on {plan.placement.name}"
        took = f"{plan.seconds:10.0f}" if plan.seconds else " " * 10
        print(f"  {place:26}" + "".join(f"{size / 1e9:9.2f}" for size in sizes) + f"  {took}  {verdict}")
    return 0 if choices.best else 1
