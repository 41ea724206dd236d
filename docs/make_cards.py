"""Write what benchmarks.quality measured into the cards of the demo models and the tables of both READMEs.

    python -m benchmarks.quality --model janus-embedded --n 50 --json > janus.jsonl
    python docs/make_cards.py janus.jsonl [more.jsonl]

Counts of the same model, precision and metric are added up: pieces of a measurement, of other prompts each.
A card's part between "## Measured" and "**Limitations.**" is replaced: read the limitations again.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.quality import interval  # noqa: E402
from benchmarks.running import default_settings  # noqa: E402
from janus_app.registry.catalog import load_catalog  # noqa: E402
from janus_app.registry.types import Variant  # noqa: E402

READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
SIDES = ("seen", "held-out")
DRAWINGS = {
    "object": "drawing: right objects",
    "colour": "right objects and colours",
    "count": "right counts",
    "place": "right places, where the prompt names one",
    "background": "right background",
    "all": "**everything right at once**",
}
QUESTIONS = {
    "all questions": "questions, all types",
    "background": "what the background is",
    "size": "how large something is",
    "colour": "what colour something has",
    "where": "where something is",
    "yes or no": "yes or no",
    "count": "how many there are",
    "what": "a complete list of objects",
    "relation": "what is next to an object",
    "compare": "which of two pictures",
}
KINDS = ("recolour", "replace", "remove", "add", "move", "background")
EDITS = {
    "instruct": "by instruction",
    "region": "of a region",
    "masked": "in a mask",
    "image to image": "from the noised picture",
    "flowedit": "by prompts before and after",
}
Found = dict[tuple[str, str], tuple[float, int, float, float]]


def measured(row: Variant, precisions: dict[str, Found]) -> str:
    """The part of a card."""
    found = precisions["fp32"]
    right, n, low, high = found["generate", "all, seen"]
    numbers = default_settings(row)
    said = ", ".join(f"{name} {numbers[name]:g}" for name in ("steps", "guidance", "temperature") if name in numbers)
    intro = (
        f"`python -m benchmarks.quality --model {row.id} --n {n}`, float32, the model's default settings ({said}),\n"
        'fixed seeds that training never uses. "Held-out" are (object, colour) pairs, and orders of two objects, that\n'
        "never occurred in training. "
        f"Of {n} pictures, {right:.0f} % means between {low:.0f} and {high:.0f} % (95 % interval)."
    )
    rows = [*_two_sided(found, "generate", DRAWINGS), *_two_sided(found, "chat", QUESTIONS)]
    tables = ["\n".join(("| | seen | held-out |", "|---|---|---|", *rows)), *_edits(found)]
    if len(precisions) > 1:
        tables.append(_compared(precisions))
    return "\n\n".join((intro, *tables))


def _two_sided(found: Found, verb: str, names: dict[str, str]) -> Iterator[str]:
    for metric, title in names.items():
        values = [found.get((verb, f"{metric}, {side}")) for side in SIDES]
        if values[0] is not None:
            yield f"| {title} | " + " | ".join(f"{v[0]:.0f} % ({v[1]})" if v else "" for v in values) + " |"


def _edits(found: Found) -> Iterator[str]:
    for method, how in EDITS.items():
        both = found.get(("edit", f"{method}: both"))
        if both is None:
            continue
        lines = [f"| edits {how} | change made | rest kept |", "|---|---|---|"]
        for kind in KINDS:
            made, kept = (found.get(("edit", f"{method}, {kind}: {what}")) for what in ("change made", "rest kept"))
            if made and kept:
                lines.append(f"| {kind} ({made[1]}) | {made[0]:.0f} % | {kept[0]:.0f} % |")
        lines.append(f"| **both at once, all kinds** ({both[1]}) | **{both[0]:.0f} %** | |")
        yield "\n".join(lines)


def _compared(precisions: dict[str, Found]) -> str:
    """Seen and held-out shares in every precision."""
    lines = [f"| seen / held-out | {' | '.join(precisions)} |", "|---|" + "---|" * len(precisions)]
    for verb, metric, title in (
        ("generate", "all", DRAWINGS["all"]),
        ("chat", "all questions", QUESTIONS["all questions"]),
    ):
        shares = [" / ".join(f"{f[verb, f'{metric}, {side}'][0]:.0f}" for side in SIDES) for f in precisions.values()]
        lines.append(f"| {title} | {' | '.join(f'{share} %' for share in shares)} |")
    for method, how in EDITS.items():
        both = [f.get(("edit", f"{method}: both")) for f in precisions.values()]
        if all(both):
            lines.append(f"| edits {how}, both at once | {' | '.join(f'{one[0]:.0f} %' for one in both if one)} |")
    return "\n".join(lines)


def figures(found: Found) -> str:
    """The columns of a model in the READMEs' table."""
    names = [("generate", "all, seen"), ("generate", "all, held-out"), ("edit", "instruct: both")]
    names += [("chat", "all questions, seen"), ("chat", "all questions, held-out")]
    return " | ".join(f"{found[name][0]:.0f} %" if name in found else "-" for name in names)


def added_up(files: list[str]) -> dict[str, dict[str, Found]]:
    """The shares in the files by variant and precision, with what is in several files added up."""
    lines = (line for file in files for line in Path(file).read_text("utf-8").splitlines() if line.startswith("{"))
    counts: Counter[tuple[str, ...]] = Counter()
    right: Counter[tuple[str, ...]] = Counter()
    for one in map(json.loads, lines):
        key = tuple(one[part] for part in ("variant", "precision", "verb", "metric"))
        counts[key] += one["n"]
        right[key] += round(one["value"] * one["n"] / 100)
    results: dict[str, dict[str, Found]] = {}
    for (variant, precision, *metric), n in counts.items():
        hits = right[variant, precision, *metric]
        found = results.setdefault(variant, {}).setdefault(precision, {})
        found[metric[0], metric[1]] = (100 * hits / n, n, *interval(hits, n))
    return results


def main() -> None:
    catalog = load_catalog()
    for name, precisions in added_up(sys.argv[1:]).items():
        row = catalog[name]
        assert row.folder is not None
        card = row.folder / "README.md"
        before, rest = card.read_text("utf-8").split("## Measured\n", 1)
        after = rest[rest.index("**Limitations.**") :]
        card.write_text(f"{before}## Measured\n\n{measured(row, precisions)}\n\n{after}", "utf-8")
        title = re.escape(row.title.removesuffix(" embedded"))
        for readme in READMES:
            line = re.compile(rf"^(\| \[?{title}\b[^|\d]*\|) [^|]*%.*$", re.MULTILINE)
            text, changed = line.subn(rf"\1 {figures(precisions['fp32'])} |", readme.read_text("utf-8"))
            assert changed == 1, (readme, name, changed)
            readme.write_text(text, "utf-8")
        print(card.relative_to(ROOT))


if __name__ == "__main__":
    main()
