"""`models`: the models to choose from, which of them are on this machine, and whether the code fits the real ones."""

from __future__ import annotations

import argparse
import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from janus_app.cli import options
from janus_app.cli.common import open_session
from janus_app.cli.console import emit
from janus_app.cli.files import ACTIONS, files
from janus_app.errors import AppError
from janus_app.formatting import size_text
from janus_app.paths import ASSETS
from janus_app.registry.types import Variant
from janus_app.runtime.session import ModelSession

SUMMARY = "List, download, verify, import, convert or delete models."
FACTS = ASSETS / "checkpoints"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="?",
        choices=("list", *ACTIONS),
        default="list",
        metavar="ACTION",
        help="list (default); download, verify, delete or convert (pickles to safetensors) the model NAME; "
        "import the folder NAME",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model of the list, or a folder")
    parser.add_argument("--yes", action="store_true", help="delete: do not ask")
    parser.add_argument("--model", metavar="MODEL", help="import: the model of the list whose files the folder holds")
    parser.add_argument("--own", metavar="TITLE", help="import: add the folder to your own models under this title")
    parser.add_argument("--copy", action="store_true", help="import: copy the files even where hard links are possible")
    parser.add_argument(
        "--check", action="store_true", help="compare the code with the tensor names and shapes of the real checkpoints"
    )
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    if args.check:
        return _check_all(args.json)
    if args.action != "list":
        return files(args)
    session = open_session()
    rows = [_row(session, variant) for variant in session.catalog.values()]
    if args.json:
        for row in rows:
            emit(row)
        return 0
    for row in rows:
        print(f"{row['id']}: {row['title']}")
        print(f"  can {', '.join(row['verbs'])}; draws {row['size'][0]} x {row['size'][1]}")
        if row["memory"]:
            print("  weights: " + ", ".join(f"{name} {size_text(size)}" for name, size in row["memory"].items()))
        print(f"  {_where(row)}")
        print(f"  {row['status']}")
    return 0


def _row(session: ModelSession, variant: Variant) -> dict[str, Any]:
    cached = session.hub.status(variant)
    return {
        "id": variant.id,
        "title": variant.title,
        "family": variant.family,
        "repo": variant.repo,
        "revision": variant.revision,
        "verbs": list(variant.verbs),
        "size": list(variant.size),
        "parameters": variant.parameters,
        "memory": dict(variant.memory),
        "licence": variant.weights_licence,
        "on_disk": bool(cached.complete),
        "bytes_on_disk": cached.on_disk + cached.converted,
        "unfinished_bytes": cached.unfinished,
        "verified": cached.verified,
        "convertible": cached.convertible,
        "download_bytes": max(0, cached.total - cached.on_disk),
        "ships_with_app": variant.is_local,
        "status": variant.status,
    }


def _where(row: Mapping[str, Any]) -> str:
    if row["ships_with_app"]:
        return "on this machine" if row["on_disk"] else "its folder is missing or incomplete"
    if not row["on_disk"]:
        here = f", {size_text(row['bytes_on_disk'])} already here" if row["bytes_on_disk"] else ""
        return f"not downloaded ({size_text(row['download_bytes'])} to fetch{here})"
    hashes = "every hash compared" if row["verified"] else "hashes not compared yet"
    pickle = "; a pickle: `models convert` makes a safetensors copy" if row["convertible"] else ""
    return f"downloaded, {size_text(row['bytes_on_disk'])}, {hashes}{pickle}"


@dataclass(frozen=True)
class Check:
    """How one checkpoint's published tensors compare with the network its config describes."""

    name: str
    revision: str
    matched: int
    unused: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[str, ...]
    parameters: int
    published_parameters: int

    @property
    def ok(self) -> bool:
        wrong = self.missing or self.unexpected or self.wrong_shape
        return bool(self.matched) and not wrong and self.parameters == self.published_parameters


def check(facts: Mapping[str, Any]) -> Check:
    """Compare a facts file (assets/checkpoints) with the network built from its config on the meta device.

    `unused` counts the tensors the network leaves aside by their prefix; `parameters` includes theirs.
    """
    from janus_app.models.registry import detect_family
    from janus_app.runtime.loader import expected_tensors

    family = detect_family(facts["config"])
    named = {family.network_name(facts["config"], name): shape for name, shape in facts["tensors"].items()}
    listed = {name: tuple(shape) for name, shape in named.items()}
    ours = expected_tensors(facts["config"])
    prefixes = family.unused_prefixes
    unused = {name for name in listed.keys() - ours.keys() if name.startswith(prefixes)}
    both = listed.keys() & ours.keys()
    wrong = sorted(name for name in both if listed[name] != tuple(ours[name]))
    counted = [*ours.values(), *(listed[name] for name in unused)]
    return Check(
        name=facts["name"],
        revision=facts["revision"],
        matched=len(both) - len(wrong),
        unused=len(unused),
        missing=tuple(sorted(ours.keys() - listed.keys())),
        unexpected=tuple(sorted(listed.keys() - ours.keys() - unused)),
        wrong_shape=tuple(wrong),
        parameters=sum(math.prod(shape) for shape in counted),
        published_parameters=facts["total_params"],
    )


def read_facts() -> list[dict[str, Any]]:
    """Config, tensor names and shapes of the real checkpoints. Raises AppError if the files are damaged."""
    try:
        facts = [json.loads(gzip.decompress(file.read_bytes())) for file in sorted(FACTS.glob("*.json.gz"))]
    except (OSError, EOFError, ValueError):
        facts = []
    if not facts:
        raise AppError("checkpoint_facts_damaged")
    return facts


def _check_all(as_json: bool) -> int:
    checks = [check(facts) for facts in read_facts()]
    for result in checks:
        if as_json:
            emit(asdict(result) | {"ok": result.ok})
            continue
        print(f"{result.name} at {result.revision[:12]}: {'OK' if result.ok else 'FAILED'}")
        print(f"  {result.matched} tensors match in name and shape, {result.unused} unused ones are left aside")
        print(f"  {result.parameters:,} parameters, published {result.published_parameters:,}")
        for what in ("missing", "unexpected", "wrong_shape"):
            names = getattr(result, what)
            print(f"  {what.replace('_', ' ')}: {len(names)}" + "".join(f"\n    {name}" for name in names[:10]))
    return 0 if all(result.ok for result in checks) else 1
